"""Running a stage: a large transfer keeps nobody waiting."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from agent.core.entries import Entry, Kind, Row
from agent.core.plan import Action, Verb
from agent.sync.outcome import Outcome, Result
from agent.sync.stage import COMMIT, Finished, StageRunner


def action(path: str, size: int) -> Action:
    entry = Entry(Kind.FILE, b"1" * 32, size)
    return Action(
        verb=Verb.CONFLICT_COPY, row=Row(path), reason="", to=path + ".copy", entry=entry, bytes=size, local=True
    )


class Store:
    """An executor whose large actions wait until they are let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def run(self, action: Action, nuid: str | None) -> Outcome:
        if action.bytes > 1000:
            await self.let_go.wait()
        return Outcome(action, Result.APPLIED)

    async def run_lot(self, lot: list[Action], nuids: dict[str, str]) -> list[Outcome]:
        return [await self.run(action, None) for action in lot]


async def test_the_outcome_of_a_small_action_doesnt_wait_for_a_large_one():
    store = Store()
    taken: asyncio.Queue[str] = asyncio.Queue()

    def take(outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            taken.put_nowait(outcome.action.row.path)

    runner = StageRunner(executor=cast(Any, store), workers=4, go_on=lambda: True, take=take)
    running = asyncio.create_task(runner.run((action("large", 10**9), action("small", 1)), {}))

    assert await taken.get() == "small"
    assert runner.heavy == 1
    store.let_go.set()
    assert await running == []
    assert await taken.get() == "large"
    assert runner.heavy == 0


async def test_many_outcomes_are_handed_over_together():
    sizes: list[int] = []
    finished = Finished(lambda outcomes: sizes.append(len(outcomes)))
    finished.add(Outcome(action(str(number), 1), Result.APPLIED) for number in range(COMMIT))
    finished.add([Outcome(action("last", 1), Result.APPLIED)])
    finished.hand_over()
    finished.hand_over()

    assert sizes == [COMMIT, 1]


async def test_what_never_ran_is_given_back():
    runner = StageRunner(executor=cast(Any, Store()), workers=1, go_on=lambda: False, take=lambda _: None)
    stage = (action("a", 1), action("b", 10**9))

    assert sorted(one.row.path for one in await runner.run(stage, {})) == ["a", "b"]
