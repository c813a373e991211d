"""Waiting until a tree has changed and come to rest: what `trigger: on-change` publishes after.

A hint from the watcher (a directory) or a new meta (a bucket) says that something may be different. Then QUIET_SECONDS
without another one are waited for, PATIENCE_SECONDS at most: a tree that never rests is published all the same, since
publishing itself sees whether it was at rest while it was read. Without any hint it is time again after RESCAN_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent.directory import Watcher
from agent.errors import JetsyncError
from agent.objectstore import Bucket

QUIET_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
RESCAN_SECONDS = 600.0


class Changes:
    """`stirred` is set by whoever has seen something; `wait` comes back when it is time to look."""

    def __init__(self) -> None:
        self.stirred = asyncio.Event()

    async def wait(self) -> None:
        """Until something has changed and is quiet again, or RESCAN_SECONDS have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RESCAN_SECONDS):
                await self.stirred.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self.stirred.is_set():
                    self.stirred.clear()
                    await asyncio.sleep(QUIET_SECONDS)
        self.stirred.clear()


@asynccontextmanager
async def of_directory(path: Path) -> AsyncIterator[Changes]:
    """Changes of a directory. Whatever happens after this has begun stirs.

    :raises RootError: it isn't there
    """
    changes = Changes()
    loop = asyncio.get_running_loop()

    def hint(_path: str) -> None:
        loop.call_soon_threadsafe(changes.stirred.set)

    watcher = Watcher(path, hint)
    try:
        await asyncio.to_thread(watcher.start)
        yield changes
    finally:
        await asyncio.to_thread(watcher.stop)


@asynccontextmanager
async def of_bucket(bucket: Bucket) -> AsyncIterator[Changes]:
    """Changes of a bucket, by its metas; all prefixes count."""
    changes = Changes()
    after = await bucket.newest_revision()

    async def listen() -> None:
        try:
            async with bucket.follow(after=after, created=bucket.created) as follower:
                async for batch in follower:
                    if batch.metas:
                        changes.stirred.set()
        except JetsyncError:
            changes.stirred.set()  # whoever looks now is told why

    listening = asyncio.create_task(listen(), name=f"changes {bucket.name}")
    try:
        yield changes
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
