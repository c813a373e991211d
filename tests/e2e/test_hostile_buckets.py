"""A bucket stuffed with all that somebody could write into it: the good objects arrive, each bad one is told once
with a remedy, nothing is written outside the directory, nothing local is lost, and memory stays bounded."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agent.objectstore import new_nuid
from tests.e2e.conftest import MakeAgent
from tests.support.agent import File, Node, eventually, read_tree, write_tree
from tests.support.stock import Stock

HUGE = (1 << 63) - 1
MODES = ["pull-safe", "pull-mirror", "two-way"]


def digest(data: bytes) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()


# name -> fields of an object of one chunk that aren't true, or a whole payload
LYING: dict[str, dict[str, Any] | bytes] = {
    "bad/not-json": b"{",
    "bad/empty": b"",
    "bad/deep": b'{"a":' * 50_000,
    "bad/array": b"[]",
    "bad/other-name": {"name": "bad/another"},
    "bad/no-name": {"name": None},
    "bad/size-without-chunks": {"size": HUGE, "chunks": 0},
    "bad/size-huge": {"size": HUGE},
    "bad/size-huge-too": {"size": HUGE},
    "bad/size-small": {"size": 1},
    "bad/size-negative": {"size": -1},
    "bad/size-text": {"size": "5"},
    "bad/size-float": {"size": 5.0},
    "bad/size-beyond": {"size": 1 << 64},
    "bad/chunks-negative": {"chunks": -1},
    "bad/chunks-many": {"chunks": (1 << 32) - 1, "size": 1 << 40},
    "bad/chunks-beyond": {"chunks": 1 << 40, "size": 1 << 50},
    "bad/chunks-float": {"chunks": 1.5},
    "bad/digest-of-something-else": {"digest": digest(b"else")},
    "bad/digest-short": {"digest": "SHA-256=AAAA"},
    "bad/digest-none": {"digest": ""},
    "bad/digest-md5": {"digest": "MD5=" + "A" * 43 + "="},
    "bad/nuid-all": {"nuid": ">"},
    "bad/nuid-any": {"nuid": "*"},
    "bad/nuid-dots": {"nuid": "a.b"},
    "bad/nuid-space": {"nuid": "a b"},
    "bad/nuid-line": {"nuid": "a\r\nPUB x 0"},
    "bad/nuid-unknown": {"nuid": "nobody"},
    "bad/headers": {"headers": {"A": "b"}},
    "bad/metadata": {"metadata": {"a": 1}},
    "bad/options": {"options": []},
    "bad/\x1b[2J\x1b[31mescape\n": {"size": -1},
    "kept/broken": b"{",
    "kept/damaged": {"digest": digest(b"else")},
}
NAMES = [
    "../escape",
    "a/../../escape",
    "/escape",
    "a//escape",
    "./escape",
    "a/./escape",
    "back\\slash",
    "nul\0",
    "long/" + "x" * 300,
    "..",
    "../\x1b[31m",
    "content/",
]
SILENT = [".jetsync/root.json", ".JetSync/trash/x", ".jet\u017fync/x", "a/.jetsync/x", "lost+found/x", ".nfs0001"]
GOOD: dict[str, dict[str, Any]] = {
    "plain": {},
    "d/e/f/deep": {},
    "line\nbreak": {},
    "esc\x1b[31mape": {},
    "\u202eright-to-left": {},
    "mode": {"metadata": {"jetsync.mode": "9999999"}},
    "mode-bits": {"metadata": {"jetsync.mode": "4755"}},
    "mtime-zero": {"metadata": {"jetsync.mtime": "0000-00-00T00:00:00Z"}},
    "mtime-first": {"metadata": {"jetsync.mtime": "0001-01-01T00:00:00Z"}},
    "mtime-last": {"metadata": {"jetsync.mtime": "9999-12-31T23:59:59.999999999Z"}},
    "mtime-beyond": {"metadata": {"jetsync.mtime": "9999999-01-01T00:00:00Z"}},
    "mtime-odd": {"metadata": {"jetsync.mtime": "yesterday"}},
    "other-bucket": {"bucket": "somebody-elses"},
    "large-meta": {"description": "x" * 800_000},
    "strange-fields": {"options": {"max_chunk_size": 1, "x": [[[]]]}, "y": {"z": None}, "mtime": 5},
}


def stuff(stock: Stock, bucket: str) -> None:
    """All of it, in a bucket that exists."""
    for name, fields in LYING.items():
        if isinstance(fields, bytes):
            stock.publish_meta(bucket, name, fields)
        else:
            put(stock, bucket, name, fields)
    for name in [*NAMES, *SILENT]:
        put(stock, bucket, name, {})
    for name, wanted in GOOD.items():
        put(stock, bucket, name, wanted)
    # A broken link's words have the target in them.
    link(stock, bucket, "bad/link", bucket, None)
    link(stock, bucket, "bad/link-\x1b[31m", "not-\x1b[31m-there", "\x1b[31m\u202e")
    for token in ("evil.cGxhaW4=", "cGxhaW5=", "!!!", "x.y"):  # "plain" is cGxhaW4=
        stock.wait(stock.js.publish(f"$O.{bucket}.M.{token}", b"{}"))


def put(stock: Stock, bucket: str, name: str, fields: dict[str, Any]) -> None:
    """An object of one chunk, truthful but for `fields`."""
    data = f"of {name}".encode()
    nuid = new_nuid()
    stock.publish_chunk(bucket, nuid, data)
    truth = {"name": name, "bucket": bucket, "nuid": nuid, "size": len(data), "chunks": 1, "digest": digest(data)}
    stock.publish_meta(bucket, name, {**truth, **fields})


def link(stock: Stock, bucket: str, name: str, target_bucket: str, target: str | None) -> None:
    to = {"bucket": target_bucket} if target is None else {"bucket": target_bucket, "name": target}
    stock.publish_meta(
        bucket, name, {"name": name, "bucket": bucket, "nuid": "l", "size": 0, "chunks": 0, "options": {"link": to}}
    )


async def _delete_markers(stock: Stock, bucket: str, names: Iterable[str]) -> None:
    async def one(name: str) -> None:
        token = base64.urlsafe_b64encode(name.encode()).decode()
        payload = {"name": name, "bucket": bucket, "nuid": "n", "size": 0, "chunks": 0, "deleted": True}
        await stock.js.publish(f"$O.{bucket}.M.{token}", json.dumps(payload).encode())

    lot: list[str] = []
    for name in names:
        lot.append(name)
        if len(lot) == 500:
            await asyncio.gather(*map(one, lot))
            lot = []
    await asyncio.gather(*map(one, lot))


def outside(home: Path, directory: Path) -> set[str]:
    """All that is below home, but not in the mapping's directory or the agent's state."""
    found = {path for path in home.rglob("*") if directory not in path.parents and path.name != "lock"}
    return {str(path) for path in found if "state" not in path.relative_to(home).parts}


@pytest.mark.parametrize("mode", MODES)
def test_a_hostile_bucket_does_no_harm(make_agent: MakeAgent, stock: Stock, bucket: str, mode: str, tmp_path: Path):
    agent = make_agent("a", mode=mode, max_size=0)
    kept = {"kept/broken": b"mine", "kept/damaged": b"mine"}
    write_tree(agent.directory(), kept)
    stuff(stock, bucket)
    before = outside(tmp_path, agent.directory())

    report = agent.sync(exit=3, timeout=120)

    tree = read_tree(agent.directory())
    expected: dict[str, Node] = {name: File(f"of {name}".encode()) for name in GOOD}
    expected["mode-bits"] = tree["mode-bits"]
    damaged = tree.pop("kept/damaged")
    assert damaged == File(b"mine")
    assert tree.pop("kept/broken") == File(b"mine")
    assert tree == expected

    told = [problem["path"] for problem in report["problems"]]
    assert len(told) == len(set(told))
    for name in LYING:
        assert name in [*told, *report["conflicts"]], name
    shown = {text.encode("utf-8", "backslashreplace").decode() for text in told}
    for name in NAMES:
        assert name in shown, name
    for subject in (f"$O.{bucket}.M.evil.cGxhaW4=", f"$O.{bucket}.M.!!!"):
        assert subject in told
    assert not [path for path in told if path in GOOD]
    assert not [path for path in told if "jetsync" in path.lower()]
    assert all(problem["detail"] for problem in report["problems"])
    assert report["state"] == "partial"

    assert outside(tmp_path, agent.directory()) == before
    assert not list(tmp_path.rglob("*escape"))
    control = [path.name for path in (agent.directory() / ".jetsync").rglob("*") if path.is_file()]
    assert set(control) <= {"root.json"}

    again = agent.sync(exit=3, timeout=120)
    assert again["downloads"] == 0
    assert [problem["path"] for problem in again["problems"]] == told


def test_each_bad_object_is_logged_once_and_no_escape_sequence_reaches_a_terminal(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent(
        "a", mode="pull-safe", rescan="1s", max_size=0, top={"log": {"level": "debug", "format": "console"}}
    )
    stuff(stock, bucket)

    with agent.run(wait=False) as running:
        eventually((agent.directory() / "strange-fields").exists, timeout=60)
        agent.sync(exit=3)
        agent.sync(exit=3)
        texts = [agent.cli(command, exit=code).out for command, code in (("status", 0), ("sync", 3))]
        log = running.log
        assert running.rss() < 300 << 20
    for text in [*texts, log]:
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\ud800" not in text
    lines = [line for line in log.splitlines() if " problem " in line or " action_failed " in line]
    for name in ("bad/not-json", "bad/nuid-all", "bad/size-huge-too"):
        assert len([line for line in lines if name in line.split()[-1] or f"path={name} " in line]) == 1, name


def test_what_a_link_says_of_its_target_is_shown_without_escape_sequences(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    link(stock, bucket, "link", "\x1b[31mbucket", "\x1b[2J\u202etarget\nline")
    agent = make_agent("a")

    shown = agent.cli("sync", exit=3).out
    with agent.run():
        shown += agent.cli("status", exit=0).out

    assert shown.count("link_outside") == 2
    assert not set("\x1b\u202e").intersection(shown)
    assert "\nline" not in shown


@pytest.mark.parametrize("mode", ["pull-safe", "pull-mirror"])
def test_links_that_loop_dangle_or_lead_out_are_told_and_good_ones_arrive(
    make_agent: MakeAgent, stock: Stock, bucket: str, mode: str
):
    other = f"{bucket}-other"
    stock.create(other)
    stock.put(other, "target", b"of another bucket")
    stock.put(bucket, "inside", b"inside")
    link(stock, bucket, "good", other, "target")
    link(stock, bucket, "self", bucket, "self")
    link(stock, bucket, "loop", other, "back")
    link(stock, other, "back", bucket, "loop")
    link(stock, bucket, "dangling", other, "nothing")
    link(stock, bucket, "no-bucket", "not-there", "x")
    link(stock, bucket, "bad-bucket", "../../x", "x")
    link(stock, bucket, "wild-bucket", ">", "x")
    link(stock, bucket, "dotted", "a.b", "x")
    link(stock, bucket, "whole", other, None)
    link(stock, bucket, "up", bucket, "../../../etc/passwd")
    link(stock, bucket, "absolute", bucket, "/etc/passwd")
    link(stock, bucket, "control", bucket, ".jetsync/root.json")
    link(stock, bucket, "long", other, "x" * 5000)
    agent = make_agent("a", mode=mode, symlinks="link", buckets={})

    report = agent.sync(exit=3, timeout=60)

    assert read_tree(agent.directory()) == {"good": File(b"of another bucket"), "inside": File(b"inside")}
    told = {problem["path"]: problem["reason"] for problem in report["problems"]}
    assert told == dict.fromkeys(
        ["self", "loop", "dangling", "no-bucket", "bad-bucket", "wild-bucket", "dotted", "whole", "up", "absolute",
         "control", "long"],
        "broken_link",
    )  # fmt: skip
    assert stock.get(other, "target") == b"of another bucket"


def test_thousands_of_delete_markers_are_followed_in_bounded_memory(make_agent: MakeAgent, stock: Stock, bucket: str):
    stock.wait(_delete_markers(stock, bucket, (f"gone/{number}" for number in range(20_000))))
    stock.put(bucket, "live", b"live")
    agent = make_agent("a", mode="pull-mirror")

    with agent.run() as running:
        eventually((agent.directory() / "live").exists, timeout=60)
        assert running.rss() < 200 << 20
        assert agent.sync()["problems"] == []
    assert read_tree(agent.directory()) == {"live": File(b"live")}
