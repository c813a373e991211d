"""`jetsync sync` and `jetsync plan`: what one run does, says and leaves alone."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, EmptyDirectory, File, Link, files, mapping, read_tree, write_tree
from tests.support.stock import Stock

TREE = {"a.txt": b"1", "d/b.bin": b"\0" * 300_000, "d/e/empty": b"", "ünï": b"3"}

NOTHING = {
    "state": "converged",
    "uploads": 0,
    "downloads": 0,
    "metadata_updates": 0,
    "deletes_local": 0,
    "deletes_remote": 0,
    "moves_local": 0,
    "moves_remote": 0,
    "bytes_up": 0,
    "bytes_down": 0,
    "conflicts": [],
    "conflict_copies": [],
    "diverged": 0,
    "problems": [],
    "skipped": {},
    "halt": None,
    "errors": [],
}


def did(result: dict[str, object]) -> dict[str, object]:
    """What differs from a run that did nothing."""
    return {key: result[key] for key, value in NOTHING.items() if result[key] != value}


def test_a_tree_goes_up_and_comes_down_on_another_machine(pair: tuple[Agent, Agent], stock: Stock, bucket_name: str):
    a, b = pair
    write_tree(a.directory(), TREE)
    up, down = a.sync(), b.sync()

    assert did(up) == {"uploads": 4, "bytes_up": 300_002}
    assert did(down) == {"downloads": 4, "bytes_down": 300_002}
    assert read_tree(b.directory()) == files(TREE)
    assert stock.contents(bucket_name) == TREE


def test_a_second_run_transfers_nothing_and_writes_nothing(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {**TREE, "run.sh": File(b"#!", executable=True), "link": Link("a.txt")})
    agent.sync()
    before = stock.messages(bucket_name)

    assert did(agent.sync()) == {}
    assert stock.messages(bucket_name) == before


def test_the_plan_of_a_converged_mapping_is_empty(pair: tuple[Agent, Agent]):
    a, b = pair
    write_tree(a.directory(), TREE)
    a.sync()
    b.sync()
    for agent in pair:
        plan = agent.plan("--detailed-exitcode")

        assert plan["actions"] == []
        assert did(plan) == {}


def test_a_plan_says_what_sync_would_do_and_changes_nothing(agent: Agent, stock: Stock, bucket: str):
    stock.put(bucket, "theirs", b"12345")
    write_tree(agent.directory(), {"ours": b"123"})
    before = stock.messages(bucket)
    plan = agent.plan()
    actions = {(action["action"], action["path"], action["bytes"]) for action in plan["actions"]}

    assert actions == {("upload", "ours", 3), ("download", "theirs", 5)}
    assert all(action["reason"] for action in plan["actions"])
    assert (plan["uploads"], plan["downloads"], plan["bytes_up"], plan["bytes_down"]) == (1, 1, 3, 5)
    assert read_tree(agent.directory()) == files({"ours": b"123"})
    assert stock.messages(bucket) == before
    assert agent.plan()["actions"] == plan["actions"]
    assert did(agent.sync()) == {"uploads": 1, "downloads": 1, "bytes_up": 3, "bytes_down": 5}


def test_a_plan_names_deletes_moves_and_metadata(agent: Agent):
    content = random.Random(1).randbytes(1000)
    write_tree(agent.directory(), {"gone": b"gone", "old": content, "script": b"#!"})
    agent.sync()
    (agent.directory() / "gone").unlink()
    (agent.directory() / "old").rename(agent.directory() / "new")
    (agent.directory() / "script").chmod(0o755)
    plan = agent.plan()
    actions = {(action["action"], action["path"], action["to"] or "") for action in plan["actions"]}

    assert actions == {("delete-remote", "gone", ""), ("move-remote", "old", "new"), ("update-metadata", "script", "")}
    assert did(agent.sync()) == {"deletes_remote": 1, "moves_remote": 1, "metadata_updates": 1}


def test_a_changed_mtime_alone_transfers_metadata_only(pair: tuple[Agent, Agent], stock: Stock, bucket_name: str):
    a, b = pair
    write_tree(a.directory(), {"file": b"bytes"})
    a.sync()
    b.sync()
    nuid = stock.metas(bucket_name)["file"].payload["nuid"]
    os.utime(a.directory() / "file", ns=(0, 1_600_000_000_123_456_789))

    assert did(a.sync()) == {"metadata_updates": 1}
    meta = stock.metas(bucket_name)["file"].payload
    assert meta["nuid"] == nuid
    assert meta["metadata"]["jetsync.mtime"] == "2020-09-13T12:26:40.123456789Z"
    assert did(b.sync()) == {"metadata_updates": 1}
    assert (b.directory() / "file").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert did(a.sync()) == {}
    assert did(b.sync()) == {}


def test_a_touched_file_with_the_same_bytes_is_not_sent_again(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"file": b"bytes"})
    agent.sync()
    before = stock.metas(bucket_name)["file"].payload["nuid"]
    write_tree(agent.directory(), {"file": b"bytes"})
    result = agent.sync()

    assert (result["uploads"], result["bytes_up"]) == (0, 0)
    assert stock.metas(bucket_name)["file"].payload["nuid"] == before


def test_the_metadata_on_the_wire_is_mode_and_mtime(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"plain": b"1", "run": File(b"2", executable=True)})
    os.utime(agent.directory() / "plain", ns=(0, 1_000_000_000))
    agent.sync()
    metas = stock.metas(bucket_name)

    assert metas["plain"].payload["metadata"] == {
        "jetsync.mode": "644",
        "jetsync.mtime": "1970-01-01T00:00:01.000000000Z",
    }
    assert metas["run"].payload["metadata"]["jetsync.mode"] == "755"


def test_a_conflict_keeps_both_versions_on_both_sides(pair: tuple[Agent, Agent], stock: Stock, bucket_name: str):
    a, b = pair
    write_tree(a.directory(), {"d/report.txt": b"first"})
    a.sync()
    b.sync()
    write_tree(a.directory(), {"d/report.txt": b"by a"})
    write_tree(b.directory(), {"d/report.txt": b"by b"})
    a.sync()
    result = b.sync()
    (copy,) = result["conflict_copies"]

    assert re.fullmatch(r"d/report\.conflict-b-\d{8}T\d{6}Z-[0-9a-f]{8}\.txt", copy)
    assert read_tree(b.directory()) == files({"d/report.txt": b"by a", copy: b"by b"})
    assert result["conflicts"] == []
    a.sync()
    assert read_tree(a.directory()) == read_tree(b.directory())
    assert stock.contents(bucket_name) == {"d/report.txt": b"by a", copy: b"by b"}


def test_policy_report_touches_neither_side_and_exits_3(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    stock.put(bucket, "both", b"theirs")
    write_tree(agent.directory(), {"both": b"ours", "fine": b"1"})
    result = agent.sync(exit=3)

    assert result["state"] == "partial"
    assert result["conflicts"] == ["both"]
    assert result["uploads"] == 1
    assert stock.contents(bucket) == {"both": b"theirs", "fine": b"1"}
    assert read_tree(agent.directory()) == files({"both": b"ours", "fine": b"1"})
    assert agent.sync("--tolerate", "conflicts")["conflicts"] == ["both"]


def test_a_local_loser_is_in_the_trash(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="prefer-remote")
    stock.put(bucket, "both", b"theirs")
    write_tree(agent.directory(), {"both": b"ours"})
    agent.sync()

    assert read_tree(agent.directory()) == files({"both": b"theirs"})
    assert trashed(agent) == {"both": [b"ours"]}


def test_an_overwritten_and_a_deleted_file_are_in_the_trash(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"over/written": b"old", "deleted": b"gone"})
    agent.sync()
    stock.put(bucket, "over/written", b"new")
    stock.delete(bucket, "deleted")
    result = agent.sync()

    assert did(result) == {"downloads": 1, "bytes_down": 3, "deletes_local": 1}
    assert trashed(agent) == {"over/written": [b"old"], "deleted": [b"gone"]}


def trashed(agent: Agent) -> dict[str, list[bytes]]:
    """Path -> contents in the mapping's trash, which is .jetsync/trash/<time>-<counter>/<path>."""
    found: dict[str, list[bytes]] = {}
    trash = agent.directory() / ".jetsync" / "trash"
    for file in sorted(trash.rglob("*")):
        if file.is_file():
            found.setdefault("/".join(file.relative_to(trash).parts[1:]), []).append(file.read_bytes())
    return found


def test_losing_the_state_transfers_nothing_and_deletes_nothing(
    pair: tuple[Agent, Agent], stock: Stock, bucket_name: str
):
    a, b = pair
    write_tree(a.directory(), TREE)
    a.sync()
    b.sync()
    b.lose_state()
    (b.directory() / "a.txt").unlink()
    result = b.sync()

    assert did(result) == {"downloads": 1, "bytes_down": 1}
    assert read_tree(b.directory()) == files(TREE)
    assert stock.contents(bucket_name) == TREE


def test_a_corrupt_state_is_put_aside_and_nothing_is_lost(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), TREE)
    agent.sync()
    for database in agent.state_dir.rglob("*.db"):
        database.write_bytes(b"this is no database" * 1000)
        for side in ("-wal", "-shm"):
            database.with_name(database.name + side).unlink(missing_ok=True)
    result = agent.sync()

    assert did(result) == {}
    assert stock.contents(bucket_name) == TREE


def test_filters_leave_both_sides_alone(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(exclude=["*.tmp", "private/"])
    stock.put(bucket, "remote.tmp", b"stays there")
    ours = {"a.tmp": b"1", "private/b": b"2", "public/c": b"3", ".jetsyncignore": b"*.log\n", "x.log": b"4"}
    write_tree(agent.directory(), ours)
    agent.sync()

    assert stock.names(bucket) == {"remote.tmp", "public/c", ".jetsyncignore"}
    assert read_tree(agent.directory()) == files(ours)


def test_a_path_that_is_excluded_later_is_deleted_nowhere(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"a.log": b"1", "b.txt": b"2"})
    agent.sync()
    agent.config["mappings"][0]["exclude"] = ["*.log"]
    agent.write()
    (agent.directory() / "a.log").unlink()

    assert did(agent.sync()) == {}
    assert stock.names(bucket_name) == {"a.log", "b.txt"}


def test_a_prefix_keeps_to_its_part_of_the_bucket(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(prefix="in/")
    stock.put(bucket, "in/theirs", b"1")
    stock.put(bucket, "other", b"2")
    write_tree(agent.directory(), {"ours": b"3"})
    agent.sync()

    assert read_tree(agent.directory()) == files({"theirs": b"1", "ours": b"3"})
    assert stock.names(bucket) == {"in/theirs", "in/ours", "other"}


def test_two_mappings_share_a_bucket_by_prefix(agent: Agent, stock: Stock, bucket_name: str):
    first, second = mapping(bucket_name, name="one", prefix="1/"), mapping(bucket_name, name="two", prefix="2/")
    agent.config["mappings"] = [first, second]
    agent.write()
    for name in ("one", "two"):
        agent.directory(name).mkdir()
        write_tree(agent.directory(name), {"file": name.encode()})
    result = agent.sync()
    only = agent.sync("two")

    assert [part["name"] for part in result["mappings"]] == ["one", "two"]
    assert stock.contents(bucket_name) == {"1/file": b"one", "2/file": b"two"}
    assert [part["name"] for part in only["mappings"]] == ["two"]


def test_empty_directories_travel_when_asked(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    a, b = make_agent("a", empty_directories=True), make_agent("b", empty_directories=True)
    write_tree(a.directory(), {"d/empty/": EmptyDirectory(), "d/file": b"1"})
    a.sync()
    b.sync()

    assert read_tree(b.directory()) == {"d/empty/": EmptyDirectory(), "d/file": File(b"1")}
    assert stock.metas(bucket_name)["d/empty/"].payload["metadata"]["jetsync.kind"] == "directory"
    (b.directory() / "d/empty").rmdir()
    b.sync()
    a.sync()
    assert read_tree(a.directory()) == files({"d/file": b"1"})


def test_a_directory_that_is_filled_from_there_is_no_empty_one_though_nobody_watches(
    make_agent: MakeAgent, stock: Stock, bucket_name: str
):
    agent = make_agent(empty_directories=True, watch=False)
    write_tree(agent.directory(), {"d/": EmptyDirectory(), "e/": EmptyDirectory()})
    agent.sync()
    stock.put(bucket_name, "d/a", b"1")
    stock.put(bucket_name, "e/nothing", b"")
    agent.sync()

    assert stock.names(bucket_name) == {"d/a", "e/nothing"}
    assert agent.plan()["actions"] == []


def test_without_permissions_neither_mode_nor_mtime_travels(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent(permissions=False)
    write_tree(agent.directory(), {"run": File(b"#!", executable=True)})
    agent.sync()

    assert not stock.metas(bucket_name)["run"].payload.get("metadata")
    (agent.directory() / "run").chmod(0o644)
    assert did(agent.sync()) == {}


def test_symlinks_follow_sends_the_content_behind_the_link(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent(mode="push-safe", symlinks="follow")
    write_tree(agent.directory(), {"target": b"bytes", "link": Link("target")})
    agent.sync()

    assert stock.contents(bucket_name) == {"target": b"bytes", "link": b"bytes"}


def test_the_human_words_name_each_mapping_and_go_to_stdout(agent: Agent):
    write_tree(agent.directory(), {"file": b"1"})
    result = agent.cli("sync", exit=0)

    assert "files" in result.out
    assert "file" in agent.cli("plan", exit=0).out or agent.plan()["actions"] == []


@pytest.mark.parametrize("when", ["before the command", "after the command", "from the environment"])
def test_the_configuration_is_found(agent: Agent, when: str):
    from tests.support.agent import jetsync

    file = str(agent.config_file)
    arguments = {
        "before the command": ("-c", file, "sync", "--json"),
        "after the command": ("sync", "--json", "-c", file),
        "from the environment": ("sync", "--json"),
    }[when]
    env = {"JETSYNC_CONFIG": file} if when == "from the environment" else None

    assert jetsync(*arguments, exit=0, env=env).json["mappings"][0]["state"] == "converged"


def snapshot(*roots: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below the roots and they themselves, as lstat sees it."""
    found = [path for root in roots for path in (root, *root.rglob("*"))]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino, path.lstat().st_size) for path in found}


def test_a_plan_makes_no_state_directory(agent: Agent):
    write_tree(agent.directory(), {"file": b"1"})

    assert len(agent.plan()["actions"]) == 1
    assert not agent.state_dir.exists()
    assert os.listdir(agent.directory()) == ["file"]


def test_a_plan_changes_nothing_in_the_state_or_the_tree(agent: Agent):
    write_tree(agent.directory(), {"file": b"1", "other": b"2"})
    agent.sync()
    (agent.directory() / "file").write_bytes(b"edited")
    before = snapshot(agent.state_dir, agent.directory())

    assert [action["path"] for action in agent.plan()["actions"]] == ["file"]
    assert snapshot(agent.state_dir, agent.directory()) == before


def test_a_plan_after_a_crash_knows_what_the_crashed_agent_had_done(agent: Agent):
    write_tree(agent.directory(), TREE)
    with agent.run() as running:
        running.kill()
    before = snapshot(agent.state_dir)

    assert agent.plan()["actions"] == []
    assert snapshot(agent.state_dir) == before


def test_a_plan_counts_a_conflict_copy_as_sync_does(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"file": b"ours is long"})
    stock.put(bucket, "file", b"theirs")
    planned, done = did(agent.plan()), did(agent.sync())

    for result in (planned, done):
        result.pop("conflict_copies", None)
    assert planned == done == {"uploads": 1, "downloads": 1, "bytes_up": 12, "bytes_down": 6}
