"""The arithmetic of `max_delete`."""

from __future__ import annotations

import pytest

from agent.core.guards import WINDOW_SECONDS, Limit, Window

HALF = Limit(share=0.5)


@pytest.mark.parametrize(
    ("deletions", "ancestors", "exceeded"),
    [(9, 9, False), (10, 20, False), (11, 20, True), (50, 100, False), (51, 100, True), (10, 0, True)],
)
def test_a_share_fires_above_it_and_never_below_ten_deletions(deletions: int, ancestors: int, exceeded: bool):
    assert HALF.exceeded(deletions, ancestors) is exceeded


def test_a_count_fires_above_it_however_many_files_there_are():
    assert not Limit(count=3).exceeded(3, 1000)
    assert Limit(count=3).exceeded(4, 1000)
    assert Limit(count=0).exceeded(1, 1)


def test_a_hundred_percent_never_fires():
    assert not Limit(share=1.0).exceeded(1000, 10)


def test_deletions_of_the_last_ten_minutes_count_against_what_there_was_at_their_start():
    window = Window().add(40, ancestors=100, now=1000.0)
    assert not window.exceeds(HALF, 10, ancestors=60)
    assert window.exceeds(HALF, 11, ancestors=60)


def test_older_deletions_do_not_count():
    window = Window().add(40, ancestors=100, now=1000.0).at(1000.0 + WINDOW_SECONDS)
    assert window == Window()
    assert not window.exceeds(HALF, 30, ancestors=60)
    assert window.exceeds(HALF, 31, ancestors=60)


def test_a_clock_that_was_set_back_leaves_no_deletions_of_the_future():
    assert Window().add(40, ancestors=100, now=1000.0).at(500.0) == Window()


def test_the_window_slides_on_to_its_next_deletions():
    window = Window().add(10, ancestors=100, now=0.0).add(10, ancestors=90, now=400.0).at(700.0)
    assert window.base(80) == 90
    assert window.total(5) == 15


def test_approved_deletions_count_neither_now_nor_later():
    window = Window(allowed=60)
    assert not window.exceeds(HALF, 60, ancestors=60)
    done = window.add(25, ancestors=60, now=0.0)
    assert done == Window(allowed=35, begun=True)
    assert not done.exceeds(HALF, 36, ancestors=60)
    assert done.add(35, ancestors=35, now=0.0) == Window()


def test_more_than_was_approved_is_judged_again():
    assert Window(allowed=60).exceeds(HALF, 72, ancestors=20)


def test_deletions_one_by_one_make_few_entries():
    window = Window()
    for number in range(1000):
        window = window.add(1, ancestors=5000 - number, now=100.0 + number / 1000)
    assert len(window.lots) <= 2
    assert window.total(0) == 1000
    assert window.base(1) == 5000


def test_of_what_was_approved_only_what_is_still_pending_stays_approved():
    window = Window(allowed=11)
    assert window.still(11) == window
    assert window.still(5) == Window(allowed=5)
    assert window.still(0) == Window()


def test_more_than_was_approved_is_not_approved_at_all():
    window = Window(allowed=11)
    assert not window.exceeds(HALF, 11, ancestors=20)
    assert window.exceeds(HALF, 12, ancestors=20)
    assert Window(allowed=2).exceeds(Limit(count=1), 3, ancestors=20)


def test_what_came_and_went_within_the_window_does_not_count():
    window = Window()
    for number in range(500):  # a spool: six files are there, one comes and one goes, again and again
        window = window.add(1, ancestors=6, now=float(number))
        assert not window.exceeds(HALF, 1, ancestors=6)


def test_files_that_came_meanwhile_do_not_excuse_a_burst():
    window = Window().add(5, ancestors=20, now=0.0)
    assert window.exceeds(HALF, 11, ancestors=30)  # 15 have come since
