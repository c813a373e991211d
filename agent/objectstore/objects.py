"""Reading, changing and deleting one object's meta.

Reads go to the stream's leader (STREAM.MSG.GET): a direct get may be answered by a replica that is behind, which would
make every precondition based on it a guess.

Writes are read-modify-write: the meta as it is, changed, committed on the revision that was read. Without a
precondition of the caller's this is tried again when somebody else was faster, so that a change of the description
never undoes another client's change of the content; with one, the first difference is a RevisionError. nats-py's
update_meta drops `metadata`, and its delete marker is unreadable for Go (PROTOCOL 2); these do neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.errors import BadMetaError, ObjectNotFoundError, RevisionError, StoreError
from agent.objectstore import chunks, meta, subjects
from agent.objectstore.commit import commit, newest
from agent.objectstore.meta import ObjectInfo
from agent.objectstore.put import uninterrupted

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

ATTEMPTS = 5
"""How often an unconditional change is tried against other writers before their RevisionError is ours."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted: its nuid and number of chunks. revision: the marker's. purged: the chunks are gone."""

    revision: int
    nuid: str
    chunks: int
    purged: bool


async def read(bucket: Bucket, name: str, *, show_deleted: bool = False) -> ObjectInfo:
    """The object's meta from the leader. Raises ObjectNotFoundError (also for a marker, unless `show_deleted`),
    BadMetaError."""
    found = await read_any(bucket, name)
    if found is None or (found.deleted and not show_deleted):
        raise ObjectNotFoundError(f"there is no object {name!r} in bucket {bucket.name!r}")
    return found


async def read_any(bucket: Bucket, name: str) -> ObjectInfo | None:
    """The object's meta, or its marker, or None when there is no message. Raises BadMetaError."""
    try:
        stored = await newest(bucket, subjects.meta_subject(bucket.name, name))
    except ObjectNotFoundError:
        return None
    return meta.decode(stored.data, bucket=bucket.name, name=name, revision=stored.revision, time_ns=stored.time_ns)


async def expect(bucket: Bucket, name: str, revision: int | None) -> ObjectInfo:
    """The live object that a write starts from. Raises RevisionError when it isn't at `revision` (if given), else
    ObjectNotFoundError when there is none."""
    found = await read_any(bucket, name)
    actual = found.revision if found is not None else 0
    if revision is not None and actual != revision:
        raise RevisionError(
            f"{bucket.name}/{name} is at revision {actual}, not {revision}",
            actual=actual,
            remedy="look again: somebody else wrote first",
        )
    if found is None or found.deleted:
        raise ObjectNotFoundError(f"there is no object {name!r} in bucket {bucket.name!r}")
    return found


def changed(
    info: ObjectInfo,
    *,
    description: str | None,
    headers: Mapping[str, list[str]] | None,
    metadata: Mapping[str, str] | None,
) -> ObjectInfo:
    """The info with what is given; None leaves a field as it is."""
    return replace(
        info,
        description=info.description if description is None else description,
        headers=info.headers if headers is None else headers,
        metadata=info.metadata if metadata is None else metadata,
    )


async def update_meta(
    bucket: Bucket,
    name: str,
    *,
    description: str | None = None,
    headers: Mapping[str, list[str]] | None = None,
    metadata: Mapping[str, str] | None = None,
    expected_revision: int | None = None,
) -> ObjectInfo:
    """Change description, headers or metadata (each replaced as a whole; None leaves it). Content and nuid stay.

    Raises ObjectNotFoundError, RevisionError, UnknownOutcomeError, BadMetaError.
    """
    bucket.require_writable()
    for attempt in range(1, ATTEMPTS + 1):
        before = await expect(bucket, name, expected_revision)
        after = changed(before, description=description, headers=headers, metadata=metadata)
        try:
            return await commit(bucket, after, expected_revision=before.revision)
        except RevisionError:
            if expected_revision is not None or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def delete(
    bucket: Bucket,
    name: str,
    *,
    expected_revision: int | None = None,
    purge: bool = True,
    known: ObjectInfo | None = None,
) -> Deleted:
    """Write a delete marker over the object, then (`purge`) remove its chunks.

    `known`: the object as the caller has seen it; saves reading it, and its revision is then the precondition. A purge
    that fails leaves `purged` False: the object is deleted all the same, its chunks are orphans. A cancellation waits
    until both are done.

    Raises ObjectNotFoundError when there is nothing to delete and no precondition; RevisionError; UnknownOutcomeError.
    """
    bucket.require_writable()
    for attempt in range(1, ATTEMPTS + 1):
        target = known if known is not None else await _target(bucket, name, expected_revision)
        try:
            return await uninterrupted(_mark_and_purge(bucket, target, purge=purge))
        except RevisionError:
            if expected_revision is not None or known is not None or attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def _mark_and_purge(bucket: Bucket, target: ObjectInfo, *, purge: bool) -> Deleted:
    marker = meta.marker(replace(target, bucket=bucket.name), nuid=subjects.new_nuid())
    written = await commit(bucket, marker, expected_revision=target.revision)
    purged = await _purge(bucket, target) if purge else False
    return Deleted(written.revision, target.nuid, target.chunks, purged)


async def _target(bucket: Bucket, name: str, expected_revision: int | None) -> ObjectInfo:
    """What to delete. An object whose meta is broken can be deleted too: its nuid is not known then."""
    try:
        return await expect(bucket, name, expected_revision)
    except BadMetaError:
        stored = await newest(bucket, subjects.meta_subject(bucket.name, name))
        if expected_revision is not None and stored.revision != expected_revision:
            raise RevisionError(
                f"{bucket.name}/{name} is at revision {stored.revision}", actual=stored.revision
            ) from None
        return ObjectInfo(bucket.name, name, revision=stored.revision)


async def _purge(bucket: Bucket, info: ObjectInfo) -> bool:
    if not info.nuid or not info.chunks:
        return True
    try:
        await chunks.purge(bucket, info.nuid)
    except StoreError:
        return False
    return True
