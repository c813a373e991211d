"""The series as a scraper sees them."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from agent import errors
from agent.core.entries import Mode, Reason
from agent.core.guards import HaltReason
from agent.observe.metrics import MappingMetrics, Metrics
from agent.observe.reasons import ErrorReason
from agent.observe.snapshotmetrics import SnapshotMetrics
from agent.observe.status import Halt, MappingStatus, Pending, SnapshotCounts, SnapshotStatus, State, Tree

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

# ECOSYSTEM 3.3.
EXPECTED = {
    "build_info": "gauge",
    "config_last_reload_successful": "gauge",
    "config_last_reload_success_timestamp_seconds": "gauge",
    "config_hash_info": "gauge",
    "config_restart_needed": "gauge",
    "nats_connected": "gauge",
    "nats_reconnects_total": "counter",
    "nats_rtt_seconds": "gauge",
    "mapping_info": "gauge",
    "mapping_state": "gauge",
    "mapping_halted": "gauge",
    "mapping_last_success_timestamp_seconds": "gauge",
    "mapping_last_attempt_timestamp_seconds": "gauge",
    "mapping_expected_interval_seconds": "gauge",
    "mapping_oldest_pending_timestamp_seconds": "gauge",
    "mapping_pending_objects": "gauge",
    "mapping_pending_bytes": "gauge",
    "mapping_objects": "gauge",
    "mapping_bytes": "gauge",
    "mapping_conflicts": "gauge",
    "mapping_diverged": "gauge",
    "mapping_problems": "gauge",
    "mapping_skipped": "gauge",
    "disk_free_bytes": "gauge",
    "reconciles_total": "counter",
    "reconcile_duration_seconds": "histogram",
    "transfers_total": "counter",
    "transfer_bytes_total": "counter",
    "transfer_duration_seconds": "histogram",
    "skipped_bytes_total": "counter",
    "conflicts_total": "counter",
    "integrity_failures_total": "counter",
    "errors_total": "counter",
    "watch_events_total": "counter",
    "watch_overflows_total": "counter",
    "full_scans_total": "counter",
    "snapshot_info": "gauge",
    "snapshots_total": "counter",
    "published_snapshot_timestamp_seconds": "gauge",
    "installed_snapshot_timestamp_seconds": "gauge",
    "snapshot_last_success_timestamp_seconds": "gauge",
    "snapshot_bytes_total": "counter",
    "snapshot_verification_failures_total": "counter",
}
# There only once there is something to tell.
LATER = {"snapshot_info"}


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics("1.2.3", revision="abc")
    metrics.config_in_force("0123")
    return metrics


@pytest.fixture
def inbox(metrics: Metrics) -> MappingMetrics:
    return metrics.mapping("inbox", bucket="files", mode=Mode.TWO_WAY, expected_interval=750)


@pytest.fixture
def live(metrics: Metrics) -> SnapshotMetrics:
    metrics.snapshots("publication", "models")
    return metrics.snapshots("subscription", "live")


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, /, **labels: str) -> float:
    return samples(metrics)["jetsync_" + name, frozenset(labels.items())]


def of_mapping(metrics: Metrics, mapping: str) -> set[str]:
    return {name for name, labels in samples(metrics) if ("mapping", mapping) in labels}


# -- the set ----------------------------------------------------------------------------------------------------------


def test_the_names_and_types_are_those_of_the_ecosystem_page(metrics: Metrics, inbox: MappingMetrics) -> None:
    lines = (line.split() for line in metrics.render().decode().splitlines() if line.startswith("# TYPE jetsync_"))
    assert {line[2].removeprefix("jetsync_"): line[3] for line in lines} == EXPECTED


def test_every_series_is_there_from_the_start_at_zero(
    metrics: Metrics, inbox: MappingMetrics, live: SnapshotMetrics
) -> None:
    found = samples(metrics)
    for name, kind in EXPECTED.items():
        if name in LATER:
            continue
        names = {"jetsync_" + name + suffix for suffix in (("",) if kind != "histogram" else ("_count", "_sum"))}
        assert names <= {each for each, _ in found}, name
    not_zero = {name: value for (name, _), value in found.items() if name.startswith("jetsync_") and value}
    assert not_zero == {
        "jetsync_build_info": 1,
        "jetsync_config_hash_info": 1,
        "jetsync_mapping_info": 1,
        "jetsync_mapping_state": 1,
        "jetsync_mapping_expected_interval_seconds": 750,
    }


def test_labels_come_from_closed_lists(metrics: Metrics, inbox: MappingMetrics) -> None:
    def labels(name: str, label: str) -> set[str]:
        return {dict(each)[label] for found, each in samples(metrics) if found == "jetsync_" + name}

    assert labels("mapping_state", "state") == set(State)
    assert labels("mapping_halted", "reason") == set(HaltReason)
    assert labels("errors_total", "reason") == set(ErrorReason)
    assert labels("mapping_problems", "reason") == {reason for reason in Reason if not reason.skipped}
    assert labels("mapping_skipped", "reason") == {reason for reason in Reason if reason.skipped}
    assert labels("reconciles_total", "result") == {"changed", "noop", "partial", "error"}
    assert labels("skipped_bytes_total", "reason") == {"moved", "reused"}
    for make in (
        lambda: inbox.reconciled("great", 1),
        lambda: inbox.transfer("upload", "a/b.txt", 1, 1),
        lambda: inbox.skipped_bytes("because", 1),
        lambda: inbox.full_scan("sideways"),
    ):
        with pytest.raises(KeyError):
            make()
    assert {name for name, _ in samples(metrics) if "great" in name} == set()


def test_a_mapping_that_goes_takes_all_of_its_series_along(metrics: Metrics, inbox: MappingMetrics) -> None:
    before = samples(metrics)
    other = metrics.mapping("other", bucket="b", mode=Mode.PUSH_SAFE)
    other.error(ErrorReason.CONNECT)
    assert len(of_mapping(metrics, "other")) > 20
    metrics.forget("other")
    assert set(samples(metrics)) == set(before)
    other.error(ErrorReason.CONNECT)
    other.set_state(State.IDLE)
    assert of_mapping(metrics, "other") == set()
    metrics.forget("never seen")
    again = metrics.mapping("other", bucket="b", mode=Mode.PUSH_SAFE)
    assert again is not other
    assert value(metrics, "errors_total", mapping="other", reason="connect") == 0


def test_what_has_snapshots_takes_all_of_its_series_along(metrics: Metrics, live: SnapshotMetrics) -> None:
    before = samples(metrics)
    other = metrics.snapshots("subscription", "other")
    other.show(SnapshotStatus("subscription", "other", "repository", snapshot="id"), SnapshotCounts(changed=1))
    assert value(metrics, "snapshots_total", kind="subscription", name="other", result="changed") == 1
    metrics.forget("other")
    other.show(SnapshotStatus("subscription", "other", "repository", snapshot="id"), SnapshotCounts(changed=2))
    assert samples(metrics).keys() == before.keys()


def test_only_the_current_snapshot_has_an_info_series(metrics: Metrics, live: SnapshotMetrics) -> None:
    for snapshot in ("one", "two", "", "three"):
        live.show(SnapshotStatus("subscription", "live", "repository", snapshot=snapshot), SnapshotCounts())
        infos = [dict(labels) for name, labels in samples(metrics) if name == "jetsync_snapshot_info"]
        assert infos == [{"kind": "subscription", "name": "live", "snapshot": snapshot}] * bool(snapshot)


def test_counts_of_snapshots_go_on_when_what_is_counted_begins_anew(metrics: Metrics, live: SnapshotMetrics) -> None:
    def shown(**counts: float) -> float:
        status = SnapshotStatus("subscription", "live", "repository", last_success=5.0)
        live.show(status, replace(SnapshotCounts(), **counts))  # type: ignore[arg-type]
        return value(metrics, "snapshot_bytes_total", kind="subscription", name="live", source="transferred")

    assert [shown(transferred=sum_) for sum_ in (10, 15, 15, 3)] == [10, 15, 15, 18]
    shown(error=2, unverified=1, last_change=4.0)
    assert value(metrics, "snapshots_total", kind="subscription", name="live", result="error") == 2
    assert value(metrics, "snapshot_verification_failures_total", name="live") == 1
    assert value(metrics, "installed_snapshot_timestamp_seconds", name="live") == 4.0
    assert value(metrics, "snapshot_last_success_timestamp_seconds", kind="subscription", name="live") == 5.0


def test_a_mapping_that_restarts_changed_keeps_its_counters_and_has_one_info(
    metrics: Metrics, inbox: MappingMetrics
) -> None:
    inbox.conflict()
    assert metrics.mapping("inbox", bucket="elsewhere", mode=Mode.PULL_MIRROR, expected_interval=60) is inbox
    infos = [dict(labels) for name, labels in samples(metrics) if name == "jetsync_mapping_info"]
    assert infos == [{"mapping": "inbox", "bucket": "elsewhere", "direction": "pull", "mode": "pull-mirror"}]
    assert value(metrics, "conflicts_total", mapping="inbox") == 1
    assert value(metrics, "mapping_expected_interval_seconds", mapping="inbox") == 60


def test_two_agents_in_one_process_do_not_share_series(inbox: MappingMetrics) -> None:
    assert of_mapping(Metrics("1.2.3"), "inbox") == set()


# -- what the methods do ----------------------------------------------------------------------------------------------


def test_the_state_is_one_hot(metrics: Metrics, inbox: MappingMetrics) -> None:
    for state in State:
        inbox.set_state(state)
        hot = {
            dict(labels)["state"]: value
            for (name, labels), value in samples(metrics).items()
            if name == "jetsync_mapping_state"
        }
        assert hot == {each.value: float(each is state) for each in State}


def test_a_status_is_shown_as_gauges(metrics: Metrics, inbox: MappingMetrics) -> None:
    inbox.problems({"unreadable": 9, "changing": 1})
    inbox.show(
        MappingStatus(
            *("inbox", "/srv/inbox", "files", "two-way"),
            state=State.HALTED,
            local=Tree(3, 300),
            remote=Tree(5, 500),
            pending=Pending(2, 200, since=1000.5),
            conflicts=4,
            diverged=6,
            problems={"unreadable": 7},
            skipped={"fifo": 8},
            halt=Halt("max_delete"),
            last_success=900.0,
        )
    )
    expected = {
        ("mapping_objects", "side", "local"): 3,
        ("mapping_objects", "side", "remote"): 5,
        ("mapping_bytes", "side", "local"): 300,
        ("mapping_bytes", "side", "remote"): 500,
        ("mapping_state", "state", "halted"): 1,
        ("mapping_state", "state", "starting"): 0,
        ("mapping_halted", "reason", "max_delete"): 1,
        ("mapping_halted", "reason", "root_emptied"): 0,
        ("mapping_problems", "reason", "unreadable"): 7,
        ("mapping_problems", "reason", "changing"): 0,
        ("mapping_skipped", "reason", "fifo"): 8,
    }
    for (name, label, of), number in expected.items():
        assert value(metrics, name, mapping="inbox", **{label: of}) == number, name
    plain: dict[str, float] = {
        "pending_objects": 2,
        "pending_bytes": 200,
        "oldest_pending_timestamp_seconds": 1000.5,
        "conflicts": 4,
        "diverged": 6,
        "last_success_timestamp_seconds": 900,
    }
    for name, age_or_count in plain.items():
        assert value(metrics, "mapping_" + name, mapping="inbox") == age_or_count, name
    inbox.pending(0, 0, None)
    assert value(metrics, "mapping_oldest_pending_timestamp_seconds", mapping="inbox") == 0


def test_what_happened_is_counted(metrics: Metrics, inbox: MappingMetrics) -> None:
    inbox.attempt(5.0)
    inbox.transfer("upload", "applied", 100, 0.5)
    inbox.transfer("upload", "applied", 50, 0.5)
    inbox.transfer("delete", "stale", 0, 0.1)
    inbox.reconciled("changed", 2.0)
    inbox.skipped_bytes("moved", 7)
    inbox.conflict()
    inbox.watch(3, 1)
    inbox.watch(4, source="remote")
    inbox.full_scan("local")
    inbox.disk_free(12345)
    by = {"mapping": "inbox"}
    assert value(metrics, "mapping_last_attempt_timestamp_seconds", **by) == 5
    assert value(metrics, "transfers_total", **by, operation="upload", result="applied") == 2
    assert value(metrics, "transfer_bytes_total", **by, operation="upload", result="applied") == 150
    assert value(metrics, "transfers_total", **by, operation="delete", result="stale") == 1
    assert value(metrics, "transfer_duration_seconds_count", operation="upload") == 2
    assert value(metrics, "reconciles_total", **by, result="changed") == 1
    assert value(metrics, "reconcile_duration_seconds_sum", **by) == 2
    assert value(metrics, "skipped_bytes_total", **by, reason="moved") == 7
    assert value(metrics, "conflicts_total", **by) == 1
    assert value(metrics, "watch_events_total", **by, source="local") == 3
    assert value(metrics, "watch_overflows_total", **by, source="local") == 1
    assert value(metrics, "watch_events_total", **by, source="remote") == 4
    assert value(metrics, "full_scans_total", **by, source="local") == 1
    assert value(metrics, "disk_free_bytes", **by) == 12345


def test_an_error_counts_by_its_reason_and_damaged_content_as_an_integrity_failure_too(
    metrics: Metrics, inbox: MappingMetrics
) -> None:
    assert inbox.failure(errors.StoreUnavailableError("x")) is ErrorReason.UNAVAILABLE
    assert inbox.failure(errors.DigestError("x")) is ErrorReason.BAD_DIGEST
    inbox.error(ErrorReason.MISSING_CHUNKS)
    assert value(metrics, "errors_total", mapping="inbox", reason="unavailable") == 1
    assert value(metrics, "errors_total", mapping="inbox", reason="bad_digest") == 1
    assert value(metrics, "integrity_failures_total", mapping="inbox") == 2


def test_connection_and_configuration_are_told(metrics: Metrics) -> None:
    metrics.connected(True)
    metrics.reconnected()
    metrics.rtt(0.25)
    metrics.config_loaded(True, 100.0)
    metrics.config_loaded(False, 200.0)
    metrics.config_in_force("4567")
    metrics.restart_needed(["nats"])
    assert value(metrics, "nats_connected") == 1
    assert value(metrics, "nats_reconnects_total") == 1
    assert value(metrics, "nats_rtt_seconds") == 0.25
    assert value(metrics, "config_last_reload_successful") == 0
    assert value(metrics, "config_last_reload_success_timestamp_seconds") == 100
    assert {key: number for key, number in samples(metrics).items() if key[0] == "jetsync_config_hash_info"} == {
        ("jetsync_config_hash_info", frozenset({("hash", "4567")})): 1
    }
    assert [value(metrics, "config_restart_needed", key=key) for key in ("name", "state_dir", "nats")] == [0, 0, 1]
    assert value(metrics, "build_info", version="1.2.3", revision="abc", python_version=platform.python_version()) == 1


# -- the format -------------------------------------------------------------------------------------------------------


def test_a_scraper_gets_the_format_it_accepts(metrics: Metrics, inbox: MappingMetrics) -> None:
    text, kind = metrics.expose("")
    assert kind.startswith("text/plain; version=0.0.4")
    assert {"jetsync_transfers", "jetsync_mapping_state", "process_cpu_seconds"} <= {
        family.name for family in parse(text.decode())
    }
    text, kind = metrics.expose("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in parse_openmetrics(text.decode())}
    assert {"jetsync_transfers", "jetsync_mapping_state", "process_cpu_seconds"} <= families


def lint(families: Iterator[Metric]) -> list[str]:
    """What promtool would say, and a little more."""
    problems = []
    for family in families:
        names = {sample.name for sample in family.samples}
        if not re.fullmatch(r"[a-z][a-z0-9_]*", family.name):
            problems.append(f"{family.name}: not snake case")
        if not family.documentation:
            problems.append(f"{family.name}: no help")
        if family.type == "counter" and any(not name.endswith("_total") for name in names):
            problems.append(f"{family.name}: a counter without _total")
        if family.type != "counter" and any(name.endswith("_total") for name in names):
            problems.append(f"{family.name}: _total on a {family.type}")
        if family.type == "gauge" and any(name.endswith(("_count", "_sum", "_bucket", "_created")) for name in names):
            problems.append(f"{family.name}: a reserved suffix, or a _created series")
        if re.search(r"_(gauge|counter|histogram|milliseconds|ms|kb|mb|minutes|hours|percent)(_|$)", family.name):
            problems.append(f"{family.name}: a type or no base unit in the name")
    return problems


def test_the_lint_of_this_test_finds_what_is_wrong() -> None:
    bad = (
        "# TYPE a_total gauge\na_total 1\n"
        "# HELP bMs x\n# TYPE bMs gauge\nbMs 1\n"
        "# HELP c_created x\n# TYPE c_created gauge\nc_created 1\n"
    )
    assert len(lint(iter(parse(bad)))) >= 4


def test_the_exposition_is_clean(metrics: Metrics, inbox: MappingMetrics) -> None:
    text = metrics.render().decode()
    assert lint(iter(parse(text))) == []
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text
    assert "python_info" in text


def test_promtool_finds_nothing(metrics: Metrics, inbox: MappingMetrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: package prometheus)")
    told = subprocess.run([promtool, "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert (told.returncode, told.stdout + told.stderr) == (0, b"")


def test_names_from_the_configuration_may_hold_anything(metrics: Metrics) -> None:
    name = 'a"b\\c\nd ü'
    metrics.mapping(name, bucket="b", mode=Mode.TWO_WAY).conflict()
    assert value(metrics, "conflicts_total", mapping=name) == 1
