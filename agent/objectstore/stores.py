"""The buckets of an account: create, open, bring to a declared shape, list, delete.

A bucket is created for one reason only: the server has said that its stream doesn't exist (10059). Anything else, a
time-out above all, is an error: an "ensure" that creates after a failed look has hidden real losses (PROTOCOL 4, 21).

Features are asked for by the server's version, and believed only when the server's echo has them: older servers ignore
what they don't know. What was asked for and not heeded is in `Bucket.warnings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from agent.errors import BucketError, BucketExistsError, BucketNotFoundError, NotABucketError, StoreError
from agent.objectstore import spec as shapes
from agent.objectstore import subjects
from agent.objectstore.bucket import Bucket
from agent.objectstore.spec import BucketSpec, BucketStatus

if TYPE_CHECKING:
    from agent.objectstore.connection import Connection

TIMEOUT = 10.0


class Ensured(NamedTuple):
    """The bucket, and what was done to it, in words; no changes: it had its shape already."""

    bucket: Bucket
    changes: list[str]


class Buckets:
    """The buckets that a connection reaches: those of its account, in its JetStream domain."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def bind(self, name: str) -> Bucket:
        """An existing bucket. Raises BucketNameError, BucketNotFoundError, NotABucketError."""
        return await Bucket.bind(self.connection, name)

    async def create(self, name: str, spec: BucketSpec | None = None) -> Bucket:
        """Make a bucket. Raises BucketNameError, BucketExistsError, StoreFullError, BucketError."""
        spec = spec or BucketSpec()
        subjects.check_bucket_name(name)
        try:
            await self.bind(name)
        except BucketNotFoundError:
            return await self._create(name, spec)
        except NotABucketError:
            pass
        raise BucketExistsError(f"there is a stream {subjects.stream_name(name)} already")

    async def ensure(self, name: str, spec: BucketSpec, *, may_create: bool) -> Ensured:
        """A declared bucket, as it is declared: made (if `may_create`) or changed where it differs.

        Raises BucketNotFoundError when it isn't there and may not be made; BucketError, before anything was changed,
        when it can't be brought to this shape.
        """
        try:
            bucket = await self.bind(name)
        except BucketNotFoundError as error:
            if not may_create:
                raise BucketNotFoundError(
                    f"bucket {name!r} is not there any more",
                    remedy="restore it, or make it again on purpose (`jetsync bucket apply`)",
                ) from error
            try:
                return Ensured(await self._create(name, spec), ["created"])
            except BucketExistsError:  # somebody else was faster: theirs is brought to shape
                bucket = await self.bind(name)
        changes = await self._shape(bucket, spec)
        bucket.warnings = tuple(shapes.unheeded(spec, bucket.config))
        return Ensured(bucket, changes)

    async def delete(self, name: str) -> None:
        """Delete the bucket with everything in it, a sealed one too. Raises BucketNotFoundError, NotABucketError."""
        bucket = await self.bind(name)
        await self.connection.api(f"STREAM.DELETE.{bucket.stream}", what=f"delete bucket {name!r}", timeout=TIMEOUT)

    async def names(self) -> list[str]:
        """The names of all buckets, mirrors too."""
        return [status.name for status in await self.list()]

    def _version(self) -> tuple[int, int, int] | None:
        """Of the server that will have a new stream; None when a JetStream domain hides it."""
        return None if self.connection.domain else self.connection.server_version

    async def _create(self, name: str, spec: BucketSpec) -> Bucket:
        config = shapes.new_config(name, spec, version=self._version(), domain=self.connection.domain)
        try:
            answer = await self.connection.api(
                f"STREAM.CREATE.{config['name']}", config, what=f"create bucket {name!r}", timeout=TIMEOUT
            )
        except BucketError as error:
            raise _with_remedy(error, spec) from error
        bucket = Bucket(self.connection, name, answer)
        if shapes.transforms_missing(bucket.config, name):
            await self.delete(name)  # just made by us, and empty
            raise BucketError(
                f"bucket {name!r} can't be a mirror under another name: the server ignores subject_transforms",
                remedy="give the mirror its origin's name, or use a newer server (2.10)",
            )
        bucket.warnings = tuple(shapes.unheeded(spec, bucket.config))
        if self._version() is None and spec.mirror is None and bucket.server_version >= shapes.ATOMIC:
            await self._shape(bucket, BucketSpec())  # behind a domain the version is known only now
        return bucket

    async def _shape(self, bucket: Bucket, spec: BucketSpec) -> list[str]:
        version = bucket.server_version
        config, changes = shapes.changed_config(
            bucket.config, bucket.name, spec, version=version, domain=self.connection.domain
        )
        if not changes:
            return []
        before = dict(bucket.config)
        try:
            answer = await self.connection.api(
                f"STREAM.UPDATE.{bucket.stream}", config, what=f"change bucket {bucket.name!r}", timeout=TIMEOUT
            )
        except StoreError as error:
            if isinstance(error, BucketError):
                raise _with_remedy(error, spec, changes) from error
            raise
        bucket.learn(answer)
        return [change for change in changes if _applied(change, before, bucket.config)]

    async def list(self) -> list[BucketStatus]:
        """All buckets by name, mirrors too (they have no subjects: a filter by subject wouldn't find them)."""
        found: dict[str, BucketStatus] = {}
        offset = 0
        while True:
            answer = await self.connection.api(
                "STREAM.LIST", {"offset": offset}, what="list the buckets", timeout=TIMEOUT
            )
            page = answer.get("streams") or []
            for info in page:
                try:
                    status = shapes.status_of(info)
                except NotABucketError:
                    continue
                found[status.name] = status
            offset += len(page)
            if not page or offset >= answer.get("total", 0):
                return [found[name] for name in sorted(found)]


def _applied(change: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether the echo has the change: a server that doesn't know a key leaves it as it was."""
    key = change.partition(":")[0]
    return before.get(key) != after.get(key)


def _with_remedy(error: BucketError, spec: BucketSpec, changes: list[str] | None = None) -> BucketError:
    """What a person can do about a configuration that the server has refused."""
    if error.remedy:
        return error
    if changes:
        return type(error)(
            f"{error.message} (the change was: {'; '.join(changes)})",
            remedy="change the declaration, or make a new bucket and copy the objects",
        )
    remedy = "check storage, replicas (a single server has one), placement, and the account's limits"
    if spec.mirror is not None:
        remedy = "check that the mirror's domain and origin are right"
    return type(error)(error.message, remedy=remedy)
