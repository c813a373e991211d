"""Bad input of all kinds: told once, with its path and reason; the rest goes on; nothing is deleted because of it."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, File, Link, eventually, files, read_tree, write_tree
from tests.support.stock import Stock

GOOD = b"a good object"


def problems(result: dict[str, Any]) -> dict[str, str]:
    """Path -> reason; fails when a path is told twice."""
    told = [problem["path"] for problem in result["problems"]]
    assert len(told) == len(set(told)), told
    return {problem["path"]: problem["reason"] for problem in result["problems"]}


# -- objects -----------------------------------------------------------------------------------------------------------

HOSTILE_NAMES = {
    "../escape": "invalid_name",
    "..": "invalid_name",
    ".": "invalid_name",
    "a/../../escape": "invalid_name",
    "a/../b": "invalid_name",
    "a/./b": "invalid_name",
    "a//b": "invalid_name",
    "/absolute": "invalid_name",
    "nul\0byte": "invalid_name",
    "back\\slash": "invalid_name",
    "..\\escape": "invalid_name",
    "file/": "invalid_name",
    "x" * 256: "name_too_long",
    "long/" + "ü" * 128: "name_too_long",
    "/".join(["x" * 200] * 11): "name_too_long",
}


@pytest.mark.parametrize("mode", ["two-way", "pull-safe", "pull-mirror"])
def test_hostile_object_names_are_told_and_written_nowhere(
    make_agent: MakeAgent, stock: Stock, bucket: str, mode: str, tmp_path: Path
):
    agent = make_agent(mode=mode)
    stock.put(bucket, "good", GOOD)
    for name in HOSTILE_NAMES:
        stock.put_raw(bucket, name, b"hostile")
    around = tree_around(agent)
    result = agent.sync(exit=3)

    assert {path: reason for path, reason in problems(result).items() if path in HOSTILE_NAMES} == HOSTILE_NAMES
    assert len(result["problems"]) == len(HOSTILE_NAMES)
    assert result["downloads"] == 1
    assert read_tree(agent.directory()) == files({"good": GOOD})
    assert tree_around(agent) == around
    assert stock.names(bucket) == {"good", *HOSTILE_NAMES}
    assert problems(agent.sync(exit=3)) == problems(result)


def tree_around(agent: Agent) -> set[str]:
    """What lies beside the mapping's directory, so that an escape would show."""
    return {path.name for path in (*agent.home.iterdir(), *agent.home.parent.iterdir())} - {"state"}


def test_reserved_names_are_outside_every_mapping_without_a_word(agent: Agent, stock: Stock, bucket: str):
    stock.put(bucket, ".jetsync/root.json", b"{}")
    stock.put(bucket, "d/.jetsync/x", b"1")
    stock.put(bucket, "lost+found/x", b"2")
    stock.put(bucket, "d/.nfs0001", b"3")
    stock.put(bucket, "good", GOOD)
    result = agent.sync()

    assert result["downloads"] == 1
    assert read_tree(agent.directory()) == files({"good": GOOD})
    assert len(stock.names(bucket)) == 5


BROKEN_METAS: dict[str, bytes] = {
    "empty": b"",
    "no json": b"{",
    "no object": b"[]",
    "null": b"null",
    "not utf-8": b'{"name": "\xff\xfe"}',
    "a header that is no list": b'{"name":"N","bucket":"B","nuid":"n","size":1,"chunks":1,"headers":{"a":"b"}}',
    "a size that is text": b'{"name":"N","bucket":"B","nuid":"n","size":"1","chunks":1}',
    "a negative size": b'{"name":"N","bucket":"B","nuid":"n","size":-1,"chunks":1}',
    "a digest that is none": b'{"name":"N","bucket":"B","nuid":"n","size":1,"chunks":1,"digest":"SHA-256=short"}',
    "deeply nested": b'{"metadata":' * 5000,
    "a nuid with a wildcard": b'{"name":"N","bucket":"B","nuid":">","size":1,"chunks":1}',
}


@pytest.mark.parametrize("mode", ["two-way", "pull-mirror"])
def test_broken_metas_are_told_and_the_rest_goes_on(make_agent: MakeAgent, stock: Stock, bucket: str, mode: str):
    agent = make_agent(mode=mode)
    stock.put(bucket, "good", GOOD)
    for name, payload in BROKEN_METAS.items():
        filled = payload.replace(b'"N"', f'"{name}"'.encode()).replace(b'"B"', f'"{bucket}"'.encode())
        stock.publish_meta(bucket, name, filled)
    result = agent.sync(exit=3)

    assert problems(result) == dict.fromkeys(BROKEN_METAS, "bad_meta")
    assert read_tree(agent.directory()) == files({"good": GOOD})
    assert problems(agent.sync(exit=3)) == problems(result)


def test_a_meta_that_breaks_later_deletes_nothing_and_heals_when_it_is_written_again(
    agent: Agent, stock: Stock, bucket: str
):
    stock.put(bucket, "object", b"first")
    agent.sync()
    stock.publish_meta(bucket, "object", b"{")

    assert problems(agent.sync(exit=3)) == {"object": "bad_meta"}
    assert read_tree(agent.directory()) == files({"object": b"first"})
    stock.put_raw(bucket, "object", b"first")
    assert agent.sync()["state"] == "converged"


def test_a_meta_that_names_another_object_than_its_subject_is_told(agent: Agent, stock: Stock, bucket: str):
    truthful = stock.put_raw(bucket, "honest", GOOD)
    stock.publish_meta(bucket, "subject", {**truthful.payload, "name": "../liar"})
    result = agent.sync(exit=3)

    assert problems(result) == {"subject": "bad_meta"}
    assert read_tree(agent.directory()) == files({"honest": GOOD})


def test_a_wrong_digest_never_reaches_the_directory(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"kept": b"old bytes"})
    agent.sync()
    right = stock.put_raw(bucket, "other", b"other bytes").payload["digest"]
    stock.put_raw(bucket, "kept", b"new bytes", digest=right)
    stock.put_raw(bucket, "new", b"new bytes", digest=right)
    stock.put(bucket, "good", GOOD)
    result = agent.sync(exit=3)

    assert problems(result) == {"kept": "bad_digest", "new": "bad_digest"}
    assert read_tree(agent.directory()) == files({"kept": b"old bytes", "other": b"other bytes", "good": GOOD})
    assert stock.names(bucket) == {"kept", "new", "other", "good"}


def test_damaged_content_is_logged_and_counted_once(agent: Agent, stock: Stock, bucket: str):
    right = stock.put_raw(bucket, "other", b"other bytes").payload["digest"]
    with agent.run() as running:
        stock.put_raw(bucket, "wrong", b"new bytes", digest=right)
        eventually(lambda: running.events("problem"))
        agent.sync(exit=3)

        assert [event["reason"] for event in running.events("problem")] == ["bad_digest"]
        assert running.events("action_failed") == []
        assert running.metrics()['jetsync_errors_total{mapping="files",reason="bad_digest"}'] == 1
        assert running.metrics()['jetsync_integrity_failures_total{mapping="files"}'] == 1


def test_missing_chunks_are_told_and_never_hang(agent: Agent, stock: Stock, bucket: str):
    stock.put_raw(bucket, "two of three missing", b"chunk", chunks=3, size=15)
    stock.put(bucket, "all gone", b"x" * 300_000)
    meta = stock.meta(bucket, "all gone")
    assert meta is not None
    stock.purge(bucket, meta.payload["nuid"])
    stock.put(bucket, "good", GOOD)
    result = agent.sync(exit=3)

    assert problems(result) == {"two of three missing": "missing_chunks", "all gone": "missing_chunks"}
    assert read_tree(agent.directory()) == files({"good": GOOD})


@pytest.mark.parametrize("size", [0, 4, 6, 2**30])
def test_a_size_that_lies_is_told(agent: Agent, stock: Stock, bucket: str, size: int):
    stock.put_raw(bucket, "liar", b"bytes", size=size)
    stock.put(bucket, "good", GOOD)
    result = agent.sync(exit=3)

    assert set(problems(result)) == {"liar"}
    assert read_tree(agent.directory()) == files({"good": GOOD})


def test_links_that_lead_nowhere_are_told(agent: Agent, stock: Stock, bucket: str):
    links = {
        "bucket-link": {"bucket": "elsewhere"},
        "other-bucket": {"bucket": "elsewhere", "name": "object"},
        "escape": {"bucket": bucket, "name": "../../etc/passwd"},
    }
    for name, link in links.items():
        stock.put_raw(bucket, name, b"", digest="", options={"link": link})
    stock.put(bucket, "good", GOOD)
    result = agent.sync(exit=3)

    assert set(problems(result)) == set(links)
    assert read_tree(agent.directory()) == files({"good": GOOD})


def test_a_dangling_link_is_a_symlink_as_any_and_a_link_to_itself_is_told(agent: Agent, stock: Stock, bucket: str):
    for name, target in {"dangling": "nothing", "loop": "loop"}.items():
        stock.put_raw(bucket, name, b"", digest="", options={"link": {"bucket": bucket, "name": target}})
    result = agent.sync(exit=3)

    assert problems(result) == {"loop": "broken_link"}
    assert read_tree(agent.directory()) == {"dangling": Link("nothing")}


def test_objects_a_and_a_slash_b_cannot_both_be_files(agent: Agent, stock: Stock, bucket: str):
    stock.put(bucket, "a", b"a file")
    stock.put(bucket, "a/b", b"a file below it")
    stock.put(bucket, "good", GOOD)
    result = agent.sync(exit=3)

    assert set(problems(result).values()) == {"structure_clash"}
    assert read_tree(agent.directory())["good"] == File(GOOD)
    assert stock.contents(bucket) == {"a": b"a file", "a/b": b"a file below it", "good": GOOD}


def test_a_file_that_was_sent_gives_way_to_objects_that_another_client_puts_below_its_name(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    one, other = make_agent("a"), make_agent("b")
    write_tree(one.directory(), {"a": b"a file"})
    one.sync()
    stock.put(bucket, "a/b", b"below it")
    result = one.sync()
    other.sync()

    (copy,) = (name for name in stock.names(bucket) if name.startswith("a.conflict-"))
    assert problems(result) == {}
    assert read_tree(one.directory()) == read_tree(other.directory()) == files({copy: b"a file", "a/b": b"below it"})
    assert stock.contents(bucket) == {copy: b"a file", "a/b": b"below it"}


def test_a_symlinked_directory_is_never_followed_out_of_the_root(
    agent: Agent, stock: Stock, bucket: str, tmp_path: Path
):
    outside = tmp_path / "outside"
    outside.mkdir()
    stock.put(bucket, "d/file", b"first")
    agent.sync()
    shutil.rmtree(agent.directory() / "d")
    (agent.directory() / "d").symlink_to(outside)
    stock.put(bucket, "d/file", b"second")
    stock.put(bucket, "d/new", b"third")
    agent.sync(exit=None)

    assert list(outside.iterdir()) == []


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_name_that_is_not_utf8_is_told_and_stays(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"good": GOOD})
    raw = os.fsencode(agent.directory()) + b"/caf\xe9"
    Path(os.fsdecode(raw)).write_bytes(b"latin-1")
    result = agent.sync(exit=3)

    assert list(problems(result).values()) == ["not_utf8"]
    assert "caf" in result["problems"][0]["path"]
    assert stock.names(bucket_name) == {"good"}
    assert os.path.exists(raw)


def test_an_unreadable_file_is_told_and_its_object_stays(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"secret": b"bytes", "good": GOOD})
    agent.sync()
    (agent.directory() / "secret").chmod(0)
    write_tree(agent.directory(), {"also good": GOOD})
    result = agent.sync(exit=3, unprivileged=True)

    assert problems(result) == {"secret": "unreadable"}
    assert stock.contents(bucket_name) == {"secret": b"bytes", "good": GOOD, "also good": GOOD}
    (agent.directory() / "secret").chmod(0o644)
    healed = agent.sync(unprivileged=True)
    assert (healed["state"], healed["uploads"], healed["conflict_copies"]) == ("converged", 0, [])


def test_a_file_that_changed_while_it_was_unreadable_loses_neither_version(
    agent: Agent, stock: Stock, bucket_name: str
):
    write_tree(agent.directory(), {"secret": b"readable at first"})
    agent.sync()
    write_tree(agent.directory(), {"secret": b"changed, then locked"})
    (agent.directory() / "secret").chmod(0)
    agent.sync(exit=3, unprivileged=True)
    assert stock.contents(bucket_name) == {"secret": b"readable at first"}

    (agent.directory() / "secret").chmod(0o644)
    agent.sync(unprivileged=True)
    assert set(stock.contents(bucket_name).values()) == {b"readable at first", b"changed, then locked"}


def test_an_unreadable_directory_is_never_taken_for_an_empty_one(agent: Agent, stock: Stock, bucket_name: str):
    write_tree(agent.directory(), {"locked/a": b"1", "locked/deep/b": b"2", "good": GOOD})
    agent.sync()
    (agent.directory() / "locked").chmod(0)
    try:
        result = agent.sync(exit=3, unprivileged=True)
    finally:
        (agent.directory() / "locked").chmod(0o755)

    assert set(problems(result).values()) == {"unreadable"}
    assert result["deletes_remote"] == 0
    assert stock.names(bucket_name) == {"locked/a", "locked/deep/b", "good"}
    assert agent.sync()["state"] == "converged"


def test_a_directory_that_cannot_be_written_is_told(agent: Agent, stock: Stock, bucket: str):
    stock.put(bucket, "closed/new", b"1")
    stock.put(bucket, "good", GOOD)
    (agent.directory() / "closed").mkdir(mode=0o555)
    result = agent.sync(exit=3, unprivileged=True)

    assert problems(result) == {"closed/new": "unwritable"}
    assert (agent.directory() / "good").read_bytes() == GOOD
    assert stock.names(bucket) == {"closed/new", "good"}


def test_sockets_and_fifos_are_counted_as_skipped_and_block_nothing(agent: Agent, stock: Stock, bucket_name: str):
    os.mkfifo(agent.directory() / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(agent.directory(), os.O_RDONLY)
        server.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
        write_tree(agent.directory(), {"good": GOOD})
        result = agent.sync()

    assert result["skipped"] == {"fifo": 1, "socket": 1}
    assert result["problems"] == []
    assert stock.names(bucket_name) == {"good"}


def test_an_object_under_the_name_of_a_fifo_leaves_both_alone(agent: Agent, stock: Stock, bucket: str):
    os.mkfifo(agent.directory() / "pipe")
    stock.put(bucket, "pipe", b"an object")
    agent.sync()

    assert (agent.directory() / "pipe").is_fifo()
    assert stock.contents(bucket) == {"pipe": b"an object"}


def test_files_over_max_size_are_skipped_and_their_objects_stay(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent(max_size="1KiB")
    write_tree(agent.directory(), {"grows": b"small", "large": b"x" * 1025, "just fits": b"x" * 1024})
    assert agent.sync()["skipped"] == {"max_size": 1}
    write_tree(agent.directory(), {"grows": b"x" * 2000})
    result = agent.sync()

    assert result["skipped"] == {"max_size": 2}
    assert stock.names(bucket_name) == {"grows", "just fits"}
    assert stock.get(bucket_name, "grows") == b"small"


def test_symlinks_out_of_the_root_are_told(agent: Agent, stock: Stock, bucket_name: str):
    links = {"absolute": "/etc/hostname", "up": "../../up", "d/up": "../../up", "inside": "good"}
    write_tree(agent.directory(), {"good": GOOD, **{name: Link(target) for name, target in links.items()}})
    result = agent.sync(exit=3)

    assert problems(result) == dict.fromkeys(("absolute", "up", "d/up"), "link_outside")
    assert stock.names(bucket_name) == {"good", "inside"}


def test_a_name_that_is_too_long_with_the_prefix_is_told(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent(prefix=f"{'p' * 200}/")
    long = "/".join(["d" * 200] * 9) + "/" + "e" * 100  # 1909 bytes: a path as any, but for the prefix
    write_tree(agent.directory(), {long: b"1", "short": b"1"})

    assert problems(agent.sync(exit=3)) == {long: "name_too_long"}
    assert stock.names(bucket_name) == {f"{'p' * 200}/short"}


def test_symlinks_skip_counts_them(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent(symlinks="skip")
    write_tree(agent.directory(), {"good": GOOD, "link": Link("good"), "bad": Link("/etc")})

    assert agent.sync()["skipped"] == {"symlink": 2}
    assert stock.names(bucket_name) == {"good"}


def test_a_full_bucket_is_told_and_small_files_still_go(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent(buckets={bucket_name: {"max_bytes": "1MiB"}})
    write_tree(agent.directory(), {"small": GOOD, "too large": b"x" * 3_000_000})
    result = agent.sync(exit=3)

    assert problems(result) == {"too large": "bucket_full"}
    assert stock.contents(bucket_name) == {"small": GOOD}
    assert stock.orphans(bucket_name) == {}


def test_a_running_agent_tells_a_problem_once_and_goes_on(agent: Agent, stock: Stock, bucket: str):
    stock.put_raw(bucket, "../escape", b"hostile")
    with agent.run() as running:
        write_tree(agent.directory(), {"one": b"1"})
        eventually(lambda: "one" in stock.names(bucket))
        stock.put(bucket, "two", b"2")
        eventually((agent.directory() / "two").exists)
        assert running.log.count("../escape") == 1
        page = agent.cli("status", "--json", exit=0).json

    assert page["mappings"][0]["problems"] == {"invalid_name": 1} or "invalid_name" in str(page["mappings"][0])


def test_a_problem_that_goes_away_while_running_is_told_no_longer(agent: Agent):
    with agent.run() as running:
        odd = Path(os.fsdecode(os.fsencode(agent.directory()) + b"/bad\xff"))
        odd.write_bytes(b"1")
        (agent.directory() / "back\\slash").write_bytes(b"1")
        (agent.directory() / "link").symlink_to("/etc/hostname")
        agent.sync(exit=3)
        total = 'jetsync_mapping_problems{mapping="files",reason="%s"}'
        reasons = ("not_utf8", "invalid_name", "link_outside")
        eventually(lambda: [running.metrics()[total % reason] for reason in reasons] == [1, 1, 1])
        odd.unlink()
        (agent.directory() / "back\\slash").unlink()
        (agent.directory() / "link").unlink()

        eventually(lambda: [running.metrics()[total % reason] for reason in reasons] == [0, 0, 0])
