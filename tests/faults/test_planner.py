"""The planner with many random cases (`planner`), in chunks that pytest-xdist can share out."""

from __future__ import annotations

import pytest

from tests.faults.planner import draw, fails, shrink


def test_every_case_ends_as_the_modes_demand_and_loses_nothing(planner_seeds: range):
    for seed in planner_seeds:
        case = draw(seed)
        failure = fails(case)
        if failure is not None:
            small = shrink(case)
            pytest.fail(f"{small}\n{fails(small)!r}\nat first: {failure!r}\nagain: make faults SEED={seed}")


def test_a_failure_is_made_small():
    """The machine itself: a case that fails for one path is told with that path alone."""
    case = draw(4)
    assert fails(case) is None
