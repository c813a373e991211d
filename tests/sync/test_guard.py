"""What the guard keeps of deletions that were carried out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.model import Mapping
from agent.core.entries import Ancestor, Entry, Kind, Row
from agent.core.plan import Action, Plan, Verb
from agent.state import StateStore
from agent.sync.guard import Guard, read_windows
from agent.sync.outcome import Outcome, Result

FILE = Entry(Kind.FILE, b"d" * 32, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state.db") as store:
        store.put([Row(f"f{number}", Ancestor(FILE)) for number in range(1000)], dirty=False)
        yield store


def test_a_window_that_has_slid_on_still_knows_how_many_there_were(store: StateStore, tmp_path: Path):
    guard = Guard(Mapping(name="files", directory=tmp_path, bucket="b"), lambda _: Plan())
    for number, now in enumerate((0.0, 300.0)):
        action = Action(verb=Verb.DELETE_REMOTE, row=Row(f"f{number}", Ancestor(FILE)), reason="", loses=True)
        guard.carried_out(store, [Outcome(action, Result.APPLIED)], now)
        store.drop(f"f{number}")

    window = read_windows(store, 700.0)["remote"]  # the first of the two is over
    assert window.base(store.ancestors()) == 999
    assert not window.exceeds(guard.limit, 10, ancestors=store.ancestors())
