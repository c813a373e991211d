"""Is a path what its row says, byte for byte? The reading half of `verify`; nothing is changed here.

A file is read through a descriptor that has the row's signature before the first and after the last byte, so a digest
that differs is damage, and anything else a change that the watcher tells. An object is read by the row's nuid, and its
meta read again when something is wrong: only a meta of the row's revision was damaged, another one is a change.

    Good        read to its end, and right
    Damaged     read, and wrong
    Unsure      it changed, or couldn't be read just now: look at the row again, later
    Unreadable  it can't be read, and that isn't about to change
    None        there is nothing to read on that side: absent, a link, a directory, left out on purpose
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from agent.core.entries import Entry, Kind, Obstacle, Reason, Row
from agent.directory import Directory
from agent.errors import (
    ChunksError,
    DigestError,
    JetsyncError,
    LinkError,
    ObjectNotFoundError,
    PathError,
    RevisionError,
    StaleError,
    StoreUnavailableError,
)
from agent.objectstore import Bucket, ObjectInfo
from agent.sync.rehash import digest_of
from agent.sync.remote import Scope, remote_of

# What a row may say already: that the content isn't what it should be.
_DAMAGED_FILE = frozenset({Reason.BAD_DIGEST})
_DAMAGED_OBJECT = frozenset({Reason.BAD_DIGEST, Reason.MISSING_CHUNKS, Reason.BAD_META, Reason.BROKEN_LINK})


@dataclass(frozen=True, slots=True)
class Good:
    """promised: of an object, what its meta says that it is."""

    promised: Entry | None = None


@dataclass(frozen=True, slots=True)
class Damaged:
    why: str
    promised: Entry | None = None


@dataclass(frozen=True, slots=True)
class Unsure:
    why: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    why: str


Finding = Good | Damaged | Unsure | Unreadable | None


class Checker:
    """Reads the two sides of rows. local_read, remote_read: awaited with the number of bytes, after each block."""

    def __init__(
        self,
        *,
        directory: Directory,
        bucket: Bucket,
        scope: Callable[[], Scope],
        local_read: Callable[[int], Awaitable[None]],
        remote_read: Callable[[int], Awaitable[None]],
    ) -> None:
        self._directory = directory
        self._bucket = bucket
        self._scope = scope
        self._local_read = local_read
        self._remote_read = remote_read

    async def file(self, row: Row) -> Finding:
        """Read the local side."""
        local = row.local
        if local is None:
            return None
        if isinstance(local.side, Obstacle):
            return _told(local.side, _DAMAGED_FILE)
        if local.side.kind is not Kind.FILE:
            return None
        if local.signature is None:
            return Unsure("its times aren't known")
        try:
            digest = await digest_of(self._directory, row.path, local.signature, pause=self._local_read)
        except StaleError as error:
            return Unsure(error.message)
        except PathError as error:
            return Unreadable(error.message)
        except JetsyncError as error:
            return Unsure(error.message)
        if digest != local.side.digest and local.racy:
            return Unsure("it was written again just after it was read")
        if digest != local.side.digest:
            return Damaged("its content isn't what it was, while its size and times are")
        return Good()

    async def object(self, row: Row) -> Finding:
        """Read the remote side."""
        remote = row.remote
        if remote is None or remote.side is None:
            return None
        if isinstance(remote.side, Obstacle):
            return await self._damaged_object(row, remote.side)
        if remote.side.kind is not Kind.FILE:
            return None
        try:
            bucket, info = await self._source(row, remote.side)
            await self._read(bucket, info)
        except (ChunksError, DigestError, LinkError) as error:
            return await self._confirmed(row, remote.side, error)
        except (StoreUnavailableError, RevisionError, ObjectNotFoundError) as error:
            return Unsure(error.message)
        except JetsyncError as error:
            return Unreadable(error.message)
        return Good(remote.side)

    async def _damaged_object(self, row: Row, told: Obstacle) -> Finding:
        """The row says that the object is damaged. It may have become whole again without a new meta."""
        if told.reason not in (Reason.BAD_DIGEST, Reason.MISSING_CHUNKS):
            return _told(told, _DAMAGED_OBJECT)
        assert row.remote is not None
        try:
            info = await self._bucket.info(self._scope().name_of(row.path))
        except JetsyncError as error:
            return Unsure(error.message)
        remote = remote_of(info, row.path, self._scope())
        if info.revision != row.revision or remote.via_link or not isinstance(remote.side, Entry):
            return Unsure("its meta is a newer one")
        return await self.object(replace(row, remote=remote))

    async def _source(self, row: Row, entry: Entry) -> tuple[Bucket, ObjectInfo]:
        """What to read: the object, or what a link that leads out of the mapping resolves to."""
        name = self._scope().name_of(row.path)
        remote = row.remote
        assert remote is not None
        if not remote.via_link:
            return self._bucket, ObjectInfo(
                self._bucket.name, name, remote.nuid, entry.size, remote.chunks, entry.digest, revision=remote.revision
            )
        bucket, info = await self._bucket.resolve(await self._bucket.info(name))
        if info.digest != entry.digest:
            raise DigestError(f"{name}: the link's target isn't what the link promised", remedy="publish it again")
        return bucket, info

    async def _read(self, bucket: Bucket, info: ObjectInfo) -> None:
        async with bucket.get(info) as reader:
            async for blocks in reader.groups():
                await self._remote_read(sum(map(len, blocks)))
        # The only chunk is read as the last one of its nuid: another one before it shows by the count alone.
        if info.chunks == 1 and (count := await bucket.chunk_count(info.nuid)) != 1:
            raise ChunksError(f"{bucket.name}/{info.name} has {count} chunks stored, not 1", remedy="put it again")

    async def _confirmed(self, row: Row, promised: Entry, error: JetsyncError) -> Finding:
        """Something is wrong with what was read; with the object only if it still is the one of the row."""
        try:
            info = await self._bucket.info(self._scope().name_of(row.path))
        except JetsyncError as trouble:
            return Unsure(trouble.message)
        if info.revision != row.revision:
            return Unsure("its meta is a newer one")
        return Damaged(str(error), promised)


def _told(obstacle: Obstacle, damage: frozenset[Reason]) -> Finding:
    if obstacle.reason.skipped:
        return None
    text = obstacle.detail or obstacle.reason.value
    return Damaged(text) if obstacle.reason in damage else Unreadable(text)
