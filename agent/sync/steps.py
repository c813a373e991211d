"""The steps that a mapping's loop runs one after the other, so that rows, hints and plans need no locks.

Whatever happens (what a job found, a batch of metas, outcomes, somebody asking) is posted as a step: a small coroutine
function. `wake` ends the loop's sleep without one. All from the loop's own thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from agent.sync.feed import EndedError
from agent.sync.local import Step


class Steps:
    def __init__(self) -> None:
        self._steps: deque[Step] = deque()
        self._wake = asyncio.Event()
        self._calls: set[asyncio.Future[None]] = set()
        self._ended = False

    def __len__(self) -> int:
        return len(self._steps)

    def post(self, step: Step) -> None:
        """Have the loop run a step."""
        self._steps.append(step)
        self.wake()

    def wake(self) -> None:
        """Have the loop look for what is due."""
        self._wake.set()

    async def call(self, step: Step) -> None:
        """Have the loop run a step, and wait for it.

        :raises EndedError: the loop has ended, and the step hasn't been run, or not to its end
        """
        if self._ended:
            raise EndedError
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            await step()
            if not done.done():
                done.set_result(None)

        self.post(run)
        self._calls.add(done)
        try:
            await done
        finally:
            self._calls.discard(done)

    async def run(self) -> None:
        """Run all steps there are, and those that come meanwhile."""
        while self._steps:
            await self._steps.popleft()()

    async def sleep(self, seconds: float) -> None:
        """Until a step is posted or somebody wakes the loop, `seconds` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def end(self) -> None:
        """Nobody may wait for a loop that doesn't run any more."""
        self._ended = True
        for done in self._calls:
            if not done.done():
                done.set_exception(EndedError())
