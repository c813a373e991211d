"""How much a reader asks for ahead."""

from __future__ import annotations

import pytest

from agent.objectstore.line import Line

MIB = 1 << 20


def test_nothing_is_known_before_the_first_answer_has_ended():
    line = Line()
    line.answered(10.0, 10.05)

    assert line.ahead(1000 * MIB) == 0


@pytest.mark.parametrize("rate", [1 * MIB, 30 * MIB, 400 * MIB])
def test_on_a_short_line_next_to_nothing_is_needed(rate: int):
    line = Line()
    line.answered(0.0, 0.0002)
    line.ended(rate, 1.0)

    assert line.ahead(1000 * MIB) <= rate // 1000


def test_what_is_asked_for_doubles_with_each_round_trip_until_the_line_is_full():
    line, delay, had, now = Line(), 0.05, 0, 0.0
    under_way = 2 * MIB
    seen = []
    for _ in range(12):
        line.answered(now, now + delay)
        now += max(delay, under_way / (400 * MIB))
        had += under_way
        line.ended(under_way, now)
        under_way = max(2 * MIB, line.ahead(1000 * MIB))
        seen.append(round(under_way / MIB))

    assert seen[:4] == [4, 8, 16, 32]
    assert seen[-1] == 40


def test_never_more_than_half_of_what_came_is_asked_for():
    line = Line()
    line.answered(0.0, 0.1)
    line.ended(64 * MIB, 0.2)

    assert line.ahead(10 * MIB) == 5 * MIB
