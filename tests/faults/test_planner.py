"""The planner with many random cases (`planner`), in chunks that pytest-xdist can share out."""

from __future__ import annotations

import pytest

from agent.core.entries import Row
from agent.core.plan import plan
from tests.faults.planner import draw, fails, shrink


@pytest.mark.timeout(1800)
def test_every_case_ends_as_the_modes_demand_and_loses_nothing(planner_seeds: range):
    for seed in planner_seeds:
        case = draw(seed)
        failure = fails(case)
        if failure is not None:
            small = shrink(case)
            pytest.fail(f"{small}\n{fails(small)!r}\nat first: {failure!r}\nagain: make faults SEED={seed}")


def test_a_failing_case_is_made_small_and_still_fails(monkeypatch: pytest.MonkeyPatch):
    """With a planner that forgets about "a/b", what is left of a case is "a/b"."""
    monkeypatch.setattr("tests.support.world.plan", lambda rows, *rest, **more: plan(without(rows), *rest, **more))
    case = next(
        case for case in map(draw, range(1000)) if "a/b" in case.locals[0] and len(case.locals[0]) > 3 and fails(case)
    )
    small = shrink(case)
    assert fails(small)
    assert {*small.agreed, *small.remote, *small.locals[0]} == {"a/b"}
    assert not small.failing


def without(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.path != "a/b"]
