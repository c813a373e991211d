"""Contents between the disk and the store: small files whole, in one thread hop each way or for a lot of them (`lots`);
large ones as streams.

An upload reads the file through a descriptor whose state must be the row's signature before the first and after the
last byte, and its digest must be the row's: only then is the meta published (a source that raises at its end makes
`put` purge its chunks). So a file that changes while it is read is never published torn. A download is staged beside
its target, verified by digest, and exchanged with the target under the row's expectation.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence

from agent.core.entries import Entry, Local, Row
from agent.directory import Directory, Staged
from agent.errors import JetsyncError, StaleError
from agent.objectstore import Bucket, ObjectInfo
from agent.sync.limits import SMALL, Limits
from agent.sync.lots import Disk, check_digest, only

BLOCK = 1 << 20


class Transfer:
    """Moves the contents of one mapping, within its limits."""

    def __init__(self, *, directory: Directory, bucket: Bucket, limits: Limits) -> None:
        self._directory = directory
        self._bucket = bucket
        self._limits = limits
        self.disk = Disk(directory)

    async def upload(
        self,
        path: str,
        local: Local,
        name: str,
        metadata: Mapping[str, str],
        *,
        expected_revision: int,
        nuid: str | None,
        content: bytes | None = None,
    ) -> ObjectInfo:
        """Store the file as `name`. content: what was read of it as part of a lot; the lot holds its place then.

        :raises StaleError: the file isn't what the row says any more; nothing is visible
        :raises RevisionError: the name isn't what the row says any more
        """
        entry = local.side
        assert isinstance(entry, Entry)
        if content is not None:
            await self._limits.upload.take(entry.size)
            return await self._put(name, content, metadata, entry, expected_revision=expected_revision, nuid=nuid)
        async with self._limits.transfer(entry.size):
            if entry.size <= SMALL:
                content = only(await asyncio.to_thread(self.disk.read, [(path, local, entry)]))
                await self._limits.upload.take(entry.size)
            source = content if content is not None else self._blocks(path, local, entry)
            return await self._put(name, source, metadata, entry, expected_revision=expected_revision, nuid=nuid)

    async def _put(
        self,
        name: str,
        source: bytes | AsyncIterator[bytes],
        metadata: Mapping[str, str],
        entry: Entry,
        *,
        expected_revision: int,
        nuid: str | None,
    ) -> ObjectInfo:
        return await self._bucket.put(
            name,
            source,
            metadata=metadata,
            expected_revision=expected_revision,
            nuid=nuid,
            size=entry.size,
            purge_old=False,
        )

    async def download(self, row: Row, entry: Entry, bucket: Bucket, info: ObjectInfo, *, keep_as: str | None) -> Local:
        """Fetch the object from its bucket and put it at the row's path; returns the local side as read back.

        :raises DigestError, ChunksError: the object is damaged; nothing was changed
        :raises StaleError: the path isn't what the row says any more; nothing was changed
        """
        async with self._limits.transfer(entry.size):
            await self._limits.download.take(min(entry.size, SMALL))
            if entry.size <= SMALL:
                data = await self._fetch(bucket, info)
                return only(await asyncio.to_thread(self.disk.write, [(row, entry, data)], keep_as=keep_as))
            return await self._stream(row, entry, bucket, info, keep_as)

    # -- lots ----------------------------------------------------------------------------------------------------

    async def read_lot(self, items: Sequence[tuple[str, Local, Entry]]) -> list[bytes | JetsyncError]:
        """Read the small files of a lot; each is put by `upload` then."""
        return await asyncio.to_thread(self.disk.read, items)

    async def download_lot(self, items: Sequence[tuple[Row, Entry, ObjectInfo]]) -> list[Local | JetsyncError]:
        """Fetch the small objects of a lot, and put them at their rows' paths."""
        fetched: list[tuple[Row, Entry, bytes] | JetsyncError] = [StaleError("not fetched")] * len(items)

        async def fetch(at: int, row: Row, entry: Entry, info: ObjectInfo) -> None:
            try:
                await self._limits.download.take(entry.size)
                fetched[at] = (row, entry, await self._fetch(self._bucket, info))
            except JetsyncError as error:
                fetched[at] = error

        async with asyncio.TaskGroup() as group:
            for at, item in enumerate(items):
                group.create_task(fetch(at, *item), name=f"fetch {item[0].path}")
        return await asyncio.to_thread(self.disk.write, fetched)

    async def _fetch(self, bucket: Bucket, info: ObjectInfo) -> bytes:
        """A small object whole; its digest is checked where it is staged."""
        async with bucket.get(info, verify=False) as reader:
            return await reader.read()

    # -- streams -------------------------------------------------------------------------------------------------

    async def _blocks(self, path: str, local: Local, entry: Entry) -> AsyncIterator[bytes]:
        assert local.signature is not None
        file = await asyncio.to_thread(self._directory.open_read, path, local.signature)
        digest = hashlib.sha256()

        def read() -> bytes:
            block: bytes = file.read(BLOCK)
            digest.update(block)
            return block

        try:
            while block := await asyncio.to_thread(read):
                await self._limits.upload.take(len(block))
                yield block
            await asyncio.to_thread(file.confirm)
        finally:
            file.close()
        if digest.digest() != entry.digest:
            raise StaleError(f"{path}: the content changed while the file's times did not")

    async def _stream(self, row: Row, entry: Entry, bucket: Bucket, info: ObjectInfo, keep_as: str | None) -> Local:
        staged = await asyncio.to_thread(self._directory.stage, row.path)
        try:
            async with bucket.get(info, verify=False) as reader:
                async for blocks in reader.groups():
                    await self._limits.download.take(sum(map(len, blocks)))
                    await asyncio.to_thread(_write_all, staged, blocks)
            await asyncio.to_thread(staged.finish, executable=entry.executable, mtime_ns=entry.mtime_ns)
            check_digest(row.path, staged.digest, entry)
            put = functools.partial(self._directory.put_file, row.path, staged, row.local, keep_as=keep_as)
            return (await asyncio.to_thread(put)).local
        finally:
            await asyncio.to_thread(staged.discard)


def _write_all(staged: Staged, blocks: list[bytes]) -> None:
    for block in blocks:
        staged.write(block)
