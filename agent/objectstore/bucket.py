"""One bucket. A thin class: each operation is a function in a module of its own, with the story of its mechanism.

    info, list, names_count, chunk_...   reading        objects, listing, chunks
    put, get, follow                     data           put, get, follow, files
    update_meta, delete, rename          metas          objects, rename
    add_link, add_bucket_link, resolve   links          links
    status, seal                         the bucket     spec, stores

Every write has a precondition, `expected_revision`: None = whatever is there, 0 = nothing is there (never written, or
purged), n = exactly this revision. A delete marker has a revision too: creating over one needs it. A precondition that
fails raises RevisionError; a write whose answer never came raises UnknownOutcomeError (see `commit`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from agent.errors import BucketError, NotABucketError, SealedError
from agent.objectstore import subjects
from agent.objectstore.connection import parse_version

if TYPE_CHECKING:
    from agent.objectstore.connection import Connection


class Bucket:
    """Made by `Buckets.bind`, `ensure` or `create`. `config` is the stream's as it was then; `status` refreshes it."""

    def __init__(self, connection: Connection, name: str, stream_info: dict[str, Any]) -> None:
        self.connection = connection
        self.name = name
        self.stream = subjects.stream_name(name)
        self.config: dict[str, Any] = {}
        self.created = ""
        """When the stream was created, as the server says it: the bucket's identity."""
        self.warnings: tuple[str, ...] = ()
        """What `ensure` has asked for, but this server doesn't do."""
        self.learn(stream_info)

    @classmethod
    async def bind(cls, connection: Connection, name: str) -> Self:
        """The existing bucket. Raises BucketNameError, BucketNotFoundError, NotABucketError."""
        subjects.check_bucket_name(name)
        info = await connection.api(f"STREAM.INFO.{subjects.stream_name(name)}", what=f"open bucket {name!r}")
        return cls(connection, name, info)

    def learn(self, stream_info: dict[str, Any]) -> None:
        """Take over the configuration from a STREAM.INFO, CREATE or UPDATE answer. Raises NotABucketError."""
        config = stream_info.get("config")
        if not isinstance(config, dict) or not is_bucket(config):
            raise NotABucketError(
                f"the stream {self.stream} is not an object store", remedy="its subjects are not those of a bucket"
            )
        self.config = config
        self.created = str(stream_info.get("created", ""))

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def has_ttl(self) -> bool:
        return bool(self.config.get("max_age"))

    @property
    def sealed(self) -> bool:
        return self.config.get("sealed") is True

    @property
    def atomic(self) -> bool:
        """Whether the server takes atomic batches for this bucket (2.12+, `allow_atomic` echoed)."""
        return self.config.get("allow_atomic") is True

    @property
    def direct(self) -> bool:
        """Whether direct gets are answered (any replica answers them: never for a precondition)."""
        return self.config.get("allow_direct") is True

    @property
    def origin(self) -> str | None:
        """The bucket that this one is a mirror of; None when it is no mirror."""
        mirror = self.config.get("mirror")
        if not isinstance(mirror, dict):
            return None
        return str(mirror.get("name", "")).removeprefix("OBJ_")

    @property
    def server_version(self) -> tuple[int, int, int]:
        """Of the server that has the stream, as far as it is known: servers from 2.11 tell it in the stream's metadata.

        Without that: the connected server's, or (2, 10, 0) at most when a JetStream domain lies between us and it.
        """
        metadata = self.config.get("metadata")
        told = parse_version(str(metadata.get("_nats.ver", ""))) if isinstance(metadata, dict) else (0, 0, 0)
        if told != (0, 0, 0):
            return told
        if self.connection.domain:
            return min(self.connection.server_version, (2, 10, 0))
        return self.connection.server_version

    def require_writable(self) -> None:
        """Raises SealedError, or BucketError for a mirror: a write to one would land in its origin (PROTOCOL 3e)."""
        if self.sealed:
            raise SealedError(f"bucket {self.name!r} is sealed", remedy="a sealed bucket can't be changed any more")
        if self.origin is not None:
            raise BucketError(
                f"bucket {self.name!r} is a mirror of {self.origin!r}: it can't be written",
                remedy="write to its origin; use a pull mode for the mirror",
            )

    def __repr__(self) -> str:
        return f"Bucket({self.name!r})"


def is_bucket(config: dict[str, Any]) -> bool:
    """Whether a stream's configuration is that of an Object Store bucket, or of a mirror or copy of one."""
    name = config.get("name")
    if not isinstance(name, str) or not name.startswith("OBJ_"):
        return False
    if config.get("mirror") or config.get("sources"):
        return True
    bucket = name.removeprefix("OBJ_")
    listed = config.get("subjects") or ()
    return f"$O.{bucket}.>" in listed or (
        subjects.all_chunks(bucket) in listed and subjects.all_metas(bucket) in listed
    )
