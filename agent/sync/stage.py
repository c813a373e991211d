"""Running one stage of a plan: its actions at once, within bounds, the small ones in lots.

Outcomes are handed over many at a time, but none later than a moment after it came, so that a small action isn't kept
waiting by a large one of the same stage. A stage that only waits for large transfers any more is `heavy`: it holds a
place in `transfers`, and is no reason not to begin other batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from agent.core.plan import Action
from agent.sync.execute import Executor
from agent.sync.limits import LOTS_AT_ONCE, SMALL
from agent.sync.lots import divide
from agent.sync.outcome import Outcome

# Outcomes committed in one transaction.
COMMIT = 256
COMMIT_SECONDS = 0.05


class Finished:
    """Collects outcomes and hands them over: many at once, but none later than a moment after it came.

    So the outcome of a small action isn't kept waiting by a large one of the same stage, and its path isn't busy longer
    than it must be.
    """

    def __init__(self, take: Callable[[list[Outcome]], None]) -> None:
        self._take = take
        self._outcomes: list[Outcome] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, outcomes: Iterable[Outcome]) -> None:
        self._outcomes += outcomes
        if len(self._outcomes) >= COMMIT:
            self.hand_over()
        elif self._outcomes and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COMMIT_SECONDS, self.hand_over)

    def hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        outcomes, self._outcomes = self._outcomes, []
        if outcomes:
            self._take(outcomes)


class StageRunner:
    """`heavy`: how many stages only wait for large transfers. executor: None in a dry run, which never runs any."""

    def __init__(
        self,
        *,
        executor: Executor | None,
        workers: int,
        go_on: Callable[[], bool],
        take: Callable[[list[Outcome]], None],
    ) -> None:
        self._executor = executor
        self._workers = workers
        self._go_on = go_on
        self._take = take
        self.heavy = 0

    async def run(self, stage: tuple[Action, ...], nuids: dict[str, str]) -> list[Action]:
        """Run the actions; returns those that never ran (draining, or offline)."""
        assert self._executor is not None
        executor = self._executor
        lots, alone = divide(stage)
        finished = Finished(self._take)
        light = sum(action.bytes <= SMALL for action in stage)

        async def work() -> None:
            nonlocal light
            while alone and self._go_on():
                action = alone.popleft()
                began = time.monotonic()
                finished.add(_timed([await executor.run(action, nuids.get(action.row.path))], began))
                light -= action.bytes <= SMALL

        async def work_on_lots() -> None:
            nonlocal light
            while lots and self._go_on():
                lot = lots.popleft()
                began = time.monotonic()
                finished.add(_timed(await executor.run_lot(lot, nuids), began))
                light -= sum(action.bytes <= SMALL for action in lot)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for _ in range(min(self._workers, len(alone)))]
            tasks += [group.create_task(work_on_lots()) for _ in range(min(LOTS_AT_ONCE, len(lots)))]
            pending = set(tasks)
            while pending and light:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            await self._wait_for_large(pending)
        finished.hand_over()
        return [*alone, *(action for lot in lots for action in lot)]

    async def _wait_for_large(self, pending: set[asyncio.Task[None]]) -> None:
        if not pending:
            return
        self.heavy += 1
        try:
            await asyncio.wait(pending)
        finally:
            self.heavy -= 1


def _timed(outcomes: list[Outcome], began: float) -> list[Outcome]:
    seconds = time.monotonic() - began
    for outcome in outcomes:
        outcome.seconds = seconds
    return outcomes
