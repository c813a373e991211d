"""Looking at single paths, and reading files."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from agent.core.entries import Entry, Kind, Obstacle, Reason
from agent.directory import Directory
from agent.directory.look import render, unrender
from agent.directory.read import COARSE_GRANULE_NS, GRANULE_NS, is_racy
from agent.errors import PathError, StaleError
from tests.directory.disk import digest, entry_of, read, write

S = 1_000_000_000


def reason_of(directory: Directory, path: str) -> Reason | None:
    side = directory.look(path).side
    return side.reason if isinstance(side, Obstacle) else None


def test_a_look_tells_files_links_directories_and_nothing_apart(root: Path, any_directory: Directory) -> None:
    write(root / "a/file")
    (root / "a/link").symlink_to("file")

    assert any_directory.look("a/file").kind == "file"
    assert any_directory.look("a/link").side == Entry(Kind.LINK, target="a/file")
    assert any_directory.look("a").kind == "directory"
    assert any_directory.look("nothing").kind == "absent"
    assert any_directory.look("a/file/below").kind == "absent"
    assert any_directory.look("nothing/below").kind == "absent"
    assert any_directory.look("a/link/below").kind == "absent"


def test_what_is_behind_a_linked_parent_is_not_part_of_the_tree(root: Path, any_directory: Directory) -> None:
    write(root / "real/file")
    (root / "way").symlink_to("real")

    assert any_directory.look("way/file").kind == "absent"
    assert any_directory.read("way/file") is None


def test_a_link_to_itself_is_an_obstacle(root: Path, any_directory: Directory) -> None:
    (root / "a").mkdir()
    (root / "a/l").symlink_to("../a/l")

    assert reason_of(any_directory, "a/l") is Reason.BROKEN_LINK


def test_a_symlink_is_asked_to_be_made_relative_only_where_that_helps(root: Path, any_directory: Directory) -> None:
    for name, target in {"root": ".", "reserved": ".jetsync/x", "backslash": "a\\b", "bytes": "\udcff"}.items():
        (root / name).symlink_to(target)
        side = any_directory.look(name).side
        assert isinstance(side, Obstacle)
        assert side.reason is Reason.LINK_OUTSIDE
        assert "let it lead to another" in side.detail, name
    (root / "absolute").symlink_to("/etc/passwd")
    side = any_directory.look("absolute").side
    assert isinstance(side, Obstacle)
    assert "make it relative" in side.detail


def test_what_cannot_travel_is_an_obstacle(root: Path, opener) -> None:
    directory = opener(max_size=10)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(root / "socket"))
        write(root / "large", b"x" * 11)
        (root / "absolute").symlink_to("/etc/passwd")
        (root / "outside").symlink_to("../elsewhere")
        (root / "own").symlink_to(".jetsync/root.json")

        assert reason_of(directory, "fifo") is Reason.FIFO
        assert reason_of(directory, "socket") is Reason.SOCKET
        assert reason_of(directory, "large") is Reason.MAX_SIZE
        assert reason_of(directory, "absolute") is Reason.LINK_OUTSIDE
        assert reason_of(directory, "outside") is Reason.LINK_OUTSIDE
        assert reason_of(directory, "own") is Reason.LINK_OUTSIDE


def test_links_are_skipped_when_asked_to(root: Path, opener) -> None:
    (root / "link").symlink_to("file")

    assert reason_of(opener(symlinks="skip"), "link") is Reason.SYMLINK


def test_a_device_is_an_obstacle_and_never_opened(root: Path, directory: Directory) -> None:
    try:
        os.mknod(root / "null", 0o600 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("needs the right to make device nodes")

    assert reason_of(directory, "null") is Reason.DEVICE


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "", ".", "a/../b", "a\0b", "./a", "a/."])
def test_hostile_paths_find_nothing_and_open_nothing(root: Path, any_directory: Directory, path: str) -> None:
    write(root / "a/b")
    write(root.parent / "x")

    assert any_directory.look(path).kind == "absent"
    assert any_directory.read(path) is None
    with pytest.raises(PathError):
        any_directory.open_read(path, read(any_directory, "a/b").signature)  # type: ignore[arg-type]


def test_names_that_no_object_can_have_are_obstacles_while_they_exist(root: Path, directory: Directory) -> None:
    raw = os.fsencode(root) + b"/caf\xe9"
    Path(os.fsdecode(raw)).write_bytes(b"")
    write(root / "back\\slash")
    shown = render(os.fsdecode(b"caf\xe9"))

    assert shown == "caf\\xe9"
    assert unrender(shown) == os.fsdecode(b"caf\xe9")
    assert reason_of(directory, shown) is Reason.NOT_UTF8
    assert reason_of(directory, "back\\slash") is Reason.INVALID_NAME

    os.unlink(raw)
    assert directory.look(shown).kind == "absent"


def test_a_path_too_long_for_an_object_is_an_obstacle(root: Path, any_directory: Directory) -> None:
    deep = "/".join(["d" * 200] * 11)
    (root / deep).mkdir(parents=True)
    write(root / deep / "file")

    assert reason_of(any_directory, f"{deep}/file") is Reason.NAME_TOO_LONG


def test_an_empty_directory_is_an_entry_when_asked_for(root: Path, opener) -> None:
    (root / "empty").mkdir()
    write(root / "full/file")

    assert opener().look("empty/").side is None
    directory = opener(empty_directories=True)
    assert directory.look("empty/").side == Entry(Kind.DIRECTORY)
    assert directory.look("full/").side is None
    assert directory.look("full/").kind == "directory"
    assert directory.look("full/file/").kind == "absent"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_500_000])
def test_reading_gives_digest_size_bit_and_time(root: Path, any_directory: Directory, size: int) -> None:
    content = os.urandom(size)
    file = write(root / "file", content)
    file.chmod(0o755)

    local = read(any_directory, "file")

    entry = entry_of(local)
    assert (entry.kind, entry.digest, entry.size, entry.executable) == (Kind.FILE, digest(content), size, True)
    assert entry.mtime_ns == file.stat().st_mtime_ns
    assert local.signature == any_directory.look("file").signature


def test_reading_what_is_no_file(root: Path, directory: Directory) -> None:
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("target")
    (root / "directory").mkdir()

    assert isinstance(read(directory, "fifo").side, Obstacle)
    assert entry_of(read(directory, "link")).target == "target"
    assert directory.read("directory") is None
    assert directory.read("nothing") is None


def test_a_file_that_never_stops_changing_is_an_obstacle(root: Path, directory: Directory) -> None:
    file = write(root / "log", b"x" * (64 << 20))
    stop = threading.Event()

    def append() -> None:
        with file.open("ab", buffering=0) as log:
            while not stop.is_set():
                log.write(b"more")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        side = read(directory, "log").side
    finally:
        stop.set()
        writer.join()
    assert isinstance(side, Obstacle)
    assert side.reason is Reason.CHANGING


def test_a_file_just_written_is_racy_and_an_old_one_is_not(root: Path, directory: Directory) -> None:
    write(root / "file")
    assert read(directory, "file").racy

    time.sleep(2 * GRANULE_NS / S)
    assert not read(directory, "file").racy


def test_what_is_racy_depends_on_the_granule_and_the_clock() -> None:
    now = 1_700_000_000 * S + 123_456_789

    assert not is_racy(now - GRANULE_NS - 1, now)
    assert is_racy(now - GRANULE_NS + 1, now)
    # whole seconds: a file system without fractions
    whole = 1_700_000_000 * S
    assert is_racy(whole, whole + COARSE_GRANULE_NS - 1)
    assert not is_racy(whole, whole + COARSE_GRANULE_NS)
    # the clock was set back: the file is from the future
    assert is_racy(now + 3600 * S, now)


def test_an_upload_reads_the_version_it_expects_or_nothing(root: Path, any_directory: Directory) -> None:
    file = write(root / "file", b"one")
    local = read(any_directory, "file")
    assert local.signature is not None

    with any_directory.open_read("file", local.signature) as opened:
        assert opened.read() == b"one"
        opened.confirm()
        file.write_bytes(b"other")
        with pytest.raises(StaleError):
            opened.confirm()
        opened.seek(0)
        assert opened.read(5) == b"other"
        with pytest.raises(StaleError):  # its end is that of another version
            opened.read(5)
    with pytest.raises(StaleError):
        any_directory.open_read("file", local.signature)
    file.unlink()
    with pytest.raises(StaleError):
        any_directory.open_read("file", local.signature)


class TestFollow:
    """`symlinks: follow`: what a link points to, anywhere inside the root and nowhere else."""

    @pytest.fixture
    def following(self, opener) -> Directory:
        return opener(symlinks="follow")

    def test_a_link_is_what_it_points_to(self, root: Path, following: Directory) -> None:
        write(root / "data/file", b"here")
        (root / "link").symlink_to("data/file")
        (root / "way").symlink_to("data")
        (root / "data/back").symlink_to("../way/../link")

        for path in ("link", "way/file", "data/back", "way/back"):
            assert following.look(path).kind == "file"
            assert entry_of(following.read(path)).digest == digest(b"here")

    def test_links_that_lead_out_or_nowhere_are_obstacles(self, root: Path, following: Directory) -> None:
        write(root.parent / "secret")
        (root / "absolute").symlink_to(root.parent / "secret")
        (root / "inside-absolute").symlink_to(root)
        (root / "up").symlink_to("../secret")
        (root / "twice").symlink_to("up")
        (root / "loop").symlink_to("loop")
        (root / "dangling").symlink_to("nothing")
        write(root / ".jetsync/root.json")
        (root / "own").symlink_to(".jetsync/root.json")

        for path in ("absolute", "inside-absolute", "up", "twice", "own"):
            assert reason_of(following, path) is Reason.LINK_OUTSIDE
            assert reason_of(following, path + "/file") in (Reason.LINK_OUTSIDE, None)
        for path in ("loop", "dangling"):
            assert reason_of(following, path) is Reason.BROKEN_LINK
        assert following.look("nothing").kind == "absent"
