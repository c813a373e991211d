"""Links: metas without content that name another object, or a whole bucket (ADR-20 "Links", PROTOCOL 3f).

Links are by name: they follow their target through overwrites, dangle when it is deleted or renamed, and can form
loops, since the check at their making is only a check then. So resolving counts its steps, remembers where it has been,
and reports what it meets as LinkError. In a mirror, a link into the origin bucket is resolved in the mirror itself: the
origin may be out of reach, and the mirror has the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.errors import (
    BadMetaError,
    BucketError,
    BucketNotFoundError,
    LinkError,
    ObjectExistsError,
    ObjectNameError,
    ObjectNotFoundError,
    RevisionError,
    StoreError,
)
from agent.objectstore import chunks, objects, subjects
from agent.objectstore.commit import commit
from agent.objectstore.meta import Link, ObjectInfo
from agent.objectstore.put import uninterrupted

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

DEPTH = 8


async def add_link(
    bucket: Bucket,
    name: str,
    target: ObjectInfo | Link,
    *,
    description: str = "",
    metadata: Mapping[str, str] | None = None,
    expected_revision: int | None = None,
    purge_old: bool = True,
) -> ObjectInfo:
    """Make `name` a link to an object (or, `target` a Link without name, to a bucket).

    Without `expected_revision`: over nothing, a marker, or another link, as ADR-20 has it; a regular object there is an
    ObjectExistsError. With it: over whatever is at that revision; the chunks of a regular object that was there are
    purged, unless `purge_old` is False.

    Raises LinkError when the target is deleted or is a link itself (known only for an ObjectInfo), RevisionError,
    UnknownOutcomeError.
    """
    bucket.require_writable()
    link = _link_to(target)
    if link.bucket == bucket.name and link.name == name:
        raise LinkError(f"{bucket.name}/{name} can't be a link to itself")
    for attempt in range(1, objects.ATTEMPTS + 1):
        there = await _there(bucket, name, expected_revision)
        info = ObjectInfo(
            bucket.name, name, subjects.new_nuid(), description=description, metadata=metadata or {}, link=link
        )
        try:
            return await uninterrupted(_replace(bucket, info, there, purge_old=purge_old))
        except RevisionError:
            if expected_revision is not None or attempt == objects.ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def _replace(bucket: Bucket, info: ObjectInfo, there: ObjectInfo | None, *, purge_old: bool) -> ObjectInfo:
    made = await commit(bucket, info, expected_revision=there.revision if there is not None else 0)
    if there is not None and there.nuid and there.chunks and purge_old:
        await _purge_quietly(bucket, there.nuid)
    return made


async def resolve(bucket: Bucket, info: ObjectInfo, *, depth: int = DEPTH) -> tuple[Bucket, ObjectInfo]:
    """Follow object links to the object that has the content, in whatever bucket; returns it with its bucket.

    An object that is no link is returned as it is. Raises LinkError: dangling, a loop, more than `depth` steps, or a
    bucket link on the way; StoreUnavailableError.
    """
    seen: set[tuple[str, str]] = {(bucket.name, info.name)}
    start = f"{bucket.name}/{info.name}"
    for _ in range(depth + 1):
        link = info.link
        if link is None:
            return bucket, info
        if link.name is None:
            raise LinkError(f"{start} leads to the bucket {link.bucket!r}, not to an object")
        bucket = await _bucket_of(bucket, link, start)
        if (bucket.name, link.name) in seen:
            raise LinkError(f"the links from {start} form a loop", remedy="put an object in place of one of them")
        seen.add((bucket.name, link.name))
        try:
            info = await objects.read(bucket, link.name)
        except (ObjectNotFoundError, ObjectNameError, BadMetaError) as error:
            raise LinkError(
                f"{start} leads to {bucket.name}/{link.name}, which is not there: {error.message}",
                remedy="put the target again, or delete the link",
            ) from error
    raise LinkError(f"{start} is more than {depth} links away from an object")


async def _bucket_of(bucket: Bucket, link: Link, start: str) -> Bucket:
    if link.bucket in (bucket.name, bucket.origin):
        return bucket
    try:
        return await type(bucket).bind(bucket.connection, link.bucket)
    except (BucketNotFoundError, BucketError) as error:
        raise LinkError(
            f"{start} leads to the bucket {link.bucket!r}, which can't be opened: {error.message}"
        ) from error


def _link_to(target: ObjectInfo | Link) -> Link:
    if isinstance(target, ObjectInfo):
        if target.deleted:
            raise LinkError(f"{target.bucket}/{target.name} is deleted: it can't be linked to")
        if target.link is not None:
            raise LinkError(f"{target.bucket}/{target.name} is a link itself", remedy="link to its target")
        target = Link(target.bucket, target.name)
    subjects.check_bucket_name(target.bucket)
    if target.name is not None:
        subjects.check_name(target.name)
    return target


async def _there(bucket: Bucket, name: str, expected_revision: int | None) -> ObjectInfo | None:
    """What the link will replace. With the precondition 0 nothing has to be read: the server checks it."""
    if expected_revision == 0:
        return None
    try:
        there = await objects.read_any(bucket, name)
    except BadMetaError:
        if expected_revision is None:
            raise
        return ObjectInfo(bucket.name, name, revision=expected_revision)
    actual = there.revision if there is not None else 0
    if expected_revision is not None and actual != expected_revision:
        raise RevisionError(
            f"{bucket.name}/{name} is at revision {actual}, not {expected_revision}", actual=actual, remedy="look again"
        )
    if expected_revision is None and there is not None and not there.deleted and there.link is None:
        raise ObjectExistsError(
            f"there is an object {name!r} in bucket {bucket.name!r}", remedy="delete it, or give its revision"
        )
    return there


async def _purge_quietly(bucket: Bucket, nuid: str) -> None:
    try:
        await chunks.purge(bucket, nuid)
    except StoreError:
        pass  # the link is made; what is left are orphan chunks, which `verify` finds
