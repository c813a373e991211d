"""A watch that can't be fooled: bursts, moved trees, editors, growing files, equal times; a bucket written unseen.

Agent a watches with inotify or by polling, and without root's rights to read everything; agent b shows what came of it.
They run through many tests, with a short `settle_max` so that looks fall into the middle of what is going on; each test
has a directory of its own below both roots.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import mmap
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, AgentProcess, File, eventually, mapping, read_tree, running, write_tree
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock, meta_subject

pytestmark = pytest.mark.xdist_group("watch")  # one worker, so that the agents start once for each kind of watching

OPTIONS = {"max_delete": "100%", "settle": "50ms", "settle_max": "500ms"}
INTERVALS = {"auto": "1h", "poll": "300ms"}  # who goes over from inotify to polling would be seen by the first test


@dataclass(frozen=True)
class Live:
    """Two running agents. a, b: this test's directory on both sides; outside: a directory on the same file system."""

    a: Path
    b: Path
    outside: Path
    agents: tuple[AgentProcess, AgentProcess]
    polling: bool

    def equal(self, expected: dict[str, object] | None = None, *, timeout: float = 45.0) -> None:
        """Wait until both sides hold the same tree, the expected one when it is given."""

        def check() -> bool:
            found_a, found_b = read_tree(self.a), read_tree(self.b)
            assert found_b == found_a
            assert expected is None or found_a == expected
            return True

        eventually(check, timeout=timeout, interval=0.1)

    def arrives(self, path: str, content: bytes) -> None:
        eventually(lambda: (self.b / path).read_bytes() == content, timeout=20)


@pytest.fixture(scope="module", params=["auto", pytest.param("poll", marks=pytest.mark.slow)])
def agents(request: pytest.FixtureRequest, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp(f"watch-{request.param}")
    bucket = f"watch-{request.param}"
    watched = mapping(bucket, watch=request.param, poll_interval=INTERVALS[request.param], **OPTIONS)
    a = Agent(home / "a", nats_server.url, [watched])
    b = Agent(home / "b", nats_server.url, [mapping(bucket, max_delete="100%")])
    with contextlib.ExitStack() as stack:
        processes = tuple(stack.enter_context(agent.run(unprivileged=True)) for agent in (a, b))
        yield a, b, processes


@pytest.fixture
def live(agents, request: pytest.FixtureRequest) -> Live:
    a, b, processes = agents
    name = request.node.originalname.removeprefix("test_")[:60] + str(abs(hash(request.node.name)) % 1000)
    outside = a.home / "outside" / name
    outside.mkdir(parents=True)
    made = a.directory() / name
    made.mkdir()
    return Live(made, b.directory() / name, outside, processes, a.config["mappings"][0]["watch"] == "poll")


class Seen:
    """What a file held, whenever it was looked at while the block ran; None = nothing was there. Each state once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: list[bytes | None] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(0.002):
            try:
                found = self.path.read_bytes()
            except FileNotFoundError:
                found = None
            if not self.states or self.states[-1] != found:
                self.states.append(found)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


# -- trees -----------------------------------------------------------------------------------------------------------


def tree_of(files: int) -> dict[str, bytes]:
    return {f"d{number % 20}/e{number % 7}/f{number}": f"content {number}".encode() for number in range(files)}


def test_a_tree_that_is_moved_in_renamed_and_moved_out_again(live: Live):
    tree = tree_of(700)
    write_tree(live.outside / "tree", tree)

    (live.outside / "tree").rename(live.a / "tree")
    live.equal({f"tree/{path}": File(content) for path, content in tree.items()})
    write_tree(live.a / "tree/d3/e3", {"late": b"late"})
    live.arrives("tree/d3/e3/late", b"late")

    (live.a / "tree").rename(live.a / "other")
    write_tree(live.a / "other/d4/e4", {"later": b"later"})
    live.equal()
    assert not (live.b / "tree").exists()
    live.arrives("other/d4/e4/later", b"later")

    (live.a / "other").rename(live.outside / "back")
    (live.a / "stays").write_bytes(b"x")
    live.equal({"stays": File(b"x")})


def test_a_directory_that_takes_the_name_of_one_just_deleted(live: Live):
    write_tree(live.a, {"old/x": b"old x", "old/only": b"1", "new/x": b"new x", "new/deep/y": b"y"})
    live.equal()

    shutil.rmtree(live.a / "old")
    (live.a / "new").rename(live.a / "old")

    live.equal({"old/x": File(b"new x"), "old/deep/y": File(b"y")})
    (live.a / "old/deep/y").write_bytes(b"changed")
    live.arrives("old/deep/y", b"changed")


def test_directories_that_change_names_with_each_other(live: Live):
    write_tree(live.a, {"one/x": b"1", "one/sub/s": b"s1", "two/x": b"2", "two/sub/s": b"s2"})
    live.equal()

    for _ in range(5):
        (live.a / "one").rename(live.a / "spare")
        (live.a / "two").rename(live.a / "one")
        (live.a / "spare").rename(live.a / "two")

    live.equal({"one/x": File(b"2"), "one/sub/s": File(b"s2"), "two/x": File(b"1"), "two/sub/s": File(b"s1")})
    (live.a / "one/sub/s").write_bytes(b"changed")
    live.arrives("one/sub/s", b"changed")


def test_a_directory_replaced_by_a_symlink_and_back(live: Live):
    write_tree(live.a, {"d/x": b"x", "d/sub/y": b"y"})
    live.equal()

    (live.a / "d").rename(live.a / "real")
    (live.a / "d").symlink_to("real")
    live.equal()
    assert (live.b / "d").is_symlink()
    assert (live.b / "d/sub/y").read_bytes() == b"y"

    (live.a / "d").unlink()
    (live.a / "real").rename(live.a / "d")
    live.equal({"d/x": File(b"x"), "d/sub/y": File(b"y")})
    (live.a / "d/sub/y").write_bytes(b"changed")
    live.arrives("d/sub/y", b"changed")


def test_names_that_change_only_in_case(live: Live):
    write_tree(live.a, {"readme.TXT": b"text", "Dir/file": b"file"})
    live.equal()

    (live.a / "readme.TXT").rename(live.a / "README.txt")
    (live.a / "Dir").rename(live.a / "dir")

    live.equal({"README.txt": File(b"text"), "dir/file": File(b"file")})


def test_what_cannot_be_read_stays_and_goes_on_when_it_can_be_read_again(live: Live):
    write_tree(live.a, {"file": b"1", "d/x": b"1", "d/sub/y": b"1"})
    live.equal()
    for path in ("file", "d"):
        (live.a / path).chmod(0)
    write_tree(live.a, {"other": b"other"})
    write_tree(live.a, {"d/new/w": b"made by root"})
    live.arrives("other", b"other")
    assert {path: (live.b / path).read_bytes() for path in ("file", "d/x")} == {"file": b"1", "d/x": b"1"}

    (live.a / "d").chmod(0o755)
    (live.a / "file").chmod(0o644)
    live.equal()
    (live.a / "d/sub/y").write_bytes(b"2")
    live.arrives("d/sub/y", b"2")
    write_tree(live.a, {"d/new/z": b"in a directory that was made while it could not be seen"})
    live.equal()
    (live.a / "file").write_bytes(b"3")
    live.arrives("file", b"3")


def test_a_directory_that_comes_unreadable_and_is_opened_later(live: Live):
    write_tree(live.outside, {"d/sub/x": b"1", "half/sub/x": b"1"})
    (live.outside / "d").chmod(0)
    (live.outside / "half").chmod(0o444)  # its names can be read, what they are can't
    for name in ("d", "half"):
        (live.outside / name).rename(live.a / name)
    write_tree(live.a, {"other": b"other"})
    live.arrives("other", b"other")

    for name in ("d", "half"):
        (live.a / name).chmod(0o755)
    live.equal({"d/sub/x": File(b"1"), "half/sub/x": File(b"1"), "other": File(b"other")})
    time.sleep(1)  # what the change of mode has started is over: what follows is seen by itself

    for name in ("d", "half"):
        (live.a / name / "sub/x").write_bytes(b"2")
    live.equal({"d/sub/x": File(b"2"), "half/sub/x": File(b"2"), "other": File(b"other")})


# -- files -----------------------------------------------------------------------------------------------------------


def write_and_rename(path: Path, content: bytes) -> None:
    """Most editors and libraries: a new file takes the name."""
    new = path.with_name(f".{path.name}.swp")
    new.write_bytes(content)
    new.replace(path)


def backup_and_write(path: Path, content: bytes) -> None:
    """vim with `backup`: the old file gets another name, the new one is written, the old one is removed."""
    backup = path.with_name(f"{path.name}~")
    if path.exists():
        path.rename(backup)
    path.write_bytes(content)
    backup.unlink(missing_ok=True)


def backup_and_rename(path: Path, content: bytes) -> None:
    """Word processors: new file beside it, old one renamed away, new one renamed to its place, old one removed."""
    new, old = path.with_name("~new.tmp"), path.with_name("~old.tmp")
    new.write_bytes(content)
    if path.exists():
        path.rename(old)
    new.rename(path)
    old.unlink(missing_ok=True)


def truncate_and_write(path: Path, content: bytes) -> None:
    """A shell's `>`, nano, and who keeps the inode."""
    with path.open("wb", buffering=0) as file:
        file.write(content)


@pytest.mark.parametrize("save", [write_and_rename, backup_and_write, backup_and_rename, truncate_and_write])
def test_a_file_saved_again_and_again_is_never_seen_torn(live: Live, save: Callable[[Path, bytes], None]):
    path = live.a / "document.txt"
    versions = [f"version {number}\n".encode() * 2000 for number in range(50)]
    save(path, versions[0])
    live.arrives("document.txt", versions[0])

    with Seen(live.b / "document.txt") as seen:
        for number, version in enumerate(versions):
            save(path, version)
            time.sleep(0.3 if number % 10 == 9 else 0.02)
        live.arrives("document.txt", versions[-1])

    whole = {*versions, b"", None}  # truncating makes an empty file, and renaming away none, for a moment
    assert [state[:20] for state in seen.states if state is not None and state not in whole] == []
    live.equal({"document.txt": File(versions[-1])})


def grow(live: Live, seconds: float, step: float) -> None:
    """Slowly at first, until the other side has seen something of it; then fast."""
    path = live.a / "growing.log"
    lines = 0
    deadline = patience = time.monotonic() + 60
    with Seen(live.b / "growing.log") as seen:
        with path.open("wb", buffering=0) as file:
            while time.monotonic() < deadline:
                more = 500 if deadline != patience else 1
                file.write(b"".join(b"%08d a line of the log\n" % number for number in range(lines, lines + more)))
                lines += more
                time.sleep(step)
                if more == 1 and any(seen.states):
                    deadline = time.monotonic() + seconds
        whole = path.read_bytes()
        eventually(lambda: (live.b / "growing.log").read_bytes() == whole)
    between = [state for state in seen.states if state is not None]
    assert all(whole.startswith(state) for state in between)
    assert all(len(state) % len(b"%08d a line of the log\n" % 0) == 0 for state in between)
    assert len(between) > 1, "a file that grows for long is looked at before its end"
    live.equal({"growing.log": File(whole)})


def test_a_growing_file_arrives_whole_and_between_only_as_it_was(live: Live):
    grow(live, 5, 0.02)


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_file_growing_for_a_minute_arrives_whole_and_between_only_as_it_was(live: Live):
    grow(live, 60, 0.02)


def test_a_large_file_that_changes_each_time_it_is_read_makes_no_conflict_with_itself(make_agent: MakeAgent):
    agent = make_agent(watch=False)
    path = agent.directory() / "large.log"
    path.write_bytes(bytes(40 << 20))
    agent.sync()
    stop = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.wait(0.001):
                file.write(b"line\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        during = agent.sync(exit=3)
    finally:
        stop.set()
        writer.join()
    assert [problem["reason"] for problem in during["problems"]] == ["changing"]

    after = agent.sync()

    assert (after["uploads"], after["conflict_copies"], after["conflicts"]) == (1, [], []), (during, after)
    assert sorted(os.listdir(agent.directory())) == [".jetsync", "large.log"]


def test_a_change_of_equal_size_and_time_is_seen(live: Live):
    path = live.a / "same"
    path.write_bytes(b"one")
    then = os.stat(path).st_mtime_ns
    live.arrives("same", b"one")

    for number in range(10):
        content = b"%03d" % number
        with path.open("r+b", buffering=0) as file:  # the same inode
            file.write(content)
        os.utime(path, ns=(then, then))
        live.arrives("same", content)
    assert os.stat(path).st_mtime_ns == then


def test_changes_faster_than_the_clock_of_the_file_system_end_with_the_last(live: Live):
    paths = [live.a / f"fast{number}" for number in range(20)]
    for path in paths:
        path.write_bytes(b"0000")
    live.equal()

    for round_ in range(40):
        for path in paths:
            with path.open("r+b", buffering=0) as file:
                for number in range(5):
                    os.pwrite(file.fileno(), b"%04d" % (round_ * 5 + number), 0)
        time.sleep(0.01 * (round_ % 5))

    live.equal({path.name: File(b"0199") for path in paths})


def test_writes_through_a_mapping_of_the_file_are_seen(live: Live):
    path = live.a / "mapped"
    path.write_bytes(b"." * 10_000)
    live.arrives("mapped", b"." * 10_000)
    expected = bytearray(b"." * 10_000)

    for number in range(3):
        time.sleep(0.1)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[number : number + 1] = expected[number : number + 1] = b"x"
            view.flush()
        live.arrives("mapped", bytes(expected))


def test_a_write_through_one_hard_link_is_seen_under_all_names(live: Live):
    write_tree(live.a, {"one": b"1", "deep/er/file": b"x"})
    os.link(live.a / "one", live.a / "deep/two")
    os.link(live.a / "one", live.a / "deep/er/three")
    live.equal()

    with (live.a / "one").open("r+b") as file:
        file.write(b"2")

    live.equal()
    (live.a / "deep/two").unlink()
    (live.a / "deep/er/three").write_bytes(b"last")
    live.equal({"one": File(b"last"), "deep/er/three": File(b"last"), "deep/er/file": File(b"x")})


# -- more events than the kernel keeps -------------------------------------------------------------------------------

CREATE = """if 1:
    import os, sys
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        directory = f"{sys.argv[1]}/d{number % 50}"
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/f{number}", "wb") as file:
            file.write(b"content %d" % number)
"""


def count(root: Path) -> int:
    """Files below a directory of the layout above."""
    return sum(len(os.listdir(root / name)) for name in os.listdir(root) if name != ".jetsync")


def burst(make_agent: MakeAgent, files: int, *, stopped: bool, timeout: float) -> tuple[float, float]:
    """Several processes make files while the agent stands still or not; seconds until all is there, and overflows."""
    a, b = (make_agent(name, poll_interval="1h", max_delete="100%") for name in "ab")
    for number in range(45):  # the others come with the burst
        (a.directory() / f"d{number}").mkdir()
    with running(a, b) as (process, _):
        before = time.monotonic()
        if stopped:
            process.signal(signal.SIGSTOP)
        makers = [
            subprocess.Popen([sys.executable, "-c", CREATE, a.directory(), str(low), str(low + files // 4)])
            for low in range(0, files, files // 4)
        ]
        assert [maker.wait(timeout) for maker in makers] == [0] * 4
        process.signal(signal.SIGCONT)
        expected = {f"d{number % 50}/f{number}": File(b"content %d" % number) for number in range(files)}
        eventually(lambda: count(b.directory()) == files, timeout=timeout, interval=1)
        eventually(lambda: read_tree(b.directory()) == expected, timeout=timeout, interval=1)
        seconds = time.monotonic() - before
        overflows = process.metrics()['jetsync_watch_overflows_total{mapping="files",source="local"}']

        (a.directory() / "d47/f47").write_bytes(b"changed")  # directories that came in the burst are watched
        (a.directory() / "d8/f8").unlink()
        eventually(lambda: (b.directory() / "d47/f47").read_bytes() == b"changed")
        eventually(lambda: not (b.directory() / "d8/f8").exists())
    return seconds, overflows


def test_a_burst_that_overflows_the_queue_of_the_kernel_arrives_whole(make_agent: MakeAgent):
    if int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) > 16_384:
        pytest.skip("the queue of this kernel is too long to fill quickly")
    _, overflows = burst(make_agent, 6400, stopped=True, timeout=50)  # three events for each file

    assert overflows > 0


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "running"])
def test_a_burst_of_fifty_thousand_creates_arrives_whole(make_agent: MakeAgent, stopped: bool):
    seconds, overflows = burst(make_agent, 50_000, stopped=stopped, timeout=300)

    print(f"50,000 creates: {seconds:.1f} s, {overflows:.0f} overflows")
    assert overflows > 0 or not stopped


# -- a bucket that is written unseen ---------------------------------------------------------------------------------


def write_bucket(stock: Stock, bucket: str) -> None:
    stock.put(bucket, "changed", b"2")
    stock.put(bucket, "twice", b"2")
    stock.put(bucket, "twice", b"3")
    stock.put(bucket, "d/new", b"new")
    stock.put(bucket, "back", b"2")
    stock.put(bucket, "back", b"1")
    stock.delete(bucket, "gone")
    stock.delete(bucket, "again")
    stock.put(bucket, "again", b"again")
    stock.put(bucket, "short-lived", b"x")
    stock.delete(bucket, "short-lived")


BEFORE = dict.fromkeys(("changed", "twice", "back", "gone", "again", "stays"), b"1")
AFTER = {
    path: File(content)
    for path, content in {
        "changed": b"2",
        "twice": b"3",
        "back": b"1",
        "again": b"again",
        "stays": b"1",
        "d/new": b"new",
    }.items()
}


@pytest.mark.parametrize("how", ["down", "killed", "disconnected", "stopped"])
def test_a_bucket_written_while_nobody_looks_is_caught_up_with(
    make_agent: MakeAgent, nats_server: NatsServer, stock: Stock, bucket: str, how: str
):
    with Proxy(nats_server.port) as proxy:
        agent = make_agent(nats=proxy.url, max_delete="100%")
        write_tree(agent.directory(), BEFORE)
        process = agent.run()
        try:
            eventually(lambda: stock.names(bucket) == set(BEFORE))
            if how == "down":
                process.stop()
            elif how == "killed":
                process.kill()
            elif how == "stopped":
                process.signal(signal.SIGSTOP)
            else:
                proxy.cut()
                eventually(lambda: proxy.connections == 0)

            write_bucket(stock, bucket)

            if how == "stopped":
                process.signal(signal.SIGCONT)
            elif how == "disconnected":
                proxy.resume()
            else:
                process = agent.run()
            eventually(lambda: read_tree(agent.directory()) == AFTER, timeout=45)
        finally:
            process.kill()
    assert stock.names(bucket) == set(AFTER)


def publish(stock: Stock, bucket: str, objects: dict[str, bytes | None]) -> None:
    """Many objects of one chunk at once, as they are; None = a delete marker."""

    async def one(name: str, content: bytes | None, slots: asyncio.Semaphore) -> None:
        nuid = secrets.token_hex(11)
        digest = "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(content or b"").digest()).decode()
        meta: dict[str, Any] = {"name": name, "bucket": bucket, "nuid": nuid, "mtime": "0001-01-01T00:00:00Z"}
        if content is None:
            meta |= {"size": 0, "chunks": 0, "deleted": True}
        else:
            meta |= {"size": len(content), "chunks": 1, "digest": digest, "options": {"max_chunk_size": 131072}}
        async with slots:
            if content is not None:
                await stock.js.publish(f"$O.{bucket}.C.{nuid}", content)
            headers = {"Nats-Rollup": "sub"}
            await stock.js.publish(meta_subject(bucket, name), json.dumps(meta).encode(), headers=headers)

    async def all_of(lot: list[tuple[str, bytes | None]]) -> None:
        slots = asyncio.Semaphore(256)
        await asyncio.gather(*(one(name, content, slots) for name, content in lot))

    work: Callable[[list[tuple[str, bytes | None]]], Coroutine[Any, Any, None]] = all_of
    items = list(objects.items())
    for start in range(0, len(items), 5000):
        stock.wait(work(items[start : start + 5000]))


def behind(
    make_agent: MakeAgent, stock: Stock, bucket: str, metas: int, *, how: str, timeout: float
) -> dict[str, float]:
    """The agent knows a fifth of the names; then `metas` metas are written unseen: half of what it knows is deleted,
    the other half overwritten, the rest is new. Seconds, and MiB of memory."""
    known = metas // 5
    agent = make_agent(max_delete="100%")
    write_tree(agent.directory(), {f"d{number % 100}/{number}": b"old" for number in range(known)})
    agent.sync(timeout=timeout)
    process = agent.run()
    idle = process.rss()
    try:
        if how == "down":
            process.stop()
        else:
            process.signal(signal.SIGSTOP)
        written = {
            f"d{number % 100}/{number}": None if number < known // 2 else b"content %d" % number
            for number in range(metas)
        }
        publish(stock, bucket, written)
        expected = {path: File(content) for path, content in written.items() if content is not None}

        began = time.monotonic()
        if how == "down":
            process = agent.run(wait=False)
        else:
            process.signal(signal.SIGCONT)
        peak = [0]

        def arrived() -> bool:
            with contextlib.suppress(AssertionError, OSError):
                peak[0] = max(peak[0], process.rss())
            return count(agent.directory()) == len(expected)

        eventually(arrived, timeout=timeout, interval=0.2)
        seconds = time.monotonic() - began
        eventually(lambda: read_tree(agent.directory()) == expected, timeout=timeout, interval=1)
        process.wait_ready()
        return {"seconds": seconds, "idle": idle / 2**20, "peak": peak[0] / 2**20, "after": process.rss() / 2**20}
    finally:
        process.kill()


def test_an_agent_that_is_behind_by_many_metas_catches_up(make_agent: MakeAgent, stock: Stock, bucket: str):
    behind(make_agent, stock, bucket, 5000, how="down", timeout=50)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["down", "stopped"])
def test_an_agent_that_is_behind_by_a_hundred_thousand_metas_catches_up_in_bounded_memory(
    make_agent: MakeAgent, stock: Stock, bucket: str, how: str
):
    measured = behind(make_agent, stock, bucket, 100_000, how=how, timeout=400)

    print(measured)
    assert measured["peak"] - measured["idle"] < 300
