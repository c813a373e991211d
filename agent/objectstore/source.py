"""What an upload reads: bytes, a file, a path, or an async iterable; hashed on the way, and cut into exact chunks.

Files are read and hashed in one hop to a thread per MiB, and the next block is read while the last one is sent: hashlib
and read() release the GIL, so both run beside the event loop. Blocks are never copied when the chunk size divides them;
a chunk is then a view of its block.

`again` says whether the source can be read a second time from its start: an upload whose chunks came into doubt is
then simply begun anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterable, AsyncIterator
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO, Protocol

BLOCK = 1 << 20
_HASH_INLINE = 1 << 16
_UNINTERESTED = 2.0  # seconds that a cancelled upload waits for its reading thread

Block = bytes | memoryview
SourceLike = (
    bytes
    | bytearray
    | memoryview
    | Path
    | BinaryIO
    | AsyncIterable[bytes]
    | AsyncIterable[bytes | bytearray | memoryview]
)


class Digest(Protocol):
    def update(self, data: Any, /) -> None: ...
    def digest(self) -> bytes: ...


class Source(Protocol):
    """`size`: bytes as far as known before reading; None when not. `again`: blocks() may be called more than once."""

    size: int | None
    again: bool

    def blocks(self, digest: Digest) -> AsyncIterator[Block]:
        """The bytes in order; each block has been, or is being, added to the digest when the iteration ends."""
        ...


def source_of(source: SourceLike) -> Source:
    """Raises TypeError for what can't be read."""
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesSource(source)
    if isinstance(source, Path):
        return PathSource(source)
    if isinstance(source, AsyncIterable):
        return StreamSource(source)
    if hasattr(source, "read"):  # callers without type checks come here too
        return FileSource(source)
    raise TypeError(f"can't upload a {type(source).__name__}: give bytes, a Path, a binary file or an async iterable")


class BytesSource:
    again = True

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data: Block = data if isinstance(data, bytes) else memoryview(data).cast("B")
        self.size: int | None = len(self.data)

    async def blocks(self, digest: Digest) -> AsyncIterator[Block]:
        if len(self.data) <= _HASH_INLINE:
            digest.update(self.data)
            yield self.data
            return
        loop = asyncio.get_running_loop()
        view = memoryview(self.data)
        for start in range(0, len(view), BLOCK):
            block = view[start : start + BLOCK]
            hashing = loop.run_in_executor(None, digest.update, block)
            try:
                yield block
            finally:
                await _finish(hashing)


class StreamSource:
    again = False
    size: int | None = None

    def __init__(self, stream: AsyncIterable[bytes | bytearray | memoryview]) -> None:
        self._stream = stream

    async def blocks(self, digest: Digest) -> AsyncIterator[Block]:
        loop = asyncio.get_running_loop()
        iterator = aiter(self._stream)
        try:
            async for given in iterator:
                # Its owner may fill a buffer that can change again, while chunks of it are still in flight.
                block = given if isinstance(given, bytes) else bytes(given)
                if len(block) <= 4 * _HASH_INLINE:
                    digest.update(block)
                    yield block
                    continue
                hashing = loop.run_in_executor(None, digest.update, block)
                try:
                    yield block
                finally:
                    await _finish(hashing)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()


class FileSource:
    """An open binary file, read from its present position. It is not closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start: int | None = None
        self.size: int | None = None
        try:
            self._start = file.tell() if file.seekable() else None
            if self._start is not None:
                self.size = max(0, os.fstat(file.fileno()).st_size - self._start)
        except (OSError, AttributeError, ValueError):
            pass  # not a file of the system (BytesIO, a pipe, a wrapper): the size shows at the end
        self.again = self._start is not None
        self._begun = False

    async def blocks(self, digest: Digest) -> AsyncIterator[Block]:
        if self._begun and self._start is not None:
            self._file.seek(self._start)
        self._begun = True
        loop = asyncio.get_running_loop()

        def read() -> bytes:
            block: bytes = self._file.read(BLOCK)
            digest.update(block)
            return block

        reading = loop.run_in_executor(None, read)
        try:
            while block := await asyncio.shield(reading):
                reading = loop.run_in_executor(None, read)
                yield block
        finally:
            # The caller may close the file as soon as we are gone.
            await _finish(reading)


class PathSource:
    again = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size: int | None = os.stat(path).st_size

    async def blocks(self, digest: Digest) -> AsyncIterator[Block]:
        file = await asyncio.to_thread(self._path.open, "rb", buffering=0)
        try:
            async with aclosing(FileSource(file).blocks(digest)) as blocks:  # type: ignore[type-var]
                async for block in blocks:
                    yield block
        finally:
            file.close()


async def _finish(work: asyncio.Future[Any] | Future[Any]) -> None:
    """Wait for a thread's work, also when cancelled; but not for ever for one that hangs in a read."""
    future = asyncio.wrap_future(work) if isinstance(work, Future) else work
    if future.done():
        if not future.cancelled():
            future.exception()  # told by whoever awaits it; here it is only seen
        return
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future], timeout=_UNINTERESTED)
        raise


async def cut(blocks: AsyncIterator[Block], size: int) -> AsyncIterator[Block]:
    """The same bytes in pieces of exactly `size`; only the last may be shorter. Nothing for no bytes."""
    rest: list[Block] = []
    held = 0
    async for block in blocks:
        view = memoryview(block)
        start = 0
        if held:
            start = min(size - held, len(view))
            rest.append(bytes(view[:start]))
            held += start
            if held < size:
                continue
            yield b"".join(rest)
            rest, held = [], 0
        whole = start + (len(view) - start) // size * size
        if start == 0 and whole == len(view) == size:
            yield block
            continue
        for at in range(start, whole, size):
            yield view[at : at + size]
        if whole < len(view):
            rest.append(bytes(view[whole:]))
            held = len(view) - whole
    if held:
        yield rest[0] if len(rest) == 1 else b"".join(rest)


def new_digest() -> Digest:
    return hashlib.sha256()
