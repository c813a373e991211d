"""When the configuration file is another one than it was: by looking at what is in it.

What wakes us is only a hint: an event in the file's directory (an editor that renames a new file into place; the
`..data` link of a Kubernetes ConfigMap, which is swapped), or LOOK_SECONDS, for what gives no event there: a file that
is a link to another directory, a mount of the file alone, a network file system, a kernel without watches to spare.
The file is then read, and another content has come to rest when it is the same for SETTLE_SECONDS; a file that isn't
there, which is how some editors and tools begin, gets MISSING_SECONDS to come back.

The directory is watched by its name, not where its links lead, and nothing below it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from agent.config.load import digest
from agent.directory import HintBuffer, Watcher
from agent.errors import RootError

LOOK_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 0.25
MISSING_SECONDS: Final = 2.0
# Between two looks, however many events a busy directory has.
_PAUSE: Final = 0.1


class ConfigWatch:
    """An async context manager. seen: the digest of the file that is known (`config.load.Loaded`)."""

    def __init__(
        self, path: Path, seen: str, *, digest_of: Callable[[Path], str] = digest, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._path = path
        self._seen = seen
        self._digest_of = digest_of
        self._look_seconds = look_seconds
        self._wake = asyncio.Event()
        self._asked = False
        self._watcher: Watcher | None = None
        self._hints = HintBuffer(self._wake_loop)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        watcher = Watcher(
            Path.cwd() / self._path.parent, self._hints.add, poll_interval=self._look_seconds, ignore=lambda _: True
        )
        with suppress(RootError):  # it is looked for all the same
            await asyncio.to_thread(watcher.start)
            self._watcher = watcher
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.stop)

    def _wake_loop(self) -> None:
        """In the watcher's thread."""
        self._loop.call_soon_threadsafe(self._hear)

    def _hear(self) -> None:
        self._hints.drain()
        self._wake.set()

    def ask(self) -> None:
        """Somebody wants the file to be read, changed or not."""
        self._asked = True
        self._wake.set()

    async def next(self) -> None:
        """Until the file is another one, and at rest; or until somebody has asked."""
        while True:
            now = await self._look()
            if self._asked:
                self._asked = False
                self._seen = now
                return
            if now != self._seen:
                self._seen = await self._at_rest(now)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._wake.wait()
            if not self._asked:
                await asyncio.sleep(_PAUSE)
            self._wake.clear()

    async def _at_rest(self, now: str) -> str:
        since = time.monotonic()
        while not self._asked:
            await asyncio.sleep(SETTLE_SECONDS)
            before, now = now, await self._look()
            if now != before:
                since = time.monotonic()
            elif now or time.monotonic() - since >= MISSING_SECONDS:
                return now
        self._asked = False
        return now

    async def _look(self) -> str:
        return await asyncio.to_thread(self._digest_of, self._path)
