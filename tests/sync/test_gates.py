"""A direction without room stops as a whole; one probe at a time finds out when it may go on."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.core.entries import Entry, Kind, Row
from agent.core.plan import Action, Verb
from agent.errors import JetsyncError, ShortageError, SpaceError, StaleError, StoreFullError
from agent.observe.logging import get_logger
from agent.sync.gates import FIRST_PROBE, LAST_PROBE, Direction, Gates
from agent.sync.outcome import Outcome, Result
from agent.sync.retry import ATTEMPTS, Holds

FULL = StoreFullError("the bucket is full", remedy="raise max_bytes")


def action(path: str, verb: Verb = Verb.UPLOAD, size: int = 10) -> Action:
    return Action(verb=verb, row=Row(path), reason="", entry=Entry(Kind.FILE, b"d" * 32, size), bytes=size)


def failed(path: str, error: JetsyncError = FULL, verb: Verb = Verb.UPLOAD) -> Outcome:
    return Outcome(action(path, verb), Result.FAILED, error=error, reason="bucket_full")


def paths(stages: tuple[tuple[Action, ...], ...]) -> list[str]:
    return [action.row.path for stage in stages for action in stage]


@pytest.fixture
def holds() -> Holds:
    return Holds()


@pytest.fixture
def gates(holds: Holds) -> Gates:
    return Gates(get_logger(mapping="test"), holds)


STAGES = (
    (action("a", size=30), action("b", size=20), action("down", Verb.DOWNLOAD)),
    (action("gone", Verb.DELETE_REMOTE), action("c", size=40)),
)


def test_everything_is_admitted_while_there_is_room(gates: Gates):
    assert gates.admit(STAGES, 0.0) == STAGES
    assert gates.next_due(0.0) is None


def test_a_full_bucket_stops_uploads_only(gates: Gates):
    assert not gates.failed(failed("a"), 0.0)  # it is held, and stands for all
    assert gates.failed(failed("c"), 0.0)  # it waits with the others
    assert paths(gates.admit(STAGES, 0.1)) == ["down", "gone"]
    assert gates.waiting(0.2) == {"a", "b", "c"}
    assert gates.closed(Direction.UPLOADS)
    assert not gates.closed(Direction.DOWNLOADS)


def test_the_smallest_is_the_probe_and_opens_the_gate(gates: Gates):
    gates.failed(failed("a"), 0.0)
    later = FIRST_PROBE * 2
    assert not gates.due(0.0)
    assert gates.due(later)
    assert paths(gates.admit(STAGES, later)) == ["b", "down", "gone"]
    assert not gates.due(later)
    assert paths(gates.admit(STAGES, later)) == ["down", "gone"]  # one at a time
    assert gates.applied("down", later) == ""
    assert gates.applied("b", later) == "a"
    assert gates.admit(STAGES, later) == STAGES


def test_probes_that_fail_get_rarer_up_to_a_bound_and_are_hopeless_after_some(gates: Gates, holds: Holds):
    now = 0.0
    gates.failed(failed("a"), now)
    holds.failed("a", now, message="full", reason="bucket_full")
    pauses = []
    for attempt in range(12):
        assert gates.hopeless("c") is (attempt + 1 >= ATTEMPTS)
        due = gates.next_due(now)
        assert due is not None
        pauses.append(due)
        now += due
        assert "b" in paths(gates.admit(STAGES, now))
        assert gates.failed(failed("b"), now)
    assert pauses[0] <= FIRST_PROBE
    assert LAST_PROBE / 2 <= pauses[-1] <= LAST_PROBE


def test_a_probe_that_ends_otherwise_makes_way_for_another(gates: Gates):
    gates.failed(failed("a"), 0.0)
    gates.admit(STAGES, 10.0)
    gates.failed(failed("b", StaleError("changed")), 10.0)
    assert gates.due(10.0)
    gates.admit(STAGES, 10.0)
    gates.ended("b")  # it never ran
    assert gates.due(10.0)


def test_when_nothing_asks_for_room_any_more_the_gate_opens(gates: Gates):
    gates.failed(failed("a"), 0.0)
    gates.admit((), 10.0)
    assert not gates.closed(Direction.UPLOADS)
    assert not gates.due(10.0)


@pytest.mark.parametrize(
    "outcome",
    [
        failed("a", ShortageError("too many open files"), Verb.DOWNLOAD),
        failed("a", SpaceError("full"), Verb.DELETE_LOCAL),
        failed("a", StaleError("changed")),
    ],
    ids=["descriptors", "a deletion", "something else"],
)
def test_other_failures_stop_nothing(gates: Gates, outcome: Outcome):
    assert not gates.failed(outcome, 0.0)
    assert gates.admit(STAGES, 0.0) == STAGES


def test_it_is_said_once(gates: Gates):
    logs: list[Any]
    with capture_logs() as logs:
        now = 0.0
        for _ in range(5):
            gates.failed(failed("a"), now)
            gates.failed(failed("c"), now)
            now += 10.0
            gates.admit(STAGES, now)
            gates.applied("b", now)
    assert [log["event"] for log in logs].count("uploads_stopped") == 1
    assert logs[0]["remedy"] == "raise max_bytes"
