"""A store in trouble: full, refusing, silent, changed behind our back. Nothing hangs, nothing is lost."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import digests, eventually, files, read_tree, write_tree
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock, meta_subject

MIB = 1024 * 1024


def test_old_chunks_make_room_at_once_when_the_bucket_is_full(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    stock.create(bucket_name, max_bytes=2 * MIB)
    agent, chance = make_agent(buckets={}), random.Random(1)
    for _ in range(4):
        write_tree(agent.directory(), {"file": chance.randbytes(800_000)})
        assert agent.sync()["uploads"] == 1

    assert stock.digests(bucket_name) == digests(agent.directory())
    assert len(stock.orphans(bucket_name)) <= 1


def test_a_file_that_another_client_renames_step_by_step_is_renamed_here_too(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent()
    with agent.run():
        write_tree(agent.directory(), {"old": b"content"})
        eventually(lambda: stock.names(bucket) == {"old"})
        moved = stock.meta(bucket, "old")
        assert moved is not None
        stock.publish_meta(bucket, "new", {**moved.payload, "name": "new"})
        eventually(lambda: "new" in read_tree(agent.directory()))
        stock.api(f"STREAM.PURGE.OBJ_{bucket}", {"filter": meta_subject(bucket, "old")})

        eventually(lambda: read_tree(agent.directory()) == files({"new": b"content"}))
    assert stock.contents(bucket) == {"new": b"content"}


@pytest.mark.parametrize("when", ["at the start", "in one batch"])
def test_a_file_that_another_client_is_renaming_is_renamed_here_when_that_ends(
    make_agent: MakeAgent, stock: Stock, bucket: str, when: str
):
    """Both metas come at once, and the purge of the old one, which no message tells, after that."""
    agent = make_agent()
    agent.sync()
    stock.put(bucket, "kept", b"kept")
    running = None
    try:
        if when == "in one batch":
            running = agent.run()
            eventually(lambda: "kept" in read_tree(agent.directory()))
            running.signal(signal.SIGSTOP)
        stock.put(bucket, "old", b"content")
        moved = stock.meta(bucket, "old")
        assert moved is not None
        stock.publish_meta(bucket, "new", {**moved.payload, "name": "new"})
        if running is None:
            running = agent.run()
        else:
            running.signal(signal.SIGCONT)
        eventually(lambda: read_tree(agent.directory()).keys() == {"kept", "old", "new"})
        stock.api(f"STREAM.PURGE.OBJ_{bucket}", {"filter": meta_subject(bucket, "old")})
        eventually(lambda: read_tree(agent.directory()).keys() == {"kept", "new"}, timeout=30)
    finally:
        if running is not None:
            running.kill()


def test_an_object_that_vanished_while_the_connection_was_cut_is_missed_when_it_is_back(
    make_agent: MakeAgent, nats_server: NatsServer, stock: Stock, bucket: str
):
    """Another client's rename ends with a purge, which no message tells."""
    for name in ("old", "kept 1", "kept 2"):
        stock.put(bucket, name, name.encode())
    with Proxy(nats_server.port) as proxy:
        agent = make_agent(nats=proxy.url)
        with agent.run():
            eventually(lambda: len(read_tree(agent.directory())) == 3)
            proxy.cut()
            stock.api(f"STREAM.PURGE.OBJ_{bucket}", {"filter": meta_subject(bucket, "old")})
            proxy.resume()

            eventually(lambda: read_tree(agent.directory()).keys() == {"kept 1", "kept 2"}, timeout=30)


def test_an_object_that_vanished_is_missed_in_a_bucket_whose_metas_were_not_always_rolled_up(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    """A name that has two metas doesn't make up for one that has none any more."""
    for name in ("old", "kept", "twice"):
        stock.put_raw(bucket, name, name.encode())
    again = stock.meta(bucket, "twice")
    assert again is not None
    stock.publish_meta(bucket, "twice", again.payload, rollup=False)
    agent = make_agent()
    agent.sync()
    stock.api(f"STREAM.PURGE.OBJ_{bucket}", {"filter": meta_subject(bucket, "old")})
    agent.sync()

    assert read_tree(agent.directory()).keys() == {"kept", "twice"}


def test_sync_says_which_permission_of_a_follower_is_missing(
    make_agent: MakeAgent, make_server: Callable[..., NatsServer], tmp_path: Path, bucket_name: str
):
    users = (
        "authorization { users = [ {user: admin, password: p}, {user: u, password: p, permissions: {"
        ' publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.>"]}}} ] }'
    )
    server = make_server(config_extra=users)
    with Stock(f"nats://admin:p@127.0.0.1:{server.port}") as admin:
        admin.create(bucket_name)
        admin.put(bucket_name, "theirs", b"1")
    (tmp_path / "password").write_text("p")
    agent = make_agent(
        nats={"servers": [server.url], "user": "u", "password_file": str(tmp_path / "password")}, buckets={}
    )

    result = agent.sync(exit=5)

    assert f"may not publish to $JS.API.CONSUMER.MSG.NEXT.OBJ_{bucket_name}.>;" in result["errors"][0]


def test_uploads_that_are_not_allowed_exit_5_and_name_what_to_allow_once(
    make_agent: MakeAgent, make_server: Callable[..., NatsServer], tmp_path: Path, bucket_name: str
):
    users = 'authorization { users = [ {user: u, password: p, permissions: { publish: {deny: ["$O.>"]}}} ] }'
    server = make_server(config_extra=users)
    (tmp_path / "password").write_text("p")
    agent = make_agent(nats={"servers": [server.url], "user": "u", "password_file": str(tmp_path / "password")})
    write_tree(agent.directory(), {"a": b"1", "b": b"2", "empty": b""})

    result = agent.sync(exit=5)

    assert result["state"] == "partial"
    chunks, metas = f"$O.{bucket_name}.C.*", f"$O.{bucket_name}.M.>"
    for path, subject in {"a": chunks, "b": chunks, "empty": metas}.items():
        assert f"{path}: this user may not publish to {subject}; add the subject" in "\n".join(result["errors"])
    assert result["stderr"].count(f"may not publish to {chunks}") == 1


def test_a_bucket_made_anew_under_a_running_agent_deletes_nothing_and_is_taken_when_approved(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent(buckets={})
    tree = {f"file-{number}": b"%d" % number for number in range(10)}
    write_tree(agent.directory(), tree)
    with agent.run():
        eventually(lambda: len(stock.names(bucket)) == 10)
        stock.api(f"STREAM.DELETE.OBJ_{bucket}")
        stock.create(bucket)
        for number in range(30):
            stock.put(bucket, f"theirs-{number}", b"1")
        assert agent.sync(exit=3)["halt"]["reason"] == "bucket_recreated"
        assert len(read_tree(agent.directory())) == 10
        agent.cli("approve", "files")

        eventually(lambda: digests(agent.directory()) == stock.digests(bucket), timeout=50)
        assert len(stock.names(bucket)) == 40


def test_an_object_whose_chunks_come_back_is_fetched_at_the_next_sync(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(mode="pull-safe")
    stock.put(bucket, "name", b"content")
    meta = stock.meta(bucket, "name")
    assert meta is not None
    stock.purge(bucket, meta.payload["nuid"])
    assert [problem["reason"] for problem in agent.sync(exit=3)["problems"]] == ["missing_chunks"]
    assert agent.plan(exit=None)["actions"] == []

    stock.publish_chunk(bucket, meta.payload["nuid"], b"content")

    assert agent.sync()["downloads"] == 1


def test_a_link_to_another_bucket_is_a_file_on_a_pulling_side_as_soon_as_its_target_is_there(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent(mode="pull-safe")
    other = f"{bucket}-other"
    stock.publish_meta(
        bucket, "link", {"name": "link", "bucket": bucket, "nuid": "L", "size": 0, "chunks": 0,
                         "options": {"link": {"bucket": other, "name": "target"}}}
    )  # fmt: skip
    assert [problem["reason"] for problem in agent.sync(exit=3)["problems"]] == ["broken_link"]

    stock.create(other)
    stock.put(other, "target", b"content")

    assert agent.sync()["downloads"] == 1
    assert read_tree(agent.directory()) == files({"link": b"content"})
