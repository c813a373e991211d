"""How long the oldest change has waited."""

from __future__ import annotations

from agent.core.entries import Ancestor
from agent.sync.ages import Ages
from tests.support.rows import F1, F2, agreed

OLD, NEW = agreed("a", F1).ancestor, agreed("a", F2).ancestor


def looked(*looks: tuple[float, dict[str, Ancestor | None]], all_of_them: bool = True) -> float | None:
    ages = Ages()
    for now, waiting in looks:
        ages.look(now, waiting, all_of_them=all_of_them)
    return ages.oldest


def test_nothing_waits():
    assert looked() is None
    assert looked((10, {})) is None
    assert looked((10, {"a": None}), (20, {})) is None


def test_a_path_waits_since_it_was_first_seen():
    assert looked((10, {"a": OLD}), (20, {"a": OLD, "b": None}), (30, {"b": None, "a": OLD})) == 10
    assert looked((10, {"a": OLD}), (20, {"a": OLD, "b": None}), (30, {"b": None})) == 20


def test_what_has_arrived_meanwhile_does_not_wait_any_more():
    assert looked((10, {"a": OLD}), (20, {"a": NEW})) == 20
    assert looked((10, {"a": OLD}), (20, {}), (30, {"a": OLD})) == 30


def test_paths_that_are_not_looked_at_are_as_old_as_they_may_be():
    ages = Ages()
    ages.look(10, {"a": OLD}, all_of_them=False)
    ages.look(20, {"b": OLD}, all_of_them=False)
    assert ages.oldest == 10
    ages.look(30, {"c": OLD, "b": NEW}, all_of_them=True)
    assert ages.oldest == 10, "c may have waited from the first look on"
    ages.look(40, {"b": NEW}, all_of_them=True)
    assert ages.oldest == 30
    ages.look(50, {"d": OLD}, all_of_them=True)
    assert ages.oldest == 50
