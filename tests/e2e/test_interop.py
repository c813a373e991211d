"""The stock client beside us: it reads what jetsync writes, jetsync reads what it writes, and races lose nothing."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from nats.js.errors import ObjectNotFoundError

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, File, Link, Node, digests, eventually, files, read_tree, write_tree
from tests.support.server import NatsServer
from tests.support.stock import Stock


def test_objects_of_the_stock_client_are_read_whatever_their_chunks(agent: Agent, stock: Stock, bucket: str):
    contents = {
        "empty": (b"", None),
        "one chunk": (b"x" * 1000, None),
        "many chunks": (random.Random(1).randbytes(400_000), None),
        "exact chunks": (b"y" * 262_144, None),
        "tiny chunks": (b"z" * 5000, 7),
        "d/ünï": (b"unicode", None),
    }
    for name, (data, chunk_size) in contents.items():
        stock.put(bucket, name, data, chunk_size=chunk_size)
    result = agent.sync()

    assert result["downloads"] == len(contents)
    assert read_tree(agent.directory()) == files({name: data for name, (data, _) in contents.items()})


def test_ragged_chunks_are_read(agent: Agent, stock: Stock, bucket: str):
    pieces = [b"a" * 10, b"b" * 70_000, b"c", b"d" * 131_072]
    for piece in pieces:
        stock.publish_chunk(bucket, "ragged", piece)
    whole = b"".join(pieces)
    stock.put_raw(bucket, "ragged", whole, nuid="ragged", chunks=4)
    # put_raw stored one more chunk under a nuid of its own: it is an orphan, as a killed client leaves them.
    agent.sync()

    assert read_tree(agent.directory()) == files({"ragged": whole})


def test_the_stock_client_reads_overwrites_and_deletes_what_jetsync_wrote(agent: Agent, stock: Stock, bucket_name: str):
    content = random.Random(2).randbytes(500_000)
    write_tree(agent.directory(), {"large": content, "empty": b"", "run": File(b"#!", executable=True), "gone": b"1"})
    agent.sync()
    assert stock.contents(bucket_name) == {"large": content, "empty": b"", "run": b"#!", "gone": b"1"}

    stock.put(bucket_name, "large", b"overwritten")
    stock.delete(bucket_name, "gone")
    agent.sync()
    assert read_tree(agent.directory()) == {
        **files({"large": b"overwritten", "empty": b""}),
        "run": File(b"#!", executable=True),
    }


def test_the_stock_client_reads_what_jetsync_links_renames_and_deletes(agent: Agent, stock: Stock, bucket_name: str):
    content = random.Random(3).randbytes(300_000)
    write_tree(agent.directory(), {"old": content, "deleted": b"1", "link": Link("target"), "target": b"behind"})
    agent.sync()
    (agent.directory() / "old").rename(agent.directory() / "new")
    (agent.directory() / "deleted").unlink()
    agent.sync()

    assert stock.contents(bucket_name) == {"new": content, "link": b"behind", "target": b"behind"}
    for name in ("old", "deleted"):
        with pytest.raises(ObjectNotFoundError):
            stock.get(bucket_name, name)
    assert stock.wait(stock.store(bucket_name).get_info("new")).size == len(content)


def test_delete_markers_are_as_adr_20_has_them(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"file": b"1"})
    agent.sync()
    (agent.directory() / "file").unlink()
    agent.sync()
    marker = stock.metas(bucket_name)["file"].payload

    assert marker["deleted"] is True
    assert (marker["size"], marker["chunks"]) == (0, 0)
    assert marker.get("mtime") != ""


@pytest.mark.timeout(120)
def test_chunks_of_replaced_and_deleted_versions_are_purged_once_readers_had_their_time(
    agent: Agent, stock: Stock, bucket_name: str
):
    write_tree(agent.directory(), {"replaced": b"1" * 200_000, "deleted": b"2"})
    agent.sync()
    write_tree(agent.directory(), {"replaced": b"3"})
    (agent.directory() / "deleted").unlink()
    with agent.run():
        eventually(lambda: sum(stock.chunks(bucket_name).values()) == 1, timeout=90)

    assert stock.contents(bucket_name) == {"replaced": b"3"}


def test_unknown_fields_of_other_clients_survive_a_metadata_update(agent: Agent, stock: Stock, bucket: str):
    stock.put_raw(
        bucket,
        "object",
        b"bytes",
        metadata={"theirs": "kept"},
        headers={"X": ["y"]},
        description="words",
        future={"a": 1},
    )
    agent.sync()
    (agent.directory() / "object").chmod(0o755)
    agent.sync()
    payload = stock.metas(bucket)["object"].payload

    assert payload["metadata"]["jetsync.mode"] == "755"
    assert payload["metadata"]["theirs"] == "kept"
    assert (payload["headers"], payload["description"], payload["future"]) == ({"X": ["y"]}, "words", {"a": 1})


def test_a_stock_client_racing_on_the_same_names_loses_nothing_of_ours(agent: Agent, stock: Stock, bucket: str):
    """A thousand blind puts on a hundred names, while a person writes each of these files once."""
    names = [f"raced-{number}" for number in range(100)]
    ours = {name: f"ours {name}".encode() for name in names}

    def race() -> None:
        for turn in range(10):
            for name in random.Random(turn).sample(names, len(names)):
                stock.put(bucket, name, f"theirs {name} {turn}".encode())

    with agent.run() as running:
        racer = threading.Thread(target=race)
        racer.start()
        for name in random.Random(99).sample(names, len(names)):
            (agent.directory() / name).write_bytes(ours[name])
        racer.join()
        eventually(lambda: digests(agent.directory()) == stock.digests(bucket), timeout=40)
        assert running.stop() == 143

    kept = {
        path.read_bytes() for path in agent.directory().rglob("*") if path.is_file()
    }  # with conflict copies and trash
    assert sorted(set(ours.values()) - kept) == []
    assert agent.sync(exit=None)["uploads"] == 0


def test_a_hundred_concurrent_downloads_leave_no_consumer(
    make_agent: MakeAgent, nats_server: NatsServer, stock: Stock, bucket: str
):
    contents = {f"object-{number}": random.Random(number).randbytes(300_000) for number in range(100)}
    for name, data in contents.items():
        stock.put(bucket, name, data)
    agent = make_agent(mode="pull-safe", transfers=100)
    before = nats_server.consumers()
    agent.sync()

    assert read_tree(agent.directory()) == files(contents)
    no_new_consumers(nats_server, before)


def test_a_running_agent_leaves_no_consumer_when_it_stops(
    agent: Agent, nats_server: NatsServer, stock: Stock, bucket: str
):
    before = nats_server.consumers()
    with agent.run():
        stock.put(bucket, "object", b"1")
        eventually((agent.directory() / "object").exists)

    no_new_consumers(nats_server, before)


def no_new_consumers(server: NatsServer, before: set[tuple[str, str]]) -> None:
    def check() -> bool:
        assert server.consumers() <= before
        return True

    eventually(check, timeout=3)  # the monitoring page may lag behind a delete that was just acknowledged


def test_every_server_version_serves_all_of_it(
    any_server: NatsServer, bucket_name: str, make_agent: MakeAgent, tmp_path: Path
):
    a, b = make_agent("a", nats=any_server.url), make_agent("b", nats=any_server.url)
    content = random.Random(4).randbytes(1_000_000)
    first: dict[str, Node] = {
        "large": File(content),
        "small": File(b"1"),
        "run": File(b"#!", executable=True),
        "link": Link("small"),
    }
    write_tree(a.directory(), {**first, "deleted": b"2"})
    a.sync()
    b.sync()
    assert read_tree(b.directory()) == {**first, "deleted": File(b"2")}

    (b.directory() / "large").rename(b.directory() / "renamed")
    (b.directory() / "deleted").unlink()
    write_tree(b.directory(), {"small": b"edited"})
    moved = b.sync()
    assert (moved["moves_remote"], moved["uploads"], moved["deletes_remote"]) == (1, 1, 1)

    moved = a.sync()
    assert (moved["moves_local"], moved["downloads"], moved["deletes_local"]) == (1, 1, 1)
    assert read_tree(a.directory()) == read_tree(b.directory())
    assert a.plan()["actions"] == b.plan()["actions"] == []
    with Stock(any_server.url) as stock:
        assert stock.contents(bucket_name) == {"renamed": content, "small": b"edited", "run": b"#!", "link": b"edited"}


def test_every_server_version_is_followed_live(any_server: NatsServer, bucket_name: str, make_agent: MakeAgent):
    agent = make_agent(nats=any_server.url)
    with agent.run(), Stock(any_server.url) as stock:
        stock.put(bucket_name, "theirs", b"1" * 200_000)
        write_tree(agent.directory(), {"ours": b"2"})
        eventually(lambda: len(stock.names(bucket_name)) == 2)
        eventually(lambda: digests(agent.directory()) == stock.digests(bucket_name))
