"""`conflicts` and `resolve`: two versions of a path are shown, and a person's word is carried out once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, AgentProcess, eventually, files, read_tree, same_trees, validate, write_tree
from tests.support.stock import Stock


@contextlib.contextmanager
def with_agent(agent: Agent, how: str) -> Iterator[AgentProcess | None]:
    """The commands of the block are carried out by a running agent, or by themselves."""
    if how == "alone":
        yield None
        return
    with agent.run() as running:
        yield running


pytestmark = pytest.mark.timeout(180)  # many commands, each a process of its own

HOW = pytest.mark.parametrize("how", [pytest.param("alone", marks=pytest.mark.slow), "by the agent"])


def conflicts(agent: Agent, *names: str) -> dict[str, Any]:
    page = agent.cli("conflicts", *names, "--json", exit=0).json
    validate(page, "conflicts")
    first: dict[str, Any] = page["mappings"][0]
    return first


def resolve(agent: Agent, path: str, keep: str, *, exit: int = 0) -> dict[str, Any]:
    result = agent.cli("resolve", "files", path, "--keep", keep, "--json", exit=exit)
    if exit:
        assert result.out == ""
        return {"stderr": result.err}
    validate(result.json, "resolve")
    return result.json


def in_conflict(agent: Agent, stock: Stock, bucket: str, path: str = "a.txt") -> None:
    """Both sides have been changed since they were equal."""
    write_tree(agent.directory(), {path: b"first"})
    agent.sync()
    write_tree(agent.directory(), {path: b"ours, changed"})
    stock.put(bucket, path, b"theirs")
    result = agent.sync("--tolerate", "conflicts")
    assert result["conflicts"] == [path]


def trash(agent: Agent) -> dict[str, bytes]:
    """path -> content of the newest version in the trash."""
    top = agent.directory() / ".jetsync" / "trash"
    found: dict[str, bytes] = {}
    for batch in sorted(top.iterdir()) if top.exists() else []:
        for file in batch.rglob("*"):
            if file.is_file():
                found[str(file.relative_to(batch))] = file.read_bytes()
    return found


# -- what is listed ----------------------------------------------------------------------------------------------------


@HOW
def test_a_conflict_is_listed_with_both_versions(how: str, make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    assert conflicts(agent) == {"name": "files", "conflicts": [], "copies": []}
    in_conflict(agent, stock, bucket, "dir/a.txt")

    with with_agent(agent, how):
        (conflict,) = conflicts(agent, "files")["conflicts"]
        shown = agent.cli("conflicts", exit=0).out

    assert (conflict["path"], conflict["reason"]) == ("dir/a.txt", "edited on both sides")
    assert (conflict["local"]["size"], conflict["remote"]["size"]) == (13, 6)
    assert conflict["local"]["digest"][:8] in shown and conflict["remote"]["digest"][:8] in shown
    assert conflict["local"]["mtime"].startswith("20") and conflict["remote"]["revision"] > 0
    assert "files: dir/a.txt" in shown


def test_conflicts_are_listed_without_a_server(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket)
    agent.config["nats"] = {"servers": ["nats://127.0.0.1:1"]}
    agent.write()

    assert [found["path"] for found in conflicts(agent)["conflicts"]] == ["a.txt"]


def test_an_unknown_mapping_is_a_usage_error_that_names_the_known_ones(agent: Agent):
    for command in (["conflicts", "nope"], ["resolve", "nope", "a", "--keep", "both"], ["trash", "list", "nope"]):
        result = agent.cli(*command, exit=2)
        assert "nope" in result.err and "known are: files" in result.err


def test_copies_are_listed_with_what_they_are_copies_of(pair: tuple[Agent, Agent], stock: Stock, bucket: str):
    one, other = pair
    copy = copied(one, other)

    for agent in pair:
        found = conflicts(agent)
        assert found["conflicts"] == []
        (listed,) = found["copies"]
        assert (listed["path"], listed["of"], listed["agent"], listed["kept"]) == (copy, "a.txt", "b", False)
        assert (listed["local"], listed["remote"], listed["version"]["size"]) == (True, True, 6)


def copied(one: Agent, other: Agent) -> str:
    """keep-both has made a copy of the other agent's version: its path. Both directories are equal."""
    write_tree(one.directory(), {"a.txt": b"one"})
    write_tree(other.directory(), {"a.txt": b"others"})
    one.sync()
    (copy,) = other.sync()["conflict_copies"]
    one.sync()
    same_trees(one.directory(), other.directory(), expected=files({"a.txt": b"one", copy: b"others"}))
    assert isinstance(copy, str)
    return copy


# -- a path in conflict ------------------------------------------------------------------------------------------------


@HOW
def test_the_local_version_goes_up_and_the_other_is_in_the_trash(
    how: str, make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket)

    with with_agent(agent, how):
        result = resolve(agent, "a.txt", "local")
        assert result["actions"] == [{"action": "upload", "path": "a.txt", "to": None}]
        assert conflicts(agent)["conflicts"] == []

    assert stock.contents(bucket) == {"a.txt": b"ours, changed"}
    assert read_tree(agent.directory()) == files({"a.txt": b"ours, changed"})
    assert result["saved"] and trash(agent)["a.txt"] == b"theirs"
    assert agent.sync()["state"] == "converged"


@HOW
def test_the_remote_version_comes_down_and_the_other_is_in_the_trash(
    how: str, make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket)

    with with_agent(agent, how):
        result = resolve(agent, "a.txt", "remote")
        assert result["actions"] == [{"action": "download", "path": "a.txt", "to": None}]

    assert read_tree(agent.directory()) == files({"a.txt": b"theirs"})
    assert stock.contents(bucket) == {"a.txt": b"theirs"}
    assert result["saved"] and trash(agent)["a.txt"] == b"ours, changed"
    assert agent.sync()["state"] == "converged"


@HOW
def test_both_are_kept_as_under_keep_both(how: str, make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket)

    with with_agent(agent, how):
        result = resolve(agent, "a.txt", "both")
        (action,) = result["actions"]
        copy = action["to"]
        expected = {"a.txt": b"theirs", copy: b"ours, changed"}
        eventually(lambda: stock.contents(bucket) == expected)

    assert (action["action"], action["path"]) == ("conflict-copy", "a.txt")
    assert read_tree(agent.directory()) == files(expected)
    assert [found["path"] for found in conflicts(agent)["copies"]] == [copy]
    assert agent.sync()["state"] == "converged"


def test_a_version_that_came_after_the_listing_is_not_overwritten(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket)
    stock.put(bucket, "a.txt", b"theirs, again")

    said = resolve(agent, "a.txt", "local", exit=1)["stderr"]

    assert "has changed since it was listed" in said and "jetsync conflicts files" in said
    assert stock.contents(bucket) == {"a.txt": b"theirs, again"}
    assert conflicts(agent)["conflicts"][0]["remote"]["size"] == 13
    resolve(agent, "a.txt", "local")
    assert stock.contents(bucket) == {"a.txt": b"ours, changed"}


def test_what_is_not_in_conflict_cannot_be_resolved(agent: Agent):
    write_tree(agent.directory(), {"a.txt": b"a"})
    agent.sync()

    assert "is not in conflict" in resolve(agent, "a.txt", "local", exit=1)["stderr"]
    for path in ("../a.txt", "/etc/passwd", "", "."):
        assert "isn't" in resolve(agent, path, "local", exit=2)["stderr"]
    assert "use local, remote or both" in resolve(agent, "a.txt", "mine", exit=2)["stderr"]


def test_a_path_may_be_absolute(make_agent: MakeAgent, stock: Stock, bucket: str, tmp_path: Path):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket, "dir/a.txt")
    other_way = tmp_path / "other-way"
    other_way.symlink_to(agent.directory())

    resolve(agent, str(other_way / "dir" / "a.txt"), "remote")

    assert read_tree(agent.directory()) == files({"dir/a.txt": b"theirs"})


def test_a_paused_mapping_resolves_nothing(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket)
    agent.cli("pause", "files", exit=0)

    assert "jetsync resume files" in resolve(agent, "a.txt", "remote", exit=1)["stderr"]
    assert read_tree(agent.directory()) == files({"a.txt": b"ours, changed"})


def test_a_halted_mapping_resolves_nothing(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report", max_delete=1)
    write_tree(agent.directory(), {"1": b"1", "2": b"2", "3": b"3"})
    in_conflict(agent, stock, bucket)
    for name in ("1", "2"):
        (agent.directory() / name).unlink()
    agent.sync(exit=3)

    assert "jetsync approve files" in resolve(agent, "a.txt", "local", exit=1)["stderr"]
    assert stock.get(bucket, "a.txt") == b"theirs"


# -- one-way modes -----------------------------------------------------------------------------------------------------


SAFE = {
    # mode, keep -> what is here, what is in the bucket; the copy's version under "copy"
    ("push-safe", "local"): ({"a.txt": b"ours, changed"}, {"a.txt": b"ours, changed"}),
    ("push-safe", "remote"): ({"a.txt": b"ours, changed"}, {"a.txt": b"theirs"}),
    ("push-safe", "both"): ({"a.txt": b"ours, changed"}, {"a.txt": b"ours, changed", "copy": b"theirs"}),
    ("pull-safe", "local"): ({"a.txt": b"ours, changed"}, {"a.txt": b"theirs"}),
    ("pull-safe", "remote"): ({"a.txt": b"theirs"}, {"a.txt": b"theirs"}),
    ("pull-safe", "both"): ({"a.txt": b"theirs", "copy": b"ours, changed"}, {"a.txt": b"theirs"}),
}


@pytest.mark.parametrize(("mode", "keep"), SAFE)
def test_a_conflict_of_a_safe_mode_is_resolved_within_the_mode(
    mode: str, keep: str, make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent()
    write_tree(agent.directory(), {"a.txt": b"first"})
    agent.sync()
    agent.config["mappings"][0]["mode"] = mode
    agent.write()
    agent.sync()
    write_tree(agent.directory(), {"a.txt": b"ours, changed"})
    stock.put(bucket, "a.txt", b"theirs")
    assert agent.sync(exit=3)["conflicts"] == ["a.txt"]

    resolve(agent, "a.txt", keep)

    def named(tree: dict[str, bytes]) -> dict[str, bytes]:
        return {"copy" if ".conflict-" in path else path: content for path, content in tree.items()}

    here = {path: (agent.directory() / path).read_bytes() for path in read_tree(agent.directory())}
    local, remote = SAFE[mode, keep]
    assert (named(here), named(stock.contents(bucket))) == (local, remote)
    again = agent.sync()
    assert (again["state"], again["conflicts"], again["uploads"], again["downloads"]) == ("converged", [], 0, 0)


def test_a_deletion_that_the_receiver_did_not_follow_is_resolved(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(mode="push-safe")
    write_tree(agent.directory(), {"gone": b"1", "stays": b"2"})
    agent.sync()
    for path in ("gone", "stays"):
        (agent.directory() / path).unlink()
        stock.put(bucket, path, b"edited there")
    assert agent.sync(exit=3)["conflicts"] == ["gone", "stays"]

    assert resolve(agent, "gone", "local")["actions"][0]["action"] == "delete-remote"
    resolve(agent, "stays", "both")

    assert stock.contents(bucket) == {"stays": b"edited there"}
    assert trash(agent) == {"gone": b"edited there"}
    assert agent.sync()["state"] == "converged"


# -- a file against a directory ----------------------------------------------------------------------------------------


def test_a_file_against_a_directory_is_kept_under_another_name(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    write_tree(agent.directory(), {"a": b"a file"})
    stock.put(bucket, "a/b", b"in a directory")
    agent.sync(exit=3)
    assert {found["reason"] for found in conflicts(agent)["conflicts"]} == {"file against directory"}

    for keep in ("local", "remote"):
        assert "--keep both" in resolve(agent, "a", keep, exit=1)["stderr"]
    assert "resolve a" in resolve(agent, "a/b", "both", exit=1)["stderr"]
    copy = resolve(agent, "a", "both")["actions"][0]["to"]

    assert read_tree(agent.directory()) == files({"a/b": b"in a directory", copy: b"a file"})
    assert stock.contents(bucket) == {"a/b": b"in a directory", copy: b"a file"}
    assert conflicts(agent)["conflicts"] == []


# -- conflict copies ---------------------------------------------------------------------------------------------------


@HOW
def test_a_copy_takes_the_name(how: str, pair: tuple[Agent, Agent], stock: Stock, bucket: str):
    one, other = pair
    copied(one, other)
    mtime = (one.directory() / "a.txt").stat().st_mtime_ns

    with with_agent(one, how):
        result = resolve(one, "a.txt", "local")
        eventually(lambda: stock.contents(bucket) == {"a.txt": b"others"})

    assert result["actions"][0]["action"] == "move-local"
    assert trash(one)["a.txt"] == b"one"
    assert (one.directory() / "a.txt").stat().st_mtime_ns != mtime
    other.sync()
    same_trees(one.directory(), other.directory(), expected=files({"a.txt": b"others"}))
    assert conflicts(one)["copies"] == conflicts(other)["copies"] == []


@HOW
def test_a_copy_is_dropped(how: str, pair: tuple[Agent, Agent], stock: Stock, bucket: str):
    one, other = pair
    copy = copied(one, other)

    with with_agent(other, how):
        resolve(other, copy, "remote")
        eventually(lambda: stock.contents(bucket) == {"a.txt": b"one"})

    one.sync()
    same_trees(one.directory(), other.directory(), expected=files({"a.txt": b"one"}))
    assert trash(other)[copy] == b"others"


def test_a_copy_that_is_kept_is_not_listed_any_more(pair: tuple[Agent, Agent], stock: Stock, bucket: str):
    one, other = pair
    copy = copied(one, other)

    resolve(one, "a.txt", "both")

    assert conflicts(one)["copies"][0]["kept"] is True
    assert "no conflicts" in one.cli("conflicts", exit=0).out
    assert copy in other.cli("conflicts", exit=0).out
    same_trees(one.directory(), other.directory(), expected=files({"a.txt": b"one", copy: b"others"}))


def test_of_several_copies_the_one_to_keep_has_to_be_named(agent: Agent, stock: Stock, bucket: str):
    for number in range(3):
        write_tree(agent.directory(), {"a.txt": b"ours %d" % number})
        stock.put(bucket, "a.txt", b"theirs %d" % number)
        agent.sync()
    copies = sorted(path for path in read_tree(agent.directory()) if ".conflict-" in path)
    assert len(copies) == 3

    said = resolve(agent, "a.txt", "local", exit=1)["stderr"]
    assert all(copy in said for copy in copies)
    resolve(agent, copies[1], "local")
    resolve(agent, "a.txt", "remote")

    (content,) = stock.contents(bucket).values()
    assert content.startswith(b"ours ")
    assert read_tree(agent.directory()) == files({"a.txt": content})


def test_a_copy_that_a_pull_mode_got_from_the_bucket_cannot_be_dropped_here(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    copy = "a.conflict-b-20260101T000000Z-0011aabb.txt"
    stock.put(bucket, "a.txt", b"a")
    stock.put(bucket, copy, b"b")
    agent = make_agent(mode="pull-safe")
    agent.sync()

    assert "where the mapping writes" in resolve(agent, copy, "remote", exit=1)["stderr"]
    assert set(read_tree(agent.directory())) == {"a.txt", copy}


# -- copies of copies --------------------------------------------------------------------------------------------------


def test_a_conflict_copy_is_never_overwritten_and_gets_no_copy_itself(
    pair: tuple[Agent, Agent], stock: Stock, bucket: str
):
    one, other = pair
    copy = copied(one, other)
    write_tree(one.directory(), {copy: b"edited by one"})
    stock.put(bucket, copy, b"edited in the bucket")

    result = one.sync(exit=3)

    assert (result["conflicts"], result["conflict_copies"]) == ([copy], [])
    assert (one.directory() / copy).read_bytes() == b"edited by one"
    assert stock.get(bucket, copy) == b"edited in the bucket"
    assert "gets none" in resolve(one, copy, "both", exit=1)["stderr"]
    resolve(one, copy, "local")
    assert stock.get(bucket, copy) == b"edited by one"
    assert trash(one)[copy] == b"edited in the bucket"


def test_a_name_with_ten_live_copies_gets_no_eleventh(agent: Agent, stock: Stock, bucket: str):
    copies = {f"a.conflict-b-2026010{number}T000000Z-0011aabb.txt": b"%d" % number for number in range(10)}
    write_tree(agent.directory(), {"a.txt": b"first", **copies})
    agent.sync()
    write_tree(agent.directory(), {"a.txt": b"ours"})
    stock.put(bucket, "a.txt", b"theirs")

    result = agent.sync(exit=3)

    assert (result["conflicts"], result["conflict_copies"]) == (["a.txt"], [])
    assert read_tree(agent.directory()) == files({"a.txt": b"ours", **copies})
    assert "10 conflict copies" in resolve(agent, "a.txt", "both", exit=1)["stderr"]
    os.unlink(agent.directory() / next(iter(copies)))
    agent.sync(exit=3)
    resolve(agent, "a.txt", "both")
    assert stock.get(bucket, "a.txt") == b"theirs"
    assert len(read_tree(agent.directory())) == 11


# -- the count ---------------------------------------------------------------------------------------------------------


def test_conflicts_are_counted_in_status_metrics_and_the_log(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    in_conflict(agent, stock, bucket)
    gauge, counter = 'jetsync_mapping_conflicts{mapping="files"}', 'jetsync_conflicts_total{mapping="files"}'

    with agent.run() as running:
        eventually(lambda: running.metrics()[gauge] == 1)
        assert agent.cli("status", "--json").json["mappings"][0]["conflicts"] == 1
        assert running.metrics()[counter] == 1
        (event,) = running.events("conflict")
        assert event["path"] == "a.txt"
        resolve(agent, "a.txt", "both")
        eventually(lambda: running.metrics()[gauge] == 0)
        assert running.metrics()[counter] == 1
        assert len(running.events("conflict")) == 1
