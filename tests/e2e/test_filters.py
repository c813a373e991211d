"""include, exclude and .jetsyncignore: what is filtered is left alone on both sides, and comes back in peace."""

from __future__ import annotations

import os
import time

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually, files, read_tree, write_tree
from tests.support.stock import Stock


def test_what_a_new_ignore_file_names_is_not_sent(agent: Agent, stock: Stock, bucket: str):
    with agent.run():
        for number in range(5):
            rules = b"".join(b"secret%d\n" % one for one in range(number + 1))
            write_tree(agent.directory(), {f"secret{number}": b"s", f"ok{number}": b"o", ".jetsyncignore": rules})
            eventually(lambda: f"ok{number}" in stock.names(bucket))  # noqa: B023 - called at once
    assert not [name for name in stock.metas(bucket) if name.startswith("secret")]


def test_what_a_moved_directorys_ignore_file_names_is_not_sent(agent: Agent, stock: Stock, bucket: str):
    with agent.run():
        for number in range(3):
            coming = agent.home / f"d{number}"
            write_tree(coming, {".jetsyncignore": b"secret*\n", "secret": b"s", "below/secret": b"s", "below/ok": b"o"})
            coming.rename(agent.directory() / f"d{number}")
            eventually(lambda: f"d{number}/below/ok" in stock.names(bucket))  # noqa: B023 - called at once
    assert not [name for name in stock.metas(bucket) if "secret" in name]


def test_an_ignore_file_that_is_written_all_the_time_stops_nothing(agent: Agent, stock: Stock, bucket: str):
    with agent.run():
        end = time.monotonic() + 2.0
        number = 0
        while time.monotonic() < end:
            number += 1
            write_tree(agent.directory(), {".jetsyncignore": b"# %d\n" % number, f"f{number % 7}": b"%d" % number})
            time.sleep(0.02)
        eventually(lambda: stock.contents(bucket) == {p: f.content for p, f in read_tree(agent.directory()).items()})  # type: ignore[union-attr]


def test_filtered_paths_are_left_alone_on_both_sides_and_equal_ones_come_back_without_conflict(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    tree = {"same": b"same", "ours": b"1", "theirs": b"2", "gone-here": b"3", "gone-there": b"4", "kept": b"5"}
    agent = make_agent("a")
    write_tree(agent.directory(), tree)
    agent.sync()
    agent.config["mappings"][0]["exclude"] = ["*", "!kept"]
    agent.write()
    write_tree(agent.directory(), {"ours": b"edited"})
    (agent.directory() / "gone-here").unlink()
    stock.put(bucket, "theirs", b"edited")
    stock.delete(bucket, "gone-there")
    before = read_tree(agent.directory())
    result = agent.sync()

    assert [result[key] for key in ("uploads", "downloads", "deletes_local", "deletes_remote")] == [0, 0, 0, 0]
    assert read_tree(agent.directory()) == before
    assert stock.get(bucket, "gone-here") == b"3"
    del agent.config["mappings"][0]["exclude"]
    agent.write()
    result = agent.sync()
    merged = read_tree(agent.directory())
    copies = [path for path in merged if ".conflict-" in path]

    assert sorted(path.partition(".")[0] for path in copies) == ["ours", "theirs"]
    assert {path: node for path, node in merged.items() if path not in copies} == files(
        {"same": b"same", "ours": b"1", "theirs": b"edited", "gone-here": b"3", "gone-there": b"4", "kept": b"5"}
    )
    assert agent.plan()["actions"] == []


def test_a_filter_that_is_removed_while_running_brings_files_back(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {".jetsyncignore": b"*.log\n", "a.log": b"here", "b": b"b"})
    with agent.run():
        stock.put(bucket, "a.log", b"here")
        stock.put(bucket, "c.log", b"there")
        stock.put(bucket, "d", b"d")
        eventually((agent.directory() / "d").exists)
        assert not (agent.directory() / "c.log").exists()
        os.unlink(agent.directory() / ".jetsyncignore")
        eventually((agent.directory() / "c.log").exists)
        expected = {"a.log": b"here", "b": b"b", "c.log": b"there", "d": b"d"}
        eventually(lambda: stock.contents(bucket) == expected)
        assert read_tree(agent.directory()) == files(expected)
