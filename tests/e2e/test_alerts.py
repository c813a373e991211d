"""A real Prometheus scrapes a real agent: what goes wrong fires its alert, and no other one.

Needs Prometheus (Debian: package prometheus). The waiting times of the alerts are taken out, which `promtool test
rules` tests; JetsyncDiskWillFill keeps its own, since what else happens on this machine's disk isn't for this test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.agent import Agent, eventually, mapping, write_tree
from tests.support.server import DIE_WITH_PARENT, NatsServer, free_port
from tests.support.stock import Stock

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
SLOW = "JetsyncDiskWillFill"

Firing = Callable[[], set[str]]


@pytest.fixture
def watched(tmp_path: Path, fresh_server: NatsServer) -> Agent:
    """An agent with a mapping that reports conflicts and one that can be halted."""
    entries = [
        mapping("careful", name="careful", conflicts="report"),
        mapping("emptied", name="emptied"),
    ]
    agent = Agent(tmp_path / "a", fresh_server.url, entries)
    write_tree(agent.directory("careful"), {"both": b"base"})
    write_tree(agent.directory("emptied"), {"one": b"1", "two": b"2", "three": b"3"})
    return agent


@pytest.fixture
def firing(tmp_path: Path, watched: Agent) -> Iterator[Firing]:
    """The names of the alerts that fire, from a Prometheus that scrapes the agent each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not here (Debian: package prometheus)")
    home = tmp_path / "prometheus"
    home.mkdir()
    rules = yaml.safe_load(ALERTS.read_text())
    for rule in rules["groups"][0]["rules"]:
        if rule["alert"] != SLOW:
            rule.pop("for", None)
    (home / "alerts.yaml").write_text(yaml.safe_dump(rules))
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [
            {"job_name": "jetsync", "static_configs": [{"targets": [f"127.0.0.1:{watched.http_port}"]}]}
        ],
    }
    (home / "prometheus.yaml").write_text(yaml.safe_dump(config))
    url = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={home / 'prometheus.yaml'}", f"--storage.tsdb.path={home / 'data'}"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*DIE_WITH_PARENT, *command, f"--web.listen-address={url}"],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )

    def ask() -> set[str]:
        with urllib.request.urlopen(f"http://{url}/api/v1/alerts", timeout=5) as answer:
            alerts = json.load(answer)["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    try:
        eventually(lambda: ask() is not None)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_what_goes_wrong_fires_its_alert_and_no_other(watched: Agent, firing: Firing, fresh_server: NatsServer):
    with watched.run() as running, Stock(fresh_server.url) as stock:
        eventually(lambda: firing() == set())

        # A conflict.
        watched.cli("pause", "careful", exit=0)
        stock.put("careful", "both", b"theirs, and longer")
        write_tree(watched.directory("careful"), {"both": b"ours"})
        eventually(lambda: running.metrics()['jetsync_mapping_pending_objects{mapping="careful"}'] == 1)
        watched.cli("resume", "careful", exit=0)
        eventually(lambda: running.metrics()['jetsync_mapping_conflicts{mapping="careful"}'] == 1)
        eventually(lambda: firing() == {"JetsyncConflicts"})
        watched.cli("resolve", "careful", "both", "--keep", "local", exit=0)
        eventually(lambda: firing() == set())

        # A wrong configuration.
        good = watched.config_file.read_text()
        watched.config_file.write_text(good + "nonsense: 1\n")
        eventually(lambda: firing() == {"JetsyncConfigReloadFailed"})
        watched.config_file.write_text(good)
        eventually(lambda: firing() == set())

        # A directory that was emptied.
        for path in watched.directory("emptied").glob("[a-z]*"):
            path.unlink()
        eventually(lambda: firing() == {"JetsyncHalted"})
        write_tree(watched.directory("emptied"), {"one": b"1", "two": b"2", "three": b"3"})
        eventually(lambda: firing() == set())

        # No server.
        fresh_server.kill()
        write_tree(watched.directory("careful"), {"waits": b"1"})
        eventually(lambda: firing() == {"JetsyncDisconnected"})
        fresh_server.restart()
        eventually(lambda: firing() == set(), timeout=40)

    eventually(lambda: firing() == {"JetsyncDown"})
