"""Ready, or why not."""

from __future__ import annotations

import pytest

from agent.observe.readiness import MappingReadiness, Readiness, ReadyPolicy, check, notes, ready

FRESH = MappingReadiness("inbox", sentence="waiting for the server")
LOADED = MappingReadiness("inbox", serving=True)
AGAIN = MappingReadiness("inbox", serving=True, converged_before=True)
LOADING = MappingReadiness("inbox", converged_before=True)
DONE = MappingReadiness("inbox", converged=True, serving=True, converged_before=True)


@pytest.mark.parametrize(
    ("mapping", "connected", "once", "always_connected", "local"),
    [
        (FRESH, False, False, False, False),
        (FRESH, True, False, False, False),
        (LOADED, True, False, False, False),
        (LOADING, False, False, False, False),
        (AGAIN, False, False, False, True),
        (AGAIN, True, False, False, True),
        (DONE, True, True, True, True),
        (DONE, False, True, False, True),
    ],
)
def test_what_ready_means_is_chosen_by_the_policy(
    mapping: MappingReadiness, connected: bool, once: bool, always_connected: bool, local: bool
) -> None:
    policies: dict[ReadyPolicy, bool] = {"once": once, "connected": always_connected, "local": local}
    for policy, expected in policies.items():
        assert ready(check(Readiness(True, connected, [mapping]), policy)) is expected, policy


def test_one_mapping_that_is_not_ready_makes_the_agent_not_ready_and_is_named() -> None:
    other = MappingReadiness("other", converged=True)
    assert check(Readiness(True, True, [FRESH, other]), "once") == {
        "agent": "",
        "mapping/inbox": "has not converged since the start: waiting for the server",
        "mapping/other": "",
    }


def test_before_the_mappings_are_set_up_nothing_is_ready_and_without_mappings_the_agent_is() -> None:
    assert not ready(check(Readiness(started=False, connected=True), "once"))
    assert ready(check(Readiness(started=True, connected=False), "once"))
    assert not ready(check(Readiness(started=True, connected=False), "connected"))


def test_a_halted_mapping_is_told_although_it_counts_as_ready():
    halted = MappingReadiness("files", converged=True, sentence="halted: max_delete: 11 entries", halted=True)
    readiness = Readiness(started=True, connected=True, mappings=[halted, MappingReadiness("b", converged=True)])
    assert ready(check(readiness, "once"))
    assert notes(readiness) == {"mapping/files": "halted: max_delete: 11 entries"}
