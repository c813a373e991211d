"""Kills, signals, lost servers, lost networks: nothing is lost or left behind, and the next run converges."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, digests, environment, eventually, files, read_tree, write_tree
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock

MIB = 1024 * 1024


@pytest.fixture
def proxy(nats_server: NatsServer) -> Iterator[Proxy]:
    with Proxy(nats_server.port) as proxy:
        yield proxy


def sync_in_background(agent: Agent) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent", "-c", str(agent.config_file), "sync"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


def large_file(path: Path, mib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = random.Random(mib)
    with path.open("wb") as out:
        for _ in range(mib):
            out.write(source.randbytes(MIB))


@pytest.mark.timeout(150)
def test_a_killed_upload_leaves_no_object_and_its_chunks_are_purged_at_the_next_start(
    make_agent: MakeAgent, proxy: Proxy, stock: Stock, bucket: str
):
    agent = make_agent(nats=proxy.url)
    large_file(agent.directory() / "large", 200)
    proxy.throttle(40 * MIB)
    process = sync_in_background(agent)
    eventually(lambda: proxy.to_server > 10 * MIB)
    process.kill()
    process.wait()
    assert stock.names(bucket) == set()
    assert stock.orphans(bucket) != {}

    proxy.resume()
    assert agent.sync()["uploads"] == 1
    assert stock.digests(bucket) == digests(agent.directory())
    with agent.run():
        eventually(lambda: stock.orphans(bucket) == {}, timeout=90)


@pytest.mark.timeout(150)
def test_chunks_of_a_killed_upload_are_purged_when_the_file_is_gone_as_well(
    make_agent: MakeAgent, proxy: Proxy, stock: Stock, bucket: str
):
    agent = make_agent(nats=proxy.url)
    large_file(agent.directory() / "large", 64)
    proxy.throttle(20 * MIB)
    process = sync_in_background(agent)
    eventually(lambda: proxy.to_server > 5 * MIB)
    process.kill()
    process.wait()
    assert stock.orphans(bucket) != {}
    (agent.directory() / "large").unlink()
    proxy.resume()
    with agent.run():
        eventually(lambda: stock.orphans(bucket) == {}, timeout=90)

    assert stock.names(bucket) == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_upload_in_flight_at_a_signal_becomes_visible_or_leaves_nothing(
    make_agent: MakeAgent, proxy: Proxy, stock: Stock, bucket: str, number: int
):
    agent = make_agent(nats=proxy.url)
    with agent.run() as running:
        proxy.throttle(4 * MIB)
        before = proxy.to_server
        large_file(agent.directory() / "large", 32)
        eventually(lambda: proxy.to_server > before + 2 * MIB)
        running.signal(number)
        code = running.wait(45)

    assert code == 128 + number
    assert stock.orphans(bucket) == {}
    if stock.names(bucket):
        assert stock.digests(bucket) == digests(agent.directory())
    proxy.resume()
    agent.sync()
    assert stock.digests(bucket) == digests(agent.directory())


def test_a_killed_download_leaves_no_part_of_a_file(make_agent: MakeAgent, proxy: Proxy, stock: Stock, bucket: str):
    agent = make_agent(nats=proxy.url, mode="pull-safe")
    content = random.Random(1).randbytes(32 * MIB)
    stock.put(bucket, "large", content)
    proxy.throttle(10 * MIB)
    process = sync_in_background(agent)
    eventually(lambda: proxy.to_client > 4 * MIB)
    process.kill()
    process.wait()
    assert read_tree(agent.directory()) == {}

    proxy.resume()
    agent.sync()
    assert read_tree(agent.directory()) == files({"large": content})
    left = [
        path for path in (agent.directory() / ".jetsync").rglob("*") if path.is_file() and path.stat().st_size > MIB
    ]
    assert left == []


@pytest.mark.parametrize("seed", range(3))
def test_an_agent_killed_again_and_again_converges_and_loses_nothing(
    make_agent: MakeAgent, stock: Stock, bucket: str, seed: int
):
    chance = random.Random(seed)
    agent = make_agent()
    ours = {f"d{number % 7}/ours-{number}": chance.randbytes(chance.choice([0, 10, 200_000])) for number in range(60)}
    theirs = {f"d{number % 7}/theirs-{number}": chance.randbytes(1000) for number in range(30)}
    write_tree(agent.directory(), ours)
    for name, data in theirs.items():
        stock.put(bucket, name, data)
    for _ in range(5):
        process = sync_in_background(agent)
        try:
            process.wait(0.4 + chance.random())
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    agent.sync()

    assert read_tree(agent.directory()) == files({**ours, **theirs})
    assert stock.contents(bucket) == {**ours, **theirs}
    assert agent.plan()["actions"] == []


def test_an_agent_that_starts_before_its_server_lives_and_is_ready_when_it_comes(
    make_agent: MakeAgent, fresh_server: NatsServer
):
    agent = make_agent(nats=fresh_server.url)
    write_tree(agent.directory(), {"file": b"1"})
    fresh_server.stop()
    with agent.run(wait=False) as running:
        eventually(lambda: running.get("/livez")[0] == 200)
        assert running.get("/readyz")[0] == 503
        fresh_server.start()
        running.wait_ready()
        with Stock(fresh_server.url) as stock:
            assert stock.names(agent.config["mappings"][0]["bucket"]) == {"file"}


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_changes_made_while_the_server_is_away_arrive_when_it_is_back(
    make_agent: MakeAgent, fresh_server: NatsServer, bucket_name: str, how: str
):
    agent = make_agent(nats=fresh_server.url)
    with agent.run() as running, Stock(fresh_server.url) as stock:
        write_tree(agent.directory(), {"edited": b"before", "deleted": b"1"})
        eventually(lambda: len(stock.names(bucket_name)) == 2)
        fresh_server.kill() if how == "killed" else fresh_server.stop()
        write_tree(agent.directory(), {"edited": b"during", "made": b"2"})
        (agent.directory() / "deleted").unlink()
        assert running.get("/livez")[0] == 200
        fresh_server.start()

        eventually(lambda: digests(agent.directory()) == stock.digests(bucket_name), timeout=45)
        assert set(read_tree(agent.directory())) == {"edited", "made"}


def test_a_network_that_swallows_packets_is_noticed_and_survived(
    make_agent: MakeAgent, proxy: Proxy, stock: Stock, bucket: str
):
    agent = make_agent(nats=proxy.url)
    with agent.run():
        write_tree(agent.directory(), {"before": b"1"})
        eventually(lambda: "before" in stock.names(bucket))
        proxy.hold()
        write_tree(agent.directory(), {"during": b"2"})
        stock.put(bucket, "theirs", b"3")
        proxy.cut()
        proxy.resume()

        eventually(lambda: digests(agent.directory()) == stock.digests(bucket), timeout=45)
        assert set(read_tree(agent.directory())) == {"before", "during", "theirs"}


def test_a_connection_cut_in_the_middle_of_an_upload_is_survived(
    make_agent: MakeAgent, proxy: Proxy, stock: Stock, bucket: str
):
    agent = make_agent(nats=proxy.url)
    with agent.run():
        proxy.throttle(20 * MIB)
        before = proxy.to_server
        large_file(agent.directory() / "large", 40)
        eventually(lambda: proxy.to_server > before + 5 * MIB)
        proxy.cut()
        proxy.resume()

        eventually(lambda: digests(agent.directory()) == stock.digests(bucket), timeout=50)


def test_an_idle_agent_stops_cleanly(agent: Agent, stock: Stock, bucket: str):
    with agent.run() as running:
        code = running.stop()

    assert code == 143
    assert "Traceback" not in running.log
    assert not (agent.state_dir / "control.sock").exists()
