"""`jetsync run` takes over a changed configuration, and only what changed begins anew."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, AgentProcess, eventually, mapping, write_tree
from tests.support.proxy import Proxy
from tests.support.server import NatsServer, free_port
from tests.support.stock import Stock


@contextmanager
def reloaded(running: AgentProcess) -> Iterator[None]:
    """What is done inside makes the agent reload; waits until it has."""
    before = len(running.events("reloaded"))
    yield
    eventually(lambda: len(running.events("reloaded")) > before)


@contextmanager
def refused(running: AgentProcess) -> Iterator[None]:
    """The same for a file that isn't taken."""
    before = len(running.events("not_reloaded"))
    yield
    eventually(lambda: len(running.events("not_reloaded")) > before)


def rename_into_place(agent: Agent) -> None:
    fresh = agent.home / ".config.yaml.new"
    fresh.write_text(yaml.safe_dump(agent.config))
    fresh.rename(agent.config_file)


def status(agent: Agent) -> dict[str, Any]:
    page: dict[str, Any] = agent.cli("status", "--json", exit=0).json
    return page


def series(running: AgentProcess, name: str) -> dict[str, float]:
    return {key: value for key, value in running.metrics().items() if f'mapping="{name}"' in key}


def full_scans(running: AgentProcess) -> dict[str, float]:
    return {key: value for key, value in running.metrics().items() if key.startswith("jetsync_full_scans_total")}


def test_with_one_of_twenty_mappings_changed_the_others_go_on_without_a_look(
    tmp_path: Path, nats_url: str, stock: Stock, bucket_name: str
):
    entries = [mapping(bucket_name, name=f"m{n}", prefix=f"m{n}/") for n in range(20)]
    agent = Agent(tmp_path / "a", nats_url, entries)
    for number in range(20):
        write_tree(agent.directory(f"m{number}"), {"file": b"%d" % number, "left.tmp": b"t"})
    with agent.run() as running:
        before = full_scans(running)
        assert len(before) == 40
        with reloaded(running):
            entries[7]["exclude"] = ["*.tmp"]
            rename_into_place(agent)
        write_tree(agent.directory("m7"), {"new": b"n", "new.tmp": b"t"})
        write_tree(agent.directory("m8"), {"new": b"n", "new.tmp": b"t"})
        eventually(lambda: "m7/new" in stock.names(bucket_name))
        eventually(lambda: "m8/new.tmp" in stock.names(bucket_name))
        after = full_scans(running)
        (event,) = running.events("reloaded")

    grown = {key for key in before if after[key] != before[key]}
    assert {re.search(r'mapping="(\w+)"', key)[1] for key in grown} == {"m7"}  # type: ignore[index]
    assert event["mappings_changed"] == ["m7"]
    assert "m7/new.tmp" not in stock.names(bucket_name)


def test_a_mapping_that_is_added_starts_and_one_that_is_removed_stops_with_its_series(
    tmp_path: Path, nats_url: str, stock: Stock, bucket_name: str
):
    one = mapping(bucket_name, name="one", prefix="one/")
    agent = Agent(tmp_path / "a", nats_url, [one])
    write_tree(agent.directory("one"), {"file": b"1"})
    with agent.run() as running:
        two = mapping(f"{bucket_name}-two", name="two")
        stock.create(two["bucket"])
        agent.config["mappings"] = [two]
        agent.config["buckets"][two["bucket"]] = {}
        write_tree(agent.directory("two"), {"file": b"2"})
        with reloaded(running):
            agent.write()
        eventually(lambda: stock.names(two["bucket"]) == {"file"})
        assert series(running, "one") == {}
        assert len(series(running, "two")) > 20
        assert [entry["name"] for entry in status(agent)["mappings"]] == ["two"]
        write_tree(agent.home / "one", {"unseen": b"1"})
        (event,) = running.events("reloaded")
        assert (event["mappings_added"], event["mappings_removed"]) == (["two"], ["one"])
        agent.cli("pause", "one", exit=2)
        eventually(lambda: running.get("/readyz")[0] == 200)

    assert stock.names(bucket_name) == {"one/file"}


def test_a_directory_may_go_from_one_mapping_to_another(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"file": b"1"})
    with agent.run() as running:
        agent.config["mappings"][0].update(name="renamed", directory="./files")
        with reloaded(running):
            agent.write()
        write_tree(agent.home / "files", {"more": b"2"})
        eventually(lambda: stock.names(bucket_name) == {"file", "more"})
        assert not running.events("mapping_failed")


def test_a_wrong_file_changes_nothing_and_every_problem_is_told_with_its_place(
    agent: Agent, stock: Stock, bucket_name: str
):
    good = agent.config_file.read_text()
    with agent.run() as running:
        loaded = running.metrics()["jetsync_config_last_reload_success_timestamp_seconds"]
        assert loaded > 1_600_000_000
        assert running.metrics()["jetsync_config_last_reload_successful"] == 1
        with refused(running):
            agent.config_file.write_text(good + "mapings: []\nlog: {level: loud}\n")
        told = [event["problem"] for event in running.events("config_problem")]
        line = good.count("\n") + 1
        assert f'{agent.config_file}:{line}:1: mapings: unknown key; did you mean "mappings"?' in told
        assert any(re.match(rf"{agent.config_file}:\d+:\d+: ", problem) and "log" in problem for problem in told)
        metrics = running.metrics()
        assert metrics["jetsync_config_last_reload_successful"] == 0
        assert metrics["jetsync_config_last_reload_success_timestamp_seconds"] == loaded
        page = status(agent)["config"]
        assert page["error"] in told
        assert page["hash"] == hashlib.sha256(good.encode()).hexdigest()
        write_tree(agent.directory(), {"file": b"goes on"})
        eventually(lambda: stock.names(bucket_name) == {"file"})
        assert "is not in force" in agent.cli("status", exit=0).out

        with reloaded(running):
            agent.config_file.write_text(good + "# better\n")
        metrics = running.metrics()
        assert metrics["jetsync_config_last_reload_successful"] == 1
        assert metrics["jetsync_config_last_reload_success_timestamp_seconds"] > loaded
        digest = hashlib.sha256((good + "# better\n").encode()).hexdigest()
        hashes = {key: value for key, value in metrics.items() if key.startswith("jetsync_config_hash_info")}
        assert hashes == {f'jetsync_config_hash_info{{hash="{digest}"}}': 1}
        page = status(agent)["config"]
        assert (page["error"], page["hash"], page["restart_needed"]) == ("", digest, [])


def test_sighup_never_ends_the_agent_and_reloads_the_file_as_it_is(agent: Agent):
    running = agent.run(wait=False)
    with running:
        eventually(lambda: "agent" in Path(f"/proc/{running.pid}/cmdline").read_text().replace("\0", " "))
        eventually(lambda: caught(running.pid, signal.SIGHUP))
        for _ in range(20):
            running.signal(signal.SIGHUP)
        running.wait_ready()
        eventually(lambda: running.events("reloaded"))
        assert running.events("reloaded")[0]["unchanged"]
        with reloaded(running):
            running.signal(signal.SIGHUP)
        agent.config_file.unlink()
        with refused(running):
            running.signal(signal.SIGHUP)
        assert running.running
        assert running.stop() == 143


def caught(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    (mask,) = re.findall(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_config_map_is_taken_over_when_it_is_swapped(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent()
    absolute = dict(agent.config, state_dir=str(agent.state_dir))
    absolute["mappings"] = [dict(agent.config["mappings"][0], directory=str(agent.directory()))]
    folder = agent.home / "etc"
    folder.mkdir()

    def swap(version: int, config: dict[str, Any]) -> None:
        (folder / f"..v{version}").mkdir()
        (folder / f"..v{version}" / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "..data_tmp").symlink_to(f"..v{version}")
        (folder / "..data_tmp").rename(folder / "..data")

    swap(1, absolute)
    agent.config_file.unlink()
    (folder / "config.yaml").symlink_to("..data/config.yaml")
    mounted = Agent.__new__(Agent)
    mounted.__dict__.update(agent.__dict__, home=folder)
    with mounted.run() as running:
        write_tree(agent.home / "files", {"a.tmp": b"1"})
        eventually(lambda: stock.names(bucket_name) == {"a.tmp"})
        absolute["mappings"][0]["exclude"] = ["*.tmp"]
        with reloaded(running):
            swap(2, absolute)
        write_tree(agent.home / "files", {"b.tmp": b"1", "c": b"1"})
        eventually(lambda: stock.names(bucket_name) == {"a.tmp", "c"})


def test_what_needs_a_restart_is_told_and_everything_else_holds(agent: Agent, stock: Stock, bucket_name: str):
    with agent.run() as running:
        agent.config.update(name="other", state_dir="./elsewhere")
        agent.config["mappings"][0]["exclude"] = ["*.tmp"]
        with reloaded(running):
            agent.write()
        assert sorted(event["key"] for event in running.events("restart_needed")) == ["name", "state_dir"]
        metrics = running.metrics()
        assert metrics['jetsync_config_restart_needed{key="name"}'] == 1
        assert metrics['jetsync_config_restart_needed{key="nats"}'] == 0
        assert metrics["jetsync_config_last_reload_successful"] == 1
        status_code, text = running.get("/api/v1/status")
        assert status_code == 200
        assert '"restart_needed": ["name", "state_dir"]' in text
        write_tree(agent.directory(), {"x.tmp": b"1", "x": b"1"})
        eventually(lambda: stock.names(bucket_name) == {"x"})

        agent.config.update(name=agent.home.name, state_dir="./state")
        with reloaded(running):
            agent.write()
        assert running.metrics()['jetsync_config_restart_needed{key="name"}'] == 0


def test_log_level_and_http_are_taken_over(agent: Agent, stock: Stock, bucket_name: str):
    with agent.run() as running:
        old, agent.http_port = agent.http_port, free_port()
        agent.config["http"] = {"listen": f"127.0.0.1:{agent.http_port}", "ready": "connected"}
        agent.config["log"]["level"] = "warning"
        agent.write()
        eventually(lambda: running.get("/readyz?verbose")[0] == 200)
        assert "nats" in running.get("/readyz?verbose")[1]
        new, agent.http_port = agent.http_port, old
        assert running.get("/livez")[0] == 0
        agent.http_port = new
        lines = len(running.events())
        write_tree(agent.directory(), {"quiet": b"1"})
        eventually(lambda: stock.names(bucket_name) == {"quiet"})
        assert len(running.events()) == lines

        taken = free_port()
        with Taken(taken), refused(running):
            agent.config["http"]["listen"] = f"127.0.0.1:{taken}"
            agent.config["mappings"][0]["exclude"] = ["*.tmp"]
            agent.write()
        assert "in use" in status(agent)["config"]["error"]
        assert running.get("/livez")[0] == 200
        write_tree(agent.directory(), {"still.tmp": b"1"})
        eventually(lambda: stock.names(bucket_name) == {"quiet", "still.tmp"})


class Taken:
    """Somebody else listens there."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __enter__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", self.port))

    def __exit__(self, *exc: object) -> None:
        self._socket.close()


def test_other_servers_are_taken_over_without_a_look(
    agent: Agent, nats_server: NatsServer, stock: Stock, bucket_name: str
):
    with Proxy(nats_server.port) as proxy, agent.run() as running:
        before = full_scans(running)
        agent.config["nats"] = {"servers": [proxy.url]}
        with reloaded(running):
            agent.write()
        eventually(lambda: proxy.connections > 0 and running.metrics()["jetsync_nats_connected"] == 1)
        write_tree(agent.directory(), {"by the proxy": b"1"})
        eventually(lambda: stock.names(bucket_name) == {"by the proxy"})
        assert proxy.to_server > 0
        assert full_scans(running).keys() == before.keys()

        with refused(running):
            agent.config["nats"]["token_file"] = "./nowhere"
            agent.write()
        (problem,) = running.events("config_problem")
        assert "nowhere doesn't exist" in problem["problem"]
        assert running.metrics()["jetsync_nats_connected"] == 1


def test_servers_that_do_not_answer_can_be_corrected(agent: Agent, nats_url: str, stock: Stock, bucket_name: str):
    with agent.run() as running:
        agent.config["nats"] = {"servers": [f"nats://127.0.0.1:{free_port()}"]}
        with reloaded(running):
            agent.write()
        eventually(lambda: running.metrics()["jetsync_nats_connected"] == 0)
        agent.config["nats"] = {"servers": [nats_url]}
        with reloaded(running):
            agent.write()
        eventually(lambda: running.metrics()["jetsync_nats_connected"] == 1)
        write_tree(agent.directory(), {"file": b"1"})
        eventually(lambda: stock.names(bucket_name) == {"file"})


def test_an_agent_that_never_connected_takes_over_the_right_servers(make_agent: MakeAgent, nats_url: str):
    agent = make_agent(nats=f"nats://127.0.0.1:{free_port()}")
    with agent.run(wait=False) as running:
        eventually(lambda: running.events("not_connected"))
        agent.config["nats"] = {"servers": [nats_url]}
        with reloaded(running):
            agent.write()
        running.wait_ready()


def test_a_declared_bucket_gets_its_new_shape_and_a_missing_one_is_made(
    make_agent: MakeAgent, stock: Stock, bucket_name: str
):
    agent = make_agent(buckets={})
    with agent.run(wait=False) as running:
        eventually(lambda: running.events("mapping_failed"))
        agent.config["buckets"] = {bucket_name: {}}
        with reloaded(running):
            agent.write()
        running.wait_ready()
        agent.config["buckets"] = {bucket_name: {"description": "new words"}}
        with reloaded(running):
            agent.write()
        eventually(lambda: agent.cli("bucket", "show", bucket_name, "--json").json["description"] == "new words")


def test_a_changed_mapping_keeps_its_counters_its_readiness_and_its_conflicts_are_not_new(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent(conflicts="report")
    write_tree(agent.directory(), {"both": b"ours"})
    stock.put(bucket, "both", b"theirs")
    with agent.run(wait=False) as running:
        key = 'jetsync_conflicts_total{mapping="files"}'
        eventually(lambda: running.metrics()[key] == 1)
        running.wait_ready()
        agent.config["mappings"][0]["exclude"] = ["*.tmp"]
        with reloaded(running):
            agent.write()
        assert running.get("/readyz")[0] == 200
        write_tree(agent.directory(), {"x.tmp": b"1", "more": b"1"})
        eventually(lambda: stock.names(bucket) == {"both", "more"})
        assert running.metrics()[key] == 1
        assert len(running.events("conflict")) == 1


def test_subscriptions_and_publications_come_and_go(tmp_path: Path, nats_url: str, bucket_name: str):
    agent = Agent(tmp_path / "a", nats_url, [], buckets={bucket_name: {}})
    (agent.home / "tree").mkdir()
    write_tree(agent.home / "tree", {"file": b"1"})
    (agent.home / "live").mkdir()
    with agent.run() as running:
        agent.config["publications"] = [
            {
                "name": "pub",
                "directory": "./tree",
                "repository": bucket_name,
                "channel": "stable",
                "trigger": "on-change",
            }
        ]
        agent.config["subscriptions"] = [
            {"name": "sub", "directory": "./live", "repository": bucket_name, "channel": "stable"}
        ]
        with reloaded(running):
            agent.write()
        eventually(lambda: (agent.home / "live" / "current" / "file").read_bytes() == b"1")
        agent.config["subscriptions"][0]["keep"] = 1
        with reloaded(running):
            agent.write()
        write_tree(agent.home / "tree", {"file": b"2"})
        eventually(lambda: (agent.home / "live" / "current" / "file").read_bytes() == b"2")
        del agent.config["subscriptions"]
        with reloaded(running):
            agent.write()
        assert [item["name"] for item in status(agent)["snapshots"]] == ["pub"]
        assert running.events("reloaded")[1]["subscriptions_changed"] == ["sub"]


def test_a_reload_in_the_middle_of_the_first_sync_loses_nothing(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {f"f{number}": b"%d" % number for number in range(200)})
    with agent.run(wait=False) as running:
        eventually(lambda: running.events("started"))
        agent.config["mappings"][0]["settle"] = "100ms"
        with reloaded(running):
            agent.write()
        running.wait_ready()

    assert len(stock.names(bucket_name)) == 200
