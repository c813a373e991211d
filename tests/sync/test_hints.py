"""Hints: when a changed path is ready to be looked at."""

from __future__ import annotations

from agent.sync.hints import Hints


def test_a_hint_is_ready_when_its_path_has_been_quiet():
    hints = Hints(settle=0.2, settle_max=10)
    hints.add("a", 100.0)

    assert hints.take(100.1, 10) == []
    assert hints.take(100.2, 10) == ["a"]
    assert len(hints) == 0


def test_a_new_hint_for_the_same_path_starts_its_quiet_time_again():
    hints = Hints(settle=0.25, settle_max=10)
    hints.add("a", 100.0)
    hints.add("a", 100.125)

    assert hints.take(100.3, 10) == []
    assert hints.take(100.375, 10) == ["a"]


def test_a_path_that_never_is_quiet_is_ready_after_settle_max():
    hints = Hints(settle=0.2, settle_max=1.0)
    for tick in range(11):
        hints.add("log", 100.0 + tick * 0.1)

    assert hints.take(100.95, 10) == []
    assert hints.take(101.0, 10) == ["log"]


def test_hints_from_a_scan_are_ready_at_once_but_dont_hurry_a_path_that_is_being_written():
    hints = Hints(settle=0.2, settle_max=10)
    hints.add("written", 100.0)
    hints.add_ready(["written", "found"])

    assert hints.take(100.0, 10) == ["found"]


def test_busy_paths_stay_until_they_are_free():
    hints = Hints(settle=0, settle_max=0)
    hints.add_ready(["a", "b"])

    assert hints.take(1.0, 10, {"a"}) == ["b"]
    assert "a" in hints
    assert hints.take(1.0, 10) == ["a"]


def test_next_due_is_the_time_until_the_first_path_settles():
    hints = Hints(settle=0.2, settle_max=0.5)

    assert hints.next_due(100.0) is None
    hints.add("a", 100.0)
    assert round(hints.next_due(100.1) or 0, 6) == 0.1
    hints.add_ready(["b"])
    assert hints.next_due(100.1) == 0.0


def test_a_hint_that_is_hastened_needs_no_quiet_time_and_a_later_one_does():
    hints = Hints(settle=0.2, settle_max=10)
    hints.add("ours", 100.0)
    hints.hasten("ours")
    hints.hasten("never hinted")

    assert hints.take(100.0, 10) == ["ours"]
    hints.add("ours", 100.1)
    assert hints.take(100.2, 10) == []
    assert hints.take(100.3, 10) == ["ours"]
