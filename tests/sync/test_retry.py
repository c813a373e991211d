"""Back-off and holds."""

from __future__ import annotations

from agent.sync.retry import ATTEMPTS, Backoff, Holds


def test_delays_double_up_to_the_ceiling_and_have_jitter():
    backoff = Backoff(base=1.0, ceiling=8.0)
    delays = [backoff.next() for _ in range(10)]

    assert all(low <= delay <= 2 * low for delay, low in zip(delays, [0.5, 1, 2, 4, 4, 4, 4, 4, 4, 4], strict=True))
    backoff.reset()
    assert backoff.next() <= 1.0


def test_a_held_path_waits_and_is_hopeless_after_some_failures():
    holds = Holds()
    for _ in range(ATTEMPTS):
        assert not holds.hopeless("a")
        holds.failed("a", 100.0, message="no", reason="unwritable")

    assert holds.hopeless("a")
    assert holds.waiting(100.0) == {"a"}
    assert holds.waiting(1000.0) == set()
    holds.clear("a")
    assert not holds.hopeless("a")


def test_being_overtaken_makes_a_path_hopeless_much_later():
    holds = Holds()
    for _ in range(ATTEMPTS + 1):
        holds.failed("a", 100.0, message="stale", stale=True)

    assert not holds.hopeless("a")


def test_somebody_who_asks_lets_all_be_tried_at_once():
    holds = Holds()
    holds.failed("a", 100.0, message="no")
    holds.retry_all()

    assert holds.waiting(100.0) == set()
    assert holds.next_due(100.0) is None
