"""What a mapping says of itself, as metrics."""

from __future__ import annotations

from agent.core.entries import Mode
from agent.errors import StoreUnavailableError
from agent.observe.metrics import Metrics
from agent.observe.status import State
from agent.sync.record import Record


def cycles(metrics: Metrics) -> dict[str, float]:
    """Result -> how many cycles ended so."""
    return {
        sample.labels["result"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "jetsync_reconciles_total" and sample.value
    }


def value(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(f"jetsync_{name}", {"mapping": "files"})
    assert found is not None
    return found


def made() -> tuple[Metrics, Record]:
    metrics = Metrics("1")
    return metrics, Record("files", metrics.mapping("files", bucket="b", mode=Mode.TWO_WAY))


def test_a_cycle_begins_with_work_and_ends_when_nothing_is_under_way():
    metrics, record = made()
    record.settled(converged=True)
    assert cycles(metrics) == {}
    assert value(metrics, "mapping_last_attempt_timestamp_seconds") == 0

    record.set_state(State.SCANNING)
    record.set_state(State.SYNCING)
    record.settled(converged=True)
    record.settled(converged=True)
    assert cycles(metrics) == {"noop": 1}
    assert value(metrics, "mapping_last_attempt_timestamp_seconds") > 0
    assert value(metrics, "reconcile_duration_seconds_count") == 1

    record.set_state(State.SYNCING)
    record.settled(converged=False)
    record.set_state(State.SYNCING)
    record.session_failed(StoreUnavailableError("gone"), State.RETRYING, retry_in=1)
    assert cycles(metrics) == {"noop": 1, "partial": 1, "error": 1}


def test_nothing_left_to_do_is_no_success_while_the_server_is_away():
    metrics, record = made()
    record.set_state(State.SYNCING)
    record.settled(converged=True, known=False)
    assert value(metrics, "mapping_last_success_timestamp_seconds") == 0
    assert record.converged_at is None

    record.settled(converged=True, known=True)
    assert value(metrics, "mapping_last_success_timestamp_seconds") > 0
