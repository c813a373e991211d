"""The agent's HTTP pages: probes, metrics, status."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually, write_tree
from tests.support.server import NatsServer, free_port
from tests.support.stock import Stock

METRICS = {
    "jetsync_build_info",
    "jetsync_mapping_info",
    "jetsync_mapping_state",
    "jetsync_mapping_last_success_timestamp_seconds",
    "jetsync_mapping_last_attempt_timestamp_seconds",
    "jetsync_mapping_expected_interval_seconds",
    "jetsync_mapping_oldest_pending_timestamp_seconds",
    "jetsync_mapping_pending_objects",
    "jetsync_mapping_pending_bytes",
    "jetsync_mapping_objects",
    "jetsync_mapping_bytes",
    "jetsync_reconciles_total",
    "jetsync_reconcile_duration_seconds_count",
    "jetsync_transfers_total",
    "jetsync_transfer_bytes_total",
    "jetsync_transfer_duration_seconds_count",
    "jetsync_skipped_bytes_total",
    "jetsync_conflicts_total",
    "jetsync_integrity_failures_total",
    "jetsync_errors_total",
    "jetsync_watch_events_total",
    "jetsync_watch_overflows_total",
    "jetsync_full_scans_total",
    "jetsync_nats_connected",
    "jetsync_nats_reconnects_total",
    "jetsync_nats_rtt_seconds",
    "jetsync_disk_free_bytes",
}


def total(samples: dict[str, float], name: str, *labels: str) -> float:
    """The sum of all samples of `name` whose labels contain all of `labels`."""
    return sum(
        value
        for key, value in samples.items()
        if key.partition("{")[0] == name and all(label in key for label in labels)
    )


def test_probes_answer_and_ready_means_converged(agent: Agent, stock: Stock, bucket: str):
    stock.put(bucket, "object", b"1")
    with agent.run() as running:
        assert running.get("/livez")[0] == 200
        assert running.get("/readyz")[0] == 200
        assert (agent.directory() / "object").exists()


def test_without_a_server_the_agent_lives_and_is_not_ready(make_agent: MakeAgent):
    agent = make_agent(nats=f"nats://127.0.0.1:{free_port()}")
    with agent.run(wait=False) as running:
        eventually(lambda: running.get("/livez")[0] == 200)
        status, text = running.get("/readyz")

        assert status == 503
        assert "files" in text


def test_all_metrics_are_there_from_the_start_and_count_what_happens(agent: Agent, stock: Stock, bucket: str):
    with agent.run() as running:
        first = running.metrics()
        missing = METRICS - {key.partition("{")[0] for key in first}
        assert not missing
        assert total(first, "jetsync_errors_total") == 0

        write_tree(agent.directory(), {"ours": b"12345"})
        stock.put(bucket, "theirs", b"123")
        stock.put_raw(bucket, "../hostile", b"1")
        eventually(lambda: total(running.metrics(), "jetsync_transfers_total", 'operation="download"') == 1)
        eventually(lambda: total(running.metrics(), "jetsync_transfers_total", 'operation="upload"') == 1)
        eventually(lambda: total(running.metrics(), "jetsync_errors_total", 'reason="invalid_name"') == 1)
        eventually(lambda: total(running.metrics(), "jetsync_mapping_objects", 'side="local"') == 2)
        eventually(lambda: total(running.metrics(), "jetsync_mapping_pending_objects") == 0)
        last = running.metrics()

    assert total(last, "jetsync_transfer_bytes_total", 'operation="upload"') == 5
    assert total(last, "jetsync_transfer_bytes_total", 'operation="download"') == 3
    assert total(last, "jetsync_mapping_bytes", 'side="local"') == 8
    assert total(last, "jetsync_nats_connected") == 1
    assert total(last, "jetsync_mapping_last_success_timestamp_seconds") > 1_600_000_000


def test_no_path_is_ever_a_label(agent: Agent, stock: Stock, bucket: str):
    stock.put_raw(bucket, "../hostile", b"1")
    write_tree(agent.directory(), {"peculiar-name": b"1"})
    with agent.run() as running:
        _, text = running.get("/metrics")

    assert "peculiar" not in text
    assert "hostile" not in text


def test_the_status_page_is_json_with_a_version(agent: Agent):
    with agent.run() as running:
        status, text = running.get("/api/v1/status")

    assert status == 200
    assert json.loads(text)["version"] == 1


def test_http_false_opens_no_port(agent: Agent, stock: Stock, bucket_name: str):
    agent.config["http"] = False
    agent.write()
    write_tree(agent.directory(), {"file": b"1"})
    with agent.run(wait=False) as running:
        eventually(lambda: agent.cli("status", "--json").code == 0)

        assert running.get("/livez")[0] == 0


@pytest.mark.parametrize("what", ["/nonsense", "/api/v1/nonsense"])
def test_an_unknown_page_is_404(agent: Agent, what: str):
    with agent.run() as running:
        assert running.get(what)[0] == 404


def test_metrics_stay_true_while_the_server_is_away(make_agent: MakeAgent, fresh_server: NatsServer):
    agent = make_agent(nats=fresh_server.url)
    write_tree(agent.directory(), {"file": b"12345"})
    with agent.run() as running:
        eventually(lambda: total(running.metrics(), "jetsync_mapping_objects", 'side="remote"') == 1)
        fresh_server.kill()
        eventually(lambda: running.metrics()["jetsync_nats_connected"] == 0)
        succeeded = total(running.metrics(), "jetsync_mapping_last_success_timestamp_seconds")
        began = time.time()
        write_tree(agent.directory(), {"first": b"123"})
        eventually(lambda: total(running.metrics(), "jetsync_mapping_pending_objects") == 1)
        oldest = total(running.metrics(), "jetsync_mapping_oldest_pending_timestamp_seconds")
        write_tree(agent.directory(), {"second": b"1234567"})
        eventually(lambda: total(running.metrics(), "jetsync_mapping_pending_objects") == 2)
        away = running.metrics()
        fresh_server.restart()
        eventually(lambda: total(running.metrics(), "jetsync_mapping_last_success_timestamp_seconds") > succeeded)
        after = running.metrics()

    assert began <= oldest <= time.time()
    assert total(away, "jetsync_mapping_oldest_pending_timestamp_seconds") == oldest
    assert total(away, "jetsync_mapping_pending_bytes") == 10
    assert total(away, "jetsync_mapping_objects", 'side="remote"') == 1
    assert total(away, "jetsync_mapping_last_success_timestamp_seconds") == succeeded
    assert total(after, "jetsync_mapping_oldest_pending_timestamp_seconds") == 0
    assert total(after, "jetsync_mapping_pending_objects") == 0


def test_what_is_known_is_told_also_when_an_agent_starts_without_its_server(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"file": b"12345"})
    agent.sync()
    agent.config["nats"] = {"servers": [f"nats://127.0.0.1:{free_port()}"]}
    agent.write()
    with agent.run(wait=False) as running:
        eventually(lambda: total(running.metrics(), "jetsync_mapping_objects", 'side="remote"') == 1)
        assert total(running.metrics(), "jetsync_mapping_bytes", 'side="local"') == 5


def test_cycles_transfers_renames_and_hints_are_counted(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"file": b"12345"})
    with agent.run() as running:
        eventually(lambda: stock.names(bucket) == {"file"})
        (agent.directory() / "file").rename(agent.directory() / "renamed")
        eventually(lambda: stock.names(bucket) == {"renamed"})
        stock.put(bucket, "theirs", b"1")
        eventually((agent.directory() / "theirs").exists)
        eventually(lambda: total(running.metrics(), "jetsync_reconciles_total", 'result="changed"') > 0)
        metrics = running.metrics()

    assert total(metrics, "jetsync_skipped_bytes_total", 'reason="moved"') == 5
    assert total(metrics, "jetsync_transfer_duration_seconds_count", 'operation="upload"') == 1
    assert total(metrics, "jetsync_transfer_duration_seconds_sum", 'operation="upload"') > 0
    assert total(metrics, "jetsync_watch_events_total", 'source="remote"') > 0
    assert total(metrics, "jetsync_watch_events_total", 'source="local"') > 0
    assert total(metrics, "jetsync_errors_total") == 0


# -- a run that nobody can scrape


def textfile(path: Path) -> dict[str, float]:
    """Name{labels} -> value."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_one_sync_leaves_its_metrics_in_a_file(agent: Agent, tmp_path: Path):
    write_tree(agent.directory(), {"file": b"12345"})
    path = tmp_path / "jetsync.prom"
    agent.sync("--metrics-textfile", str(path))
    samples = textfile(path)

    assert total(samples, "jetsync_transfer_bytes_total", 'operation="upload"', 'result="applied"') == 5
    assert total(samples, "jetsync_mapping_objects", 'side="remote"') == 1
    assert samples["jetsync_nats_connected"] == 1
    assert samples["jetsync_config_last_reload_successful"] == 1
    assert total(samples, "jetsync_mapping_last_success_timestamp_seconds") > 1_600_000_000
    assert path.stat().st_mode & 0o777 == 0o644
    assert not any(name.startswith(("process_", "python_")) for name in samples)


def test_a_failed_sync_leaves_its_metrics_too_and_a_file_that_cannot_be_written_is_told(
    make_agent: MakeAgent, tmp_path: Path
):
    agent = make_agent(nats=f"nats://127.0.0.1:{free_port()}")
    path = tmp_path / "jetsync.prom"
    agent.cli("sync", "--timeout", "200ms", "--metrics-textfile", str(path), exit=5)
    samples = textfile(path)

    assert samples["jetsync_nats_connected"] == 0
    assert total(samples, "jetsync_mapping_state", 'state="idle"') == 0
    assert total(samples, "jetsync_mapping_state") == 1
    result = agent.cli("sync", "--timeout", "200ms", "--metrics-textfile", str(tmp_path / "no" / "where.prom"), exit=1)
    assert "can't be written" in result.err


def test_a_sync_that_the_running_agent_does_leaves_that_agents_metrics(agent: Agent, tmp_path: Path):
    path = tmp_path / "jetsync.prom"
    with agent.run():
        write_tree(agent.directory(), {"file": b"12345"})
        agent.sync("--metrics-textfile", str(path))
    samples = textfile(path)

    assert total(samples, "jetsync_transfer_bytes_total", 'operation="upload"', 'result="applied"') == 5
    assert total(samples, "jetsync_mapping_objects", 'side="local"') == 1
