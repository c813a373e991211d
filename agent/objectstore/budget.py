"""A number of bytes that many transfers share.

Senders wait for their share, first come first served; what they hold is freed by acks, so nobody waits for ever.
Readers never wait: they ask for more than their minimum only when it is there (`take`), since a reader frees its share
only when its own user consumes, which may take any time.
"""

from __future__ import annotations

import asyncio
from collections import deque


class ByteBudget:
    """`acquire` and `take` reduce `free`, `release` gives back. A request larger than the whole gets the whole."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, count: int) -> None:
        """Wait until `count` bytes are free and take them. One that is larger than the budget waits for an idle one."""
        if not self._queue and self._fits(count):
            self.free -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (count, turn)
        self._queue.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(count)  # it was ours already
            else:
                if entry in self._queue:
                    self._queue.remove(entry)
                self._serve()
            raise

    def take(self, count: int) -> bool:
        """Take `count` bytes if they are free now and nobody waits."""
        if self._queue or self.free < count:
            return False
        self.free -= count
        return True

    def release(self, count: int) -> None:
        self.free += count
        if self._queue:
            self._serve()

    def _fits(self, count: int) -> bool:
        return self.free >= min(count, self.size)

    def _serve(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            count, turn = self._queue.popleft()
            if not turn.cancelled():
                self.free -= count
                turn.set_result(None)
