"""The loop's sleep: what falls due between an advance and the sleep after it isn't slept over."""

from __future__ import annotations

from agent.sync.retry import Holds


def test_a_hold_that_fell_due_after_the_last_advance_is_still_due_as_seen_from_it():
    holds = Holds()
    hold = holds.failed("a", 100.0, message="full")
    advanced_at = hold.until - 0.001
    woke_at = hold.until + 0.001

    assert holds.next_due(woke_at) is None  # asked with the later time it would be forgotten
    due = holds.next_due(advanced_at)
    assert due is not None
    assert due < 0.002
