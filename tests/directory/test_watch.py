"""Watching: every change is hinted, soon; losing track is hinted as everything; limits are named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.directory import HintBuffer, Watcher, syscalls
from agent.directory.watch import WatchMode
from agent.errors import RootError
from tests.directory.disk import REPOSITORY, wait_for, write


def exchange(one: Path, other: Path) -> None:
    syscalls.renameat2(syscalls.AT_FDCWD, str(one), syscalls.AT_FDCWD, str(other), syscalls.RENAME_EXCHANGE)


class Watched:
    """A watcher and all that it has hinted."""

    def __init__(self, root: Path, mode: WatchMode = "auto", **options) -> None:
        self.root = root
        self.hints: list[str] = []
        self.watcher = Watcher(root, self.hints.append, mode=mode, **options)
        self.watcher.start()

    def expect(self, *paths: str) -> None:
        wait_for(lambda: set(paths) <= set(self.hints))

    def forget(self) -> None:
        """Wait until what has been done so far has been hinted, then forget it."""
        mark = f"mark{len(list(self.root.iterdir()))}"
        (self.root / mark).symlink_to("nowhere")  # one event, after all others
        self.expect(mark)
        self.hints.clear()


@pytest.fixture
def watch(root: Path) -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []

    def start(*arguments, **options) -> Watched:
        started.append(Watched(root, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.watcher.stop()


def test_each_kind_of_change_is_hinted(root: Path, watch: Callable[..., Watched]) -> None:
    for path in ("a/written", "a/chmod", "a/removed", "a/moved", "a/replaced"):
        write(root / path)
    write(root.parent / "came")
    watched = watch()
    assert watched.watcher.kind == "inotify"
    assert watched.watcher.why == ""

    (root / "a/written").write_bytes(b"x")
    (root / "a/chmod").chmod(0o700)
    (root / "a/removed").unlink()
    (root / "a/moved").rename(root / "b")
    (root.parent / "came").rename(root / "a/came")
    write(root.parent / "new").replace(root / "a/replaced")
    (root / "link").symlink_to("a")
    os.link(root / "b", root / "hard")

    watched.expect("a/written", "a/chmod", "a/removed", "a/moved", "b", "a/came", "a/replaced", "link", "hard")
    assert watched.watcher.events > 0


def test_a_file_that_is_kept_open_is_hinted_at_each_write(root: Path, watch: Callable[..., Watched]) -> None:
    with write(root / "log").open("ab", buffering=0) as log:
        watched = watch()
        log.write(b"line")
        watched.expect("log")


def test_a_file_moved_out_is_hinted_before_what_follows(root: Path, watch: Callable[..., Watched]) -> None:
    for number in range(5):
        write(root / f"{number}")
    watched = watch()
    for number in range(5):
        (root / f"{number}").rename(root.parent / f"out{number}")
        write(root / f"after{number}")

    watched.expect("4", "after4")
    firsts = list(dict.fromkeys(watched.hints))
    assert firsts == [name for number in range(5) for name in (f"{number}", f"after{number}")]


def test_directories_that_appear_are_hinted_and_watched(root: Path, watch: Callable[..., Watched]) -> None:
    write(root.parent / "tree/x/y/file")
    watched = watch()

    (root / "new/deep/er").mkdir(parents=True)
    watched.expect("new/")
    wait_for(lambda: watched.watcher._tree is not None and len(watched.watcher._tree) == 4)
    write(root / "new/deep/er/file")
    watched.expect("new/deep/er/file")
    (root.parent / "tree").rename(root / "tree")
    watched.expect("tree/")
    write(root / "tree/x/y/file")
    watched.expect("tree/x/y/file")


def test_a_directory_that_changes_places_with_another_is_watched(root: Path, watch: Callable[..., Watched]) -> None:
    write(root / "a/b/file")
    write(root / "z/y/file")
    write(root.parent / "out/c/file")
    watched = watch()

    exchange(root / "a", root.parent / "out")
    exchange(root / "a", root / "z")
    write(root / "last")
    watched.expect("last")
    write(root / "a/y/file")
    write(root / "z/c/file")
    watched.expect("a/", "z/", "a/y/file", "z/c/file")


def test_directories_that_move_are_watched_under_their_new_name(root: Path, watch: Callable[..., Watched]) -> None:
    write(root / "a/b/file")
    watched = watch()

    (root / "a").rename(root / "z")
    watched.expect("a/", "z/")
    write(root / "z/b/file")
    watched.expect("z/b/file")
    watched.forget()
    (root / "z").rename(root.parent / "out")
    watched.expect("z/")
    write(root.parent / "out/b/file")
    write(root / "last")
    watched.expect("last")
    assert not [hint for hint in watched.hints if "b/file" in hint]
    assert watched.watcher._tree is not None
    assert len(watched.watcher._tree) == 1


def test_a_directory_removed_and_made_again_at_once_is_watched(root: Path, watch: Callable[..., Watched]) -> None:
    write(root / "d/file")
    watched = watch()
    for _ in range(50):
        shutil.rmtree(root / "d")
        (root / "d").mkdir()
    write(root / "marker")
    watched.expect("d/", "marker")
    watched.forget()

    write(root / "d/after")

    watched.expect("d/after")


def test_what_is_reserved_or_ignored_is_neither_watched_nor_hinted(root: Path, watch: Callable[..., Watched]) -> None:
    for path in (".jetsync/staging/x", "build/deep/x", "src/build/x", ".snapshot/x"):
        write(root / path)
    watched = watch(ignore=lambda directory: directory.endswith("build"))

    for path in (".jetsync/staging/y", ".jetsync/new/y", "build/deep/y", "build/y", "src/build/y", ".snapshot/y"):
        write(root / path)
    write(root / "src/last")

    watched.expect("src/last")
    assert set(watched.hints) == {"src/last"}


def test_what_is_ignored_no_longer_is_watched_after_a_refresh(root: Path, watch: Callable[..., Watched]) -> None:
    write(root / "build/deep/x")
    ignored = {"build"}
    watched = watch(ignore=ignored.__contains__)
    ignored.clear()
    watched.watcher.refresh()

    write(root / "build/deep/y")

    watched.expect("build/deep/y")


def test_a_burst_that_overflows_the_queue_hints_everything_and_watching_goes_on(
    root: Path, watch: Callable[..., Watched]
) -> None:
    release = threading.Event()
    watched: Watched = watch()
    record = watched.hints.append

    def slow(path: str) -> None:
        release.wait(30)  # the reader stands still, so that the kernel's queue runs over
        record(path)

    tree = watched.watcher._tree
    assert tree is not None
    tree._on_hint = slow
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        release.set()
        pytest.skip("the queue of this kernel is too long to fill quickly")
    with (root / "noise").open("wb") as one, (root / "other").open("wb") as two:
        for _ in range(limit):
            os.utime(one.fileno())
            os.utime(two.fileno())
    (root / "missed/deep").mkdir(parents=True)
    release.set()

    watched.expect("")
    assert watched.watcher.overflows >= 1
    assert watched.watcher.kind == "inotify"
    write(root / "missed/deep/file")
    watched.expect("missed/deep/file")


def test_a_root_that_is_moved_removed_or_replaced_is_hinted_and_found_again(
    root: Path, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.directory.watch._ROOT_SECONDS", 0.01)
    changes: list[str] = []
    watched = watch(poll_interval=0.01, on_change=lambda: changes.append("changed"))
    held = os.open(root, os.O_RDONLY)  # as the agent does: no event tells of the removal of what is held open
    try:
        os.rmdir(root)
        watched.expect("")
        wait_for(lambda: watched.watcher.kind == "poll")
        assert "removed" in watched.watcher.why
        root.mkdir()
        wait_for(lambda: watched.watcher.kind == "inotify")
        wait_for(lambda: len(changes) == 2)
        write(root / "file")
        watched.expect("file")
        watched.forget()
        root.rename(root.parent / "moved")
        watched.expect("")
    finally:
        os.close(held)


def test_polling_hints_everything_again_and_again(watch: Callable[..., Watched]) -> None:
    watched = watch("poll", poll_interval=0.01)

    wait_for(lambda: len(watched.hints) > 3)
    assert set(watched.hints) == {""}
    assert (watched.watcher.kind, watched.watcher.why) == ("poll", "")
    watched.watcher.stop()
    count = len(watched.hints)
    assert watched.watcher.kind == "off"
    assert len(watched.hints) == count


def test_not_watching_hints_nothing(root: Path, watch: Callable[..., Watched]) -> None:
    watched = watch(False)
    write(root / "file")

    assert watched.watcher.kind == "off"
    assert watched.hints == []


def test_a_network_file_system_is_polled(watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.directory.syscalls.file_system_type", lambda fd: 0x6969)

    watcher = watch().watcher

    assert watcher.kind == "poll"
    assert "nfs" in watcher.why


def test_a_missing_root_is_an_error_with_a_remedy(root: Path) -> None:
    with pytest.raises(RootError) as caught:
        Watcher(root / "missing", print).start()
    assert caught.value.remedy


LIMITED = """
import sys, time
from pathlib import Path
from agent.directory import Watcher
root = Path(sys.argv[1])
hints = []
watcher = Watcher(root, hints.append, poll_interval=0.01)
watcher.start()
first = watcher.kind
for number in range(20):
    (root / f"new{number}").mkdir()
deadline = time.monotonic() + 20
while "" not in hints or watcher.kind != "poll":
    assert time.monotonic() < deadline, (watcher.kind, hints)
    time.sleep(0.01)
print(first, watcher.why)
watcher.stop()
"""


@pytest.mark.parametrize(
    ("setting", "value", "first", "named"),
    [
        ("max_inotify_watches", 3, "poll", "fs.inotify.max_user_watches"),
        ("max_inotify_watches", 12, "inotify", "fs.inotify.max_user_watches"),
        ("max_inotify_instances", 0, "poll", "fs.inotify.max_user_instances"),
    ],
)
def test_a_reached_limit_leads_to_polling_and_names_the_sysctl(
    root: Path, setting: str, value: int, first: str, named: str
) -> None:
    """In a user namespace of its own, whose limits are nobody else's."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Ur", "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    for number in range(5):
        (root / f"d{number}").mkdir()
    command = f'echo {value} > /proc/sys/user/{setting} && exec "$0" -c "$1" "$2"'

    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command, sys.executable, LIMITED, root],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    kind, why = done.stdout.split(" ", 1)
    assert kind == first
    assert named in why
    assert "raise" in why


def test_watchers_leave_no_threads_and_descriptors(root: Path) -> None:
    def count() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(3):
        watcher = Watcher(root, print)
        watcher.start()
        watcher.stop()
        watcher.stop()
    assert count() == before


# ---- the buffer ----


def test_hints_are_collected_with_one_wake_up_for_each_drain() -> None:
    wakes: list[int] = []
    buffer = HintBuffer(lambda: wakes.append(1))

    for path in ("a", "b", "a"):
        buffer.add(path)
    assert len(wakes) == 1
    assert buffer.drain() == {"a", "b"}
    assert buffer.drain() == set()
    buffer.add("c")
    assert len(wakes) == 2


def test_everything_stands_for_all_others_and_so_do_too_many() -> None:
    buffer = HintBuffer(lambda: None, limit=3)
    for path in ("a", "", "b"):
        buffer.add(path)
    assert buffer.drain() == {""}
    for path in "abcd":
        buffer.add(path)
    assert len(buffer) == 1
    assert buffer.drain() == {""}
