"""put and get for what people have at hand: files, bytes, strings."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from agent.objectstore.get import Reader
from agent.objectstore.meta import ObjectInfo
from agent.objectstore.put import put, uninterrupted

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

_WRITE_BACK = 8 << 20


async def put_bytes(bucket: Bucket, name: str, data: bytes, **options: Any) -> ObjectInfo:
    """Store bytes. Options and errors as put()."""
    return await put(bucket, name, data, **options)


async def put_string(bucket: Bucket, name: str, text: str, **options: Any) -> ObjectInfo:
    """Store text as UTF-8. Options and errors as put()."""
    return await put(bucket, name, text.encode(), **options)


async def put_file(bucket: Bucket, path: Path | str, name: str | None = None, **options: Any) -> ObjectInfo:
    """Store a file's content, under its path as given unless `name` says otherwise. OSError when it can't be read.

    No lock is held while it is read: a file that changes meanwhile is stored as it was read.
    """
    return await put(bucket, name if name is not None else str(path), Path(path), **options)


async def get_bytes(bucket: Bucket, source: str | ObjectInfo, *, follow_links: bool = True) -> bytes:
    """The whole object in memory, verified. Errors as Reader."""
    async with Reader(bucket, source, follow_links=follow_links) as reader:
        return await reader.read()


async def get_string(bucket: Bucket, source: str | ObjectInfo, *, follow_links: bool = True) -> str:
    """The whole object as UTF-8 text. Errors as Reader; UnicodeDecodeError."""
    return (await get_bytes(bucket, source, follow_links=follow_links)).decode()


async def get_file(
    bucket: Bucket, source: str | ObjectInfo, path: Path | str, *, follow_links: bool = True
) -> ObjectInfo:
    """Write the object to a file: whole and verified under its name, or not at all; an existing file is replaced.

    The bytes go to a temporary file in the same directory, are flushed to disk, and renamed. Errors as Reader; OSError.
    """
    target = Path(path)
    staged = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.part")
    file: BinaryIO = await asyncio.to_thread(staged.open, "xb", buffering=0)
    try:
        try:
            async with Reader(bucket, source, follow_links=follow_links) as reader:
                begun = 0
                async for group in reader.groups():
                    begun = await uninterrupted(asyncio.to_thread(_write_all, file, group, begun))
                info = reader.info
            await uninterrupted(asyncio.to_thread(os.fsync, file.fileno()))
        finally:
            file.close()
        staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    await asyncio.to_thread(_sync_directory, target.parent)
    return info


def _write_all(file: BinaryIO, blocks: list[bytes], begun: int) -> int:
    """Append; what is before `begun` is on its way to the device already. Returns how far that is true now."""
    for block in blocks:
        view = memoryview(block)
        while view:
            view = view[file.write(view) :]
    written = file.tell()
    if written - begun < _WRITE_BACK:
        return begun
    # The kernel begins to write what is dirty of a range that nobody needs in memory: fsync has less to wait for.
    os.posix_fadvise(file.fileno(), begun, written - begun, os.POSIX_FADV_DONTNEED)
    return written


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
