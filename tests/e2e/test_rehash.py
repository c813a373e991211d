"""`rehash`: a file whose content changed behind an unchanged stat is made whole from the bucket, or told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.directory import signature_of
from agent.state import StateStore
from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually, read_tree, write_tree
from tests.support.stock import Stock


def damage(agent: Agent, path: str, content: bytes) -> Path:
    """Other bytes behind the stat that the row has."""
    file = agent.directory() / path
    file.write_bytes(content)
    store = StateStore.open(agent.state_dir / "mappings" / "files.db")  # no test can set a ctime back
    row = store.row(path)
    assert row.local is not None
    store.put([replace(row, local=replace(row.local, signature=signature_of(file.stat()), racy=False))], dirty=False)
    store.close()
    return file


@pytest.mark.parametrize("mode", ["two-way", "pull-safe", "pull-mirror"])
def test_a_damaged_file_is_fetched_again_and_the_damaged_bytes_are_in_the_trash(
    make_agent: MakeAgent, stock: Stock, bucket: str, mode: str
):
    agent = make_agent("a", mode=mode, rehash="1s", rescan="1s")
    stock.put(bucket, "damaged", b"as it was")
    agent.sync()
    file = damage(agent, "damaged", b"as it is ")

    with agent.run() as running:
        eventually(lambda: file.read_bytes() == b"as it was")
        trashed = [path for path in (agent.directory() / ".jetsync" / "trash").rglob("damaged") if path.is_file()]
        assert [path.read_bytes() for path in trashed] == [b"as it is "]
        eventually(lambda: running.metrics()['jetsync_integrity_failures_total{mapping="files"}'] == 1)
        assert [event["path"] for event in running.events("repaired")] == ["damaged"]
        assert agent.sync()["problems"] == []
    assert stock.get(bucket, "damaged") == b"as it was"


def test_a_damaged_file_whose_object_is_damaged_too_is_told_and_left_alone(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent("a", rehash="1s", rescan="1s")
    stock.put(bucket, "damaged", b"as it was")
    agent.sync()
    meta = stock.meta(bucket, "damaged")
    assert meta is not None
    stock.purge(bucket, meta.payload["nuid"])
    file = damage(agent, "damaged", b"as it is ")

    with agent.run():
        eventually(lambda: agent.sync(exit=(0, 3))["problems"])
        assert {problem["path"] for problem in agent.sync(exit=3)["problems"]} == {"damaged"}
    assert file.read_bytes() == b"as it is "


def test_a_damaged_file_in_a_mode_that_does_not_change_files_is_told_and_nothing_is_sent(
    make_agent: MakeAgent, stock: Stock, bucket_name: str
):
    agent = make_agent("a", mode="push-safe", rehash="1s", rescan="1s")
    write_tree(agent.directory(), {"good": b"good", "damaged": b"as it was"})
    agent.sync()
    file = damage(agent, "damaged", b"as it is ")

    with agent.run() as running:
        eventually(lambda: running.metrics()['jetsync_mapping_problems{mapping="files",reason="bad_digest"}'] == 1)
        write_tree(agent.directory(), {"other": b"other"})
        eventually(lambda: "other" in stock.names(bucket_name))
        status = agent.sync(exit=3)
        assert [(problem["path"], problem["reason"]) for problem in status["problems"]] == [("damaged", "bad_digest")]
        assert file.read_bytes() == b"as it is "
        assert stock.get(bucket_name, "damaged") == b"as it was"
        assert running.metrics()['jetsync_integrity_failures_total{mapping="files"}'] == 1
        file.write_bytes(b"as it was")  # the remedy
        assert agent.sync()["problems"] == []
    assert len(read_tree(agent.directory())) == 3
