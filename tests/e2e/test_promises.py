"""The promises of DESIGN section 5, one test each, end to end; docs/INVARIANTS.md lists what else shows each of them.

Promise 10 is about snapshots, which aren't there yet.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import threading
import time
from pathlib import Path

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually, files, read_tree, write_tree
from tests.support.server import NatsServer
from tests.support.stock import Stock

TREE = {f"d{number % 3}/f{number:02}": b"content %d" % number for number in range(24)}
MIB = 1 << 20


def kept(agent: Agent) -> set[bytes]:
    """All contents that exist anywhere below the directory: in the tree, as conflict copies, in the trash."""
    return {path.read_bytes() for path in agent.directory().rglob("*") if path.is_file()}


def test_promise_1_a_path_holds_its_old_bytes_or_its_new_bytes_whole(agent: Agent, stock: Stock, bucket: str):
    versions = [random.Random(number).randbytes(3 * MIB + number) for number in range(6)]
    known = {hashlib.sha256(version).digest() for version in versions}
    stock.put(bucket, "file", versions[0])
    with agent.run():
        path = agent.directory() / "file"
        eventually(path.exists)
        stop = threading.Event()
        strange: list[int] = []

        def read() -> None:
            while not stop.is_set():
                content = path.read_bytes()
                if hashlib.sha256(content).digest() not in known:
                    strange.append(len(content))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for version in versions[1:]:
                stock.put(bucket, "file", version)
                time.sleep(0.2)
            eventually(lambda: path.read_bytes() == versions[-1])
        finally:
            stop.set()
            reader.join()
    assert not strange


def test_promise_2_no_write_is_lost_unless_someone_who_had_seen_it_overwrote_it(
    pair: tuple[Agent, Agent], stock: Stock, bucket: str
):
    a, b = pair
    write_tree(a.directory(), {"file": b"first"})
    a.sync()
    b.sync()
    write_tree(a.directory(), {"file": b"by a"})
    write_tree(b.directory(), {"file": b"by b"})
    a.sync()
    stock.put(bucket, "file", b"by a client that looks at nothing")
    b.sync()
    a.sync()
    b.sync()
    assert read_tree(a.directory()) == read_tree(b.directory())
    assert {b"by a", b"by b", b"by a client that looks at nothing"} <= kept(a) | kept(b)
    assert {b"by b", b"by a client that looks at nothing"} <= set(stock.contents(bucket).values())


def test_promise_3_what_cannot_be_read_is_never_taken_for_deleted(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), TREE)
    agent.sync()
    (agent.directory() / "d1").chmod(0)
    (agent.directory() / "d2/f02").chmod(0)
    try:
        agent.sync(exit=3, unprivileged=True)
        assert stock.contents(bucket) == TREE
    finally:
        (agent.directory() / "d1").chmod(0o755)


def test_promise_4_a_lost_state_deletes_and_overwrites_nothing_that_differs(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), TREE)
    agent.sync()
    shutil.rmtree(agent.home / "state")
    write_tree(agent.directory(), {"d0/f00": b"edited here", "here": b"here"})
    (agent.directory() / "d1/f01").unlink()
    stock.put(bucket, "d0/f00", b"edited there")
    stock.delete(bucket, "d2/f02")
    agent.sync()
    everything = {*TREE.values(), b"edited here", b"edited there", b"here"} - {TREE["d0/f00"]}
    assert everything <= set(stock.contents(bucket).values())
    assert everything <= kept(agent)


def test_promise_5_an_emptied_root_and_a_purged_bucket_halt_and_delete_nothing(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), TREE)
    agent.sync()
    for name in ("d0", "d1", "d2"):
        (agent.directory() / name).rename(agent.home / name)
    assert agent.sync(exit=3)["halt"]["reason"] == "root_emptied"
    assert stock.contents(bucket) == TREE
    for name in ("d0", "d1", "d2"):
        (agent.home / name).rename(agent.directory() / name)
    assert agent.sync()["halt"] is None
    stock.api(f"STREAM.PURGE.OBJ_{bucket}")
    assert agent.sync(exit=3)["halt"]["reason"] == "bucket_purged"
    assert read_tree(agent.directory()) == files(TREE)


def test_promise_6_an_agent_killed_at_any_instant_loses_nothing_and_the_next_run_converges(
    pair: tuple[Agent, Agent], stock: Stock, bucket: str
):
    chance = random.Random(6)
    a, b = pair
    wanted = dict(TREE)
    for turn in range(6):
        wanted |= {f"d{turn}/new{turn}": chance.randbytes(200_000), f"d{turn % 3}/f{turn:02}": b"edited %d" % turn}
        write_tree(a.directory(), wanted)
        for agent in pair:
            running = agent.run(wait=False)
            time.sleep(0.4 + chance.random())
            running.kill()
    for agent in (a, b, a):
        agent.sync()
    assert read_tree(a.directory()) == read_tree(b.directory()) == files(wanted)
    assert stock.contents(bucket) == wanted


def test_promise_7_what_is_written_carries_the_digest_that_its_object_promises(agent: Agent, stock: Stock, bucket: str):
    stock.put(bucket, "good", b"good")
    stock.put_raw(bucket, "bad", b"not what was promised", digest="SHA-256=" + "A" * 43 + "=")
    result = agent.sync(exit=3)
    assert [problem["path"] for problem in result["problems"]] == ["bad"]
    assert read_tree(agent.directory()) == files({"good": b"good"})
    write_tree(agent.directory(), {"mine": b"mine"})
    agent.sync(exit=None)
    meta = stock.meta(bucket, "mine")
    assert meta is not None
    assert stock.digests(bucket)["mine"] == hashlib.sha256(b"mine").hexdigest()


def test_promise_8_no_name_and_no_link_leads_out_of_the_directory(
    make_agent: MakeAgent, stock: Stock, bucket: str, tmp_path: Path
):
    agent = make_agent(mode="pull-mirror")
    outside = tmp_path / "outside"
    write_tree(outside, {"precious": b"precious"})
    for name in ("../outside/precious", "/tmp/x", "a/../../outside/new", ".jetsync/root.json", "..", "a//b"):
        stock.put_raw(bucket, name, b"hostile")
    stock.put_raw(bucket, "link", b"", digest="", options={"link": {"bucket": bucket, "name": "../outside/other"}})
    stock.put(bucket, "good", b"good")
    agent.sync(exit=3)
    assert read_tree(agent.directory()) == files({"good": b"good"})
    assert read_tree(outside) == files({"precious": b"precious"})
    assert not (agent.home / "outside").exists()


def test_promise_9_the_plan_of_a_converged_mapping_is_empty_and_stays_empty(pair: tuple[Agent, Agent], bucket: str):
    write_tree(pair[0].directory(), TREE)
    for agent in (*pair, *pair):
        agent.sync()
    for agent in (*pair, *pair):
        assert agent.plan()["actions"] == []
        result = agent.sync()
        assert not result["uploads"] + result["downloads"] + result["metadata_updates"]


def test_promise_11_any_other_client_reads_and_writes_the_same_bucket(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"mine": b"mine", "large": b"x" * (3 * MIB)})
    stock.put(bucket, "theirs", b"theirs")
    agent.sync()
    assert stock.get(bucket, "large") == b"x" * (3 * MIB)
    stock.put(bucket, "mine", b"theirs now")
    stock.delete(bucket, "large")
    agent.sync()
    assert read_tree(agent.directory()) == files({"mine": b"theirs now", "theirs": b"theirs"})


def test_promise_12_the_cost_of_one_change_does_not_depend_on_the_size_of_the_tree(
    make_agent: MakeAgent, tmp_path: Path
):
    costs = []
    for number in (20, 2000):
        with NatsServer(tmp_path / f"nats-{number}") as server:
            agent = make_agent(f"agent-{number}", nats=server.url, bucket="b", buckets={"b": {}})
            write_tree(agent.directory(), {f"d{at % 10}/f{at}": b"%d" % at for at in range(number)})
            with agent.run(), Stock(server.url) as stock:
                eventually(lambda: len(stock.names("b")) == number, timeout=60)  # noqa: B023 - called here
                eventually(lambda: agent.plan()["actions"] == [])  # noqa: B023
                before = server.monitor("varz")["in_msgs"]
                write_tree(agent.directory(), {"d0/f0": b"changed"})
                time.sleep(3.0)
                costs.append(server.monitor("varz")["in_msgs"] - before)
                assert stock.get("b", "d0/f0") == b"changed"
    assert costs[1] <= costs[0] + 20, costs  # messages of the client; beats of the heart among them
