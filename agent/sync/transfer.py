"""Contents between the disk and the store: small files whole, in one thread hop each way; large ones as streams.

An upload reads the file through a descriptor whose state must be the row's signature before the first and after the
last byte, and its digest must be the row's: only then is the meta published (a source that raises at its end makes
`put` purge its chunks). So a file that changes while it is read is never published torn. A download is staged beside
its target, verified by digest, and exchanged with the target under the row's expectation.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Mapping

from agent.core.entries import Entry, Local, Row
from agent.directory import Directory
from agent.errors import DigestError, StaleError
from agent.objectstore import Bucket, ObjectInfo
from agent.sync.limits import SMALL, Limits

BLOCK = 1 << 20


class Transfer:
    """Moves the contents of one mapping, within its limits."""

    def __init__(self, *, directory: Directory, bucket: Bucket, limits: Limits) -> None:
        self._directory = directory
        self._bucket = bucket
        self._limits = limits

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
        async with self._limits.transfer(entry.size):
            if entry.size <= SMALL:
                source: bytes | AsyncIterator[bytes] = await asyncio.to_thread(self._read_small, path, local, entry)
                await self._limits.upload.take(entry.size)
            else:
                source = self._blocks(path, local, entry)
            return await self._bucket.put(
                name,
                source,
                metadata=dict(metadata),
                expected_revision=expected_revision,
                nuid=nuid,
                size=entry.size,
                purge_old=False,
            )

    async def download(self, row: Row, entry: Entry, info: ObjectInfo, *, keep_as: str | None) -> Local:
        """Fetch the object and put it at the row's path; returns the local side as read back.

        :raises DigestError, ChunksError: the object is damaged; nothing was changed
        :raises StaleError: the path isn't what the row says any more; nothing was changed
        """
        executable = entry.executable
        async with self._limits.transfer(entry.size):
            await self._limits.download.take(min(entry.size, SMALL))
            if entry.size <= SMALL:
                data = await self._bucket.get_bytes(info)
                return await asyncio.to_thread(self._write_small, row, entry, data, executable, keep_as)
            return await self._stream(row, entry, info, executable, keep_as)

    # -- blocking parts, in a thread -----------------------------------------------------------------------------

    def _read_small(self, path: str, local: Local, entry: Entry) -> bytes:
        assert local.signature is not None
        with self._directory.open_read(path, local.signature) as file:
            data: bytes = file.read()
            file.confirm()
        if hashlib.sha256(data).digest() != entry.digest:
            raise StaleError(f"{path}: the content changed while the file's times did not")
        return data

    def _write_small(self, row: Row, entry: Entry, data: bytes, executable: bool | None, keep_as: str | None) -> Local:
        with self._directory.stage(row.path) as staged:
            staged.write(data)
            staged.finish(executable=executable, mtime_ns=entry.mtime_ns)
            _check(row.path, staged.digest, entry)
            return self._directory.put_file(row.path, staged, row.local, keep_as=keep_as).local

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

    async def _stream(
        self, row: Row, entry: Entry, info: ObjectInfo, executable: bool | None, keep_as: str | None
    ) -> Local:
        staged = await asyncio.to_thread(self._directory.stage, row.path)
        try:
            async with self._bucket.get(info) as reader:
                async for block in reader:
                    await self._limits.download.take(len(block))
                    await asyncio.to_thread(staged.write, block)
            await asyncio.to_thread(staged.finish, executable=executable, mtime_ns=entry.mtime_ns)
            _check(row.path, staged.digest, entry)
            put = functools.partial(self._directory.put_file, row.path, staged, row.local, keep_as=keep_as)
            return (await asyncio.to_thread(put)).local
        finally:
            await asyncio.to_thread(staged.discard)


def _check(path: str, digest: bytes, entry: Entry) -> None:
    if digest != entry.digest:
        raise DigestError(f"{path}: the bytes don't have the digest that the object promises", remedy="put it again")
