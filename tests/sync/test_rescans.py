"""When both sides are looked at as a whole again."""

from __future__ import annotations

import asyncio

import pytest

from agent.sync.rescans import JITTER, NO_TIME, STRETCH, Rescans

LONG = 6.0  # seconds that a scan of a million files takes


def seconds_left(rescans: Rescans) -> float:
    due = rescans.due
    assert due is not None
    return due - asyncio.get_running_loop().time()


@pytest.mark.parametrize("took", [0.0, NO_TIME])
async def test_a_quick_look_is_repeated_at_the_configured_interval_more_or_less(took: float):
    rescans = Rescans(100.0, took=lambda: took, looking=lambda: False)
    found = set()
    for _ in range(100):
        rescans.begun()
        found.add(round(seconds_left(rescans), 3))

    assert 100 * (1 - JITTER) - 1 <= min(found) < max(found) <= 100 * (1 + JITTER)
    assert rescans.longest == 100 * (1 + JITTER)


async def test_a_long_look_takes_a_hundredth_of_the_time_at_most():
    rescans = Rescans(1.0, took=lambda: LONG, looking=lambda: False)
    rescans.begun()

    assert seconds_left(rescans) >= LONG * STRETCH * (1 - JITTER) - 1
    assert rescans.longest == LONG * STRETCH * (1 + JITTER)


async def test_while_one_is_under_way_none_is_due_however_long_it_takes():
    """The first look at a large tree takes longer than a short interval, and was followed by another one at once."""
    looking, took = True, 0.0
    rescans = Rescans(0.01, took=lambda: took, looking=lambda: looking)
    rescans.begun()
    await asyncio.sleep(0.05)
    assert rescans.due is None

    looking, took = False, LONG
    assert seconds_left(rescans) > 60
