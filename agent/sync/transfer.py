"""Contents between the disk and the store: small files whole, in one thread hop each way or for a lot of them (`lots`);
large ones as streams.

An upload reads the file through a descriptor whose state must be the row's signature before the first and after the
last byte (`OpenFile` sees to it), and what `put` has hashed on the way must be the row's digest: only then is the meta
published. So a file that changes while it is read is never published torn. A download is staged beside
its target, verified by digest, and exchanged with the target under the row's expectation.

What is over 8 MiB goes on where it stopped, within a run and after a restart: an upload behind the chunks that are
stored under its journalled nuid (`resume` finds that), a download behind the bytes of its partial staged file, which
are hashed again. If the digest of the whole is wrong then, it is begun anew, once.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence

from agent.core.entries import Entry, Local, Row
from agent.directory import Contents, Directory, OpenFile, Partial, Reservation, Staged
from agent.errors import ChunksError, DigestError, JetsyncError, StaleError, StoreUnavailableError
from agent.objectstore import Bucket, ObjectInfo, Position, Prefix, SmallObject, SpoiledError, uninterrupted
from agent.sync.limits import RESUMED, SMALL, Limits
from agent.sync.lots import Disk, check_digest, only

REHASH = 16 << 20


class Transfer:
    """Moves the contents of one mapping, within its limits."""

    def __init__(
        self, *, directory: Directory, bucket: Bucket, limits: Limits, contents: Contents | None = None
    ) -> None:
        self._directory = directory
        self._bucket = bucket
        self._limits = limits
        self._space = directory.space
        self.disk = Disk(directory, contents)

    async def upload(
        self,
        path: str,
        local: Local,
        name: str,
        metadata: Mapping[str, str],
        *,
        expected_revision: int,
        nuid: str | None,
    ) -> ObjectInfo:
        """Store the file as `name`.

        :raises StaleError: the file isn't what the row says any more; nothing is visible
        :raises RevisionError: the name isn't what the row says any more
        """
        entry = local.side
        assert isinstance(entry, Entry)
        content: bytes | None = None
        async with self._limits.transfer(entry.size):
            if entry.size <= SMALL:
                content = only(await asyncio.to_thread(self.disk.read, [(path, local, entry)]))
                await self._limits.upload.take(entry.size)
                return await self._put(name, content, metadata, entry, expected_revision=expected_revision, nuid=nuid)
            assert local.signature is not None
            resume = await self._stored(path, nuid, entry.size)
            file = await asyncio.to_thread(self._directory.open_read, path, local.signature)
            try:
                return await self._put(
                    name, file, metadata, entry, expected_revision=expected_revision, nuid=nuid, resume=resume
                )
            except (SpoiledError, ChunksError, DigestError) as error:
                # Either the chunks that are stored aren't the file's (the next attempt needs another nuid), or the
                # file isn't the row's.
                raise StaleError(f"{path}: {error.message}") from error
            finally:
                file.close()

    async def _stored(self, path: str, nuid: str | None, size: int) -> Prefix:
        """What an earlier attempt has stored under the nuid.

        :raises StaleError: it isn't the beginning of the object: the nuid is of no use any more
        """
        if nuid is None or size <= RESUMED:
            return Prefix()
        prefix = await self._bucket.stored_prefix(nuid, size=size)
        if prefix is None:
            raise StaleError(f"{path}: what was stored of it can't be gone on with")
        return prefix

    async def _put(
        self,
        name: str,
        source: bytes | OpenFile,
        metadata: Mapping[str, str],
        entry: Entry,
        *,
        expected_revision: int,
        nuid: str | None,
        resume: Prefix | None = None,
    ) -> ObjectInfo:
        return await self._bucket.put(
            name,
            source,
            metadata=metadata,
            expected_revision=expected_revision,
            nuid=nuid,
            size=entry.size,
            digest=entry.digest,
            purge_old=False,
            keep=nuid is not None and entry.size > RESUMED,
            resume=resume,
            pace=self._limits.upload.take if not isinstance(source, bytes) else None,
        )

    async def download(self, row: Row, entry: Entry, bucket: Bucket, info: ObjectInfo, *, keep_as: str | None) -> Local:
        """Fetch the object from its bucket and put it at the row's path; returns the local side as read back.

        :raises DigestError, ChunksError: the object is damaged; nothing was changed
        :raises StaleError: the path isn't what the row says any more; nothing was changed
        """
        async with self._limits.transfer(entry.size):
            if entry.size <= SMALL:
                self._space.check(entry.size)
                await self._limits.download.take(entry.size)
                data = await self._fetch(bucket, info)
                return only(await asyncio.to_thread(self.disk.write, [(row, entry, data)], keep_as=keep_as))
            staged = await self._receive(row.path, entry, bucket, info)
            try:
                return await uninterrupted(asyncio.to_thread(self._finish, row, entry, staged, keep_as))
            finally:
                await asyncio.to_thread(staged.discard)

    # -- lots ----------------------------------------------------------------------------------------------------

    async def read_lot(self, items: Sequence[tuple[str, Local, Entry]]) -> list[bytes | JetsyncError]:
        """Read the small files of a lot; `put_lot` sends them."""
        return await asyncio.to_thread(self.disk.read, items)

    async def put_lot(self, objects: Sequence[SmallObject]) -> list[int | JetsyncError]:
        """Store the small objects of a lot: the revision of each, or why there is none."""
        results: list[int | JetsyncError] = []
        for part in self._limits.upload.portions(objects, lambda one: len(one.data)):
            await self._limits.upload.take(sum([len(one.data) for one in part]))
            try:
                results += await self._bucket.put_many(part)
            except JetsyncError as error:
                results += [error] * len(part)
        return results

    async def download_lot(self, items: Sequence[tuple[Row, Entry, ObjectInfo]]) -> list[Local | JetsyncError]:
        """Fetch the small objects of a lot, and put them at their rows' paths."""
        try:
            self._space.check(sum(entry.size for _, entry, _ in items))
        except JetsyncError as error:
            return [error] * len(items)
        fetched: list[tuple[Row, Entry, bytes] | JetsyncError] = []
        for part in self._limits.download.portions(items, lambda item: item[1].size):
            await self._limits.download.take(sum([entry.size for _, entry, _ in part]))
            contents = await self._bucket.get_many([info for _, _, info in part])
            for (row, entry, _), content in zip(part, contents, strict=True):
                fetched.append(content if isinstance(content, JetsyncError) else (row, entry, content))
        return await asyncio.to_thread(self.disk.write, fetched)

    async def _fetch(self, bucket: Bucket, info: ObjectInfo) -> bytes:
        """A small object whole; its digest is checked where it is staged."""
        async with bucket.get(info, verify=False) as reader:
            return await reader.read()

    # -- streams -------------------------------------------------------------------------------------------------

    async def _receive(self, path: str, entry: Entry, bucket: Bucket, info: ObjectInfo) -> Staged:
        """A staged file with all bytes of the object, not yet verified."""
        if entry.size > RESUMED and info.chunks > 1:
            key = f"{bucket.name}\n{bucket.created}\n{info.nuid}\n{info.size}\n{info.chunks}"
            stage = functools.partial(self._directory.stage_partial, path, key=key, digest=entry.digest)
            partial = await asyncio.to_thread(stage)
            if partial is not None:
                return await self._go_on(partial, entry, bucket, info)
        with self._space.reserve(entry.size, path) as room:
            staged = await asyncio.to_thread(self._directory.stage, path)
            try:
                async with bucket.get(info, verify=False) as reader:
                    async for blocks in reader.groups():
                        await self._limits.download.take(sum(map(len, blocks)))
                        await uninterrupted(asyncio.to_thread(_write_all, staged, blocks, room))
            except BaseException:
                await asyncio.to_thread(staged.discard)
                raise
            return staged

    async def _go_on(self, partial: Partial, entry: Entry, bucket: Bucket, info: ObjectInfo) -> Partial:
        """Receive what the partial lacks. It is kept when the store is away or we are cancelled; else it is removed."""
        try:
            resumed = partial.mark.size
            with self._space.reserve(entry.size - resumed, partial.path) as room:
                try:
                    await self._fill(partial, bucket, info, room)
                    if resumed:
                        check_digest(partial.path, partial.digest_so_far, entry)
                except (DigestError, ChunksError):
                    if not resumed:
                        raise
                    await asyncio.to_thread(partial.restart)
                    await self._fill(partial, bucket, info, room)
        except (StoreUnavailableError, asyncio.CancelledError):
            partial.keep()
            raise
        except BaseException:
            await asyncio.to_thread(partial.discard)
            raise
        return partial

    async def _fill(self, partial: Partial, bucket: Bucket, info: ObjectInfo, room: Reservation) -> None:
        mark = partial.mark
        while mark.size and not await uninterrupted(asyncio.to_thread(partial.rehash, REHASH)):
            pass
        start = Position(mark.chunks, mark.size, mark.seq) if mark.size else None
        async with bucket.get(info, verify=False, start=start) as reader:
            async for blocks in reader.groups():
                position = reader.position
                await self._limits.download.take(sum(map(len, blocks)))
                await uninterrupted(asyncio.to_thread(_write_marked, partial, blocks, position, room))

    # Threads that write a staged file are waited for also when we are cancelled: its descriptor is closed then.

    def _finish(self, row: Row, entry: Entry, staged: Staged, keep_as: str | None) -> Local:
        """In a thread: complete the staged file, verify it, and put it in place."""
        staged.finish(executable=entry.executable, mtime_ns=entry.mtime_ns)
        check_digest(row.path, staged.digest, entry)
        return self._directory.put_file(row.path, staged, row.local, keep_as=keep_as).local


def _write_all(staged: Staged, blocks: list[bytes], room: Reservation) -> None:
    room.write(sum(map(len, blocks)))
    for block in blocks:
        staged.write(block)


def _write_marked(partial: Partial, blocks: list[bytes], position: Position, room: Reservation) -> None:
    _write_all(partial, blocks, room)
    partial.note(chunks=position.chunks, seq=position.seq)
