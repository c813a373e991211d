"""Bounds on what runs at once: a token bucket for bytes per second, and budgets for transfers and bytes in flight.

`transfers` counts files of more than one chunk. Smaller files are bounded by the bytes they hold in memory and by a
count, so that ten thousand of them keep the connection full without ten thousand tasks. Time is the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")

# Small objects in flight at once: PROTOCOL section 7 reached its best figures with 128.
SMALL_AT_ONCE = 128
SMALL_BYTES = 32 << 20
# Lots of small files at once: one on the disk while others are on the wire.
LOTS_AT_ONCE = 3
# Files up to this size are read or written whole, in one thread hop, and are one chunk on the wire.
SMALL = 128 << 10
# Files over this size go on where they stopped; their chunks carry ids (DESIGN section 6).
RESUMED = 8 << 20
# Under a rate limit a lot is sent in portions of so many seconds.
PORTION_SECONDS = 0.1


class RateLimiter:
    """At most `rate` bytes per second on average, with a burst of one second; 0 = no limit."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._ready = 0.0

    async def take(self, size: int) -> None:
        """Wait until `size` more bytes may pass."""
        if not self.rate:
            return
        now = asyncio.get_running_loop().time()
        start = max(self._ready, now - 1.0)
        self._ready = start + size / self.rate
        if self._ready > now:
            await asyncio.sleep(self._ready - now)

    def portions(self, items: Sequence[T], size_of: Callable[[T], int]) -> Iterator[Sequence[T]]:
        """What may pass at once, so that a lot doesn't come as one burst after a long silence. All, without a limit."""
        if not self.rate:
            yield items
            return
        portion: list[T] = []
        size = 0
        for item in items:
            if portion and size + size_of(item) > self.rate * PORTION_SECONDS:
                yield portion
                portion, size = [], 0
            portion.append(item)
            size += size_of(item)
        if portion:
            yield portion


class Budget:
    """A semaphore for sizes: `use(n)` waits until n of `total` are free. One request larger than all takes all."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiters: asyncio.Condition = asyncio.Condition()

    @asynccontextmanager
    async def use(self, size: int) -> AsyncIterator[None]:
        size = min(size, self._total)
        async with self._waiters:
            await self._waiters.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            async with self._waiters:
                self._waiters.notify_all()


class Limits:
    """All bounds of one mapping."""

    def __init__(self, *, transfers: int, upload: int, download: int) -> None:
        self.upload = RateLimiter(upload)
        self.download = RateLimiter(download)
        self.workers = SMALL_AT_ONCE
        self._transfers = asyncio.Semaphore(transfers)
        self._small = Budget(SMALL_BYTES)
        self._lots = asyncio.Semaphore(LOTS_AT_ONCE)

    @asynccontextmanager
    async def transfer(self, size: int) -> AsyncIterator[None]:
        """Hold the place that a transfer of `size` bytes needs."""
        if size > SMALL:
            async with self._transfers:
                yield
        else:
            async with self._small.use(size):
                yield

    @asynccontextmanager
    async def lot(self, size: int) -> AsyncIterator[None]:
        """Hold the place that a lot of small files needs, `size` bytes in all."""
        async with self._lots, self._small.use(size):
            yield
