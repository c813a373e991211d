"""Which dirty rows are planned together: never one without what stands in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.config.model import Mapping
from agent.core.entries import Row
from agent.core.plan import Action, Verb
from agent.core.reconcile import Rules
from agent.directory import Directory
from agent.sync import batches as module
from agent.sync.batches import Batches
from agent.sync.committing import write
from agent.sync.db import Db
from agent.sync.hints import Looking
from agent.sync.outcome import Change, Outcome, Result
from tests.support.rows import F1, F2, agreed, local_only, marker, remote_only


class Planner:
    """Batches over a store of its own, which makes plans and never runs them."""

    def __init__(self, db: Db, batches: Batches, made: list[str]) -> None:
        self.db = db
        self.batches = batches
        self.made = made

    async def store(self, *rows: Row, dirty: bool = True) -> None:
        await self.db(lambda store: store.put(rows, dirty=dirty))

    async def wrote(self, outcome: Outcome) -> None:
        """Store what came of an action."""
        guard = self.batches._guard
        await self.db(lambda store: write(store, [outcome], guard=guard, bucket="b", full=False))

    async def next_paths(self, *, quiet: bool = True) -> set[str]:
        """The paths of the next plan."""
        before = set(self.batches.busy)
        await self.batches.advance(Looking(paths=frozenset(), looks=0, hints=0, searching=False, quiet=quiet))
        return self.batches.busy - before


@pytest.fixture
async def planner(tmp_path: Path) -> Any:
    def spawn(work: Coroutine[Any, Any, None], name: str) -> None:
        work.close()

    db = await Db.open(tmp_path / "state.db", "m")
    config = Mapping(name="m", directory=tmp_path / "d", bucket="b")
    (tmp_path / "d").mkdir()
    directory = await asyncio.to_thread(Directory.open, tmp_path / "d")
    nothing = cast(Callable[..., None], lambda *_: None)
    batches = Batches(
        config=config,
        directory=directory,
        db=db,
        executor=cast(Any, SimpleNamespace()),
        rules=Rules(mode=config.mode, agent="a"),
        workers=1,
        post=nothing,
        spawn=spawn,
        on_outcomes=nothing,
        online=lambda: True,
        look_again=nothing,
        on_full=nothing,
        on_stop=lambda _: None,
    )
    yield Planner(db, batches, [])
    directory.close()
    await db.close()


def hold(planner: Planner, path: str) -> None:
    planner.batches.holds.failed(path, asyncio.get_running_loop().time() + 1000.0, message="later")


async def test_what_comes_below_a_file_waits_until_the_file_can_be_planned_with_it(planner: Planner):
    # The bucket has d/x and d/y; here d is a file that was edited. d/y failed before, and waits.
    await planner.store(Row("d", agreed("d").ancestor, local_only("d", F2).local, marker(5)))
    await planner.store(remote_only("d/x"), remote_only("d/y"), remote_only("other"))
    hold(planner, "d/y")

    assert await planner.next_paths() == {"other"}
    planner.batches.holds.clear("d/y")
    copy = await planner.next_paths()
    assert "d" in copy  # the file becomes a conflict copy first


async def test_what_comes_below_a_file_waits_for_the_files_deletion(planner: Planner):
    row = agreed("d", F1)
    await planner.store(Row("d", row.ancestor, row.local, marker(5)), remote_only("d/x"), remote_only("other"))

    assert await planner.next_paths(quiet=False) == {"other"}
    assert await planner.next_paths(quiet=True) == {"d", "d/x"}


async def test_a_file_waits_for_the_deletions_below_it(planner: Planner):
    row = agreed("d/x", F1)
    await planner.store(Row("d/x", row.ancestor, None, row.remote), local_only("d"))

    assert await planner.next_paths(quiet=False) == set()
    assert await planner.next_paths(quiet=True) == {"d", "d/x"}


async def test_new_files_beside_a_transfer_dont_wait_for_it(planner: Planner):
    await planner.store(local_only("d/big"))
    assert await planner.next_paths() == {"d/big"}
    # The file d that was there before the directory is nothing but a marker now.
    await planner.store(Row("d", remote=marker(5)), local_only("d/small"))

    assert await planner.next_paths() == {"d/small"}


async def test_rows_that_need_nothing_are_settled_however_many_there_are(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
):
    """A plan takes up to PLAN_ROWS rows: a million delete markers are many plans without an action."""
    monkeypatch.setattr(module, "PLAN_ROWS", 2)
    await planner.store(*(Row(f"gone/{number}", remote=marker()) for number in range(7)))

    for _ in range(10):
        await planner.next_paths()

    assert await planner.db(lambda store: store.dirty_count()) == 0


async def test_a_name_that_went_while_it_was_fetched_is_asked_for_again(planner: Planner):
    """The row had nothing but the object, and was dropped when that was found to be gone; now there is a file."""
    row, both = remote_only("went"), agreed("went")
    action = Action(verb=Verb.DOWNLOAD, row=row, reason="test")
    change = Change("went", ancestor=both.ancestor, local=both.local, remote=row.remote, seen=row.revision)
    outcome = Outcome(action, Result.APPLIED, changes=[change])

    await planner.wrote(outcome)

    assert outcome.vanished == ["went"]


async def test_what_was_fetched_and_is_there_is_not_asked_for_again(planner: Planner):
    row, both = remote_only("there"), agreed("there")
    await planner.store(row)
    change = Change("there", ancestor=both.ancestor, local=both.local, remote=row.remote, seen=row.revision)
    outcome = Outcome(Action(verb=Verb.DOWNLOAD, row=row, reason="test"), Result.APPLIED, changes=[change])

    await planner.wrote(outcome)

    assert outcome.vanished == []


async def test_where_no_row_is_dirty_nothing_is_planned_whatever_is_looked_at(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
):
    plans = 0
    plan = planner.batches._plan

    def counted(*arguments: Any) -> Any:
        nonlocal plans
        plans += 1
        return plan(*arguments)

    async def advance(hints: int) -> None:
        looking = Looking(paths=frozenset(), looks=hints, hints=hints, searching=True, quiet=False)
        await planner.batches.advance(looking)

    monkeypatch.setattr(planner.batches, "_plan", counted)
    await advance(0)
    for hints in range(1, 5):
        await advance(hints)
    assert plans == 1

    await planner.store(remote_only("new"))
    await advance(5)
    assert plans == 2
    assert planner.batches.busy == {"new"}

    planner.batches.reconsider()
    await advance(6)
    assert plans == 3, "a person has approved something: the guard is asked in any case"
