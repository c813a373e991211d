"""Promise 8: nothing that anybody does to names, links and directories makes us touch what is outside of the root."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.directory import Directory
from agent.errors import DirectoryError, PathError, RootError
from tests.directory.disk import put, read, user_tree, write

HOSTILE = [
    "../escape",
    "a/../../escape",
    "/etc/escape",
    "..",
    ".",
    "",
    "a//b",
    "a/./b",
    "nul\0byte",
    "back\\slash",
    ".jetsync/root.json",
    ".jetsync",
    "a/.jetsync/x",
    ".JETSYNC/x",
    "lost+found/x",
    ".nfs0001",
    "a/../.jetsync/x",
]


@pytest.fixture
def outside(root: Path) -> Path:
    made = root.parent / "outside"
    write(made / "secret", b"secret")
    return made


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_names_are_refused_by_every_change(
    root: Path, any_directory: Directory, outside: Path, path: str
) -> None:
    write(root / "file", b"mine")
    local = read(any_directory, "file")

    for change in (
        lambda: put(any_directory, path, b"bad"),
        lambda: put(any_directory, "file", b"bad", local, keep_as=path),
        lambda: any_directory.put_link(path, "file", None),
        lambda: any_directory.make_directory(path + "/"),
        lambda: any_directory.delete(path, local),
        lambda: any_directory.move("file", path, local),
        lambda: any_directory.move(path, "x", local),
        lambda: any_directory.set_metadata(path, local, executable=True),
        lambda: any_directory.restore(path),
    ):
        with pytest.raises(PathError):
            change()

    assert user_tree(root) == {"file": b"mine"}
    assert user_tree(outside) == {"secret": b"secret"}
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]


def test_a_parent_swapped_for_a_link_leads_nowhere(root: Path, any_directory: Directory, outside: Path) -> None:
    """Between the scan and the change, a directory becomes a symlink to another one with a file of the same name."""
    write(root / "d/secret", b"mine")
    write(root / "other", b"mine")
    local = read(any_directory, "d/secret")
    other = read(any_directory, "other")
    (root / "d").rename(root.parent / "moved")
    (root / "d").symlink_to(outside)

    for change in (
        lambda: put(any_directory, "d/new", b"bad"),
        lambda: put(any_directory, "d/deeper/new", b"bad"),
        lambda: put(any_directory, "d/secret", b"bad", local),
        lambda: any_directory.put_link("d/new", "other", None),
        lambda: any_directory.make_directory("d/new/"),
        lambda: any_directory.delete("d/secret", local),
        lambda: any_directory.move("d/secret", "here", local),
        lambda: any_directory.move("other", "d/there", other),
        lambda: any_directory.set_metadata("d/secret", local, executable=True),
    ):
        with pytest.raises(DirectoryError):
            change()

    assert user_tree(outside) == {"secret": b"secret"}
    assert (root / "other").read_bytes() == b"mine"
    assert any_directory.look("d/secret").kind == "absent"
    assert any_directory.read("d/secret") is None
    with pytest.raises(DirectoryError):
        any_directory.open_read("d/secret", local.signature)  # type: ignore[arg-type]


def test_a_file_swapped_for_a_link_is_not_written_through(root: Path, any_directory: Directory, outside: Path) -> None:
    write(root / "file", b"mine")
    local = read(any_directory, "file")
    (root / "file").unlink()
    (root / "file").symlink_to(outside / "secret")

    for change in (
        lambda: put(any_directory, "file", b"bad", local),
        lambda: put(any_directory, "file", b"bad"),
        lambda: any_directory.delete("file", local),
        lambda: any_directory.set_metadata("file", local, executable=True, mtime_ns=1),
    ):
        with pytest.raises(DirectoryError):
            change()

    assert (outside / "secret").read_bytes() == b"secret"
    assert not (outside / "secret").stat().st_mode & 0o111


def test_a_parent_that_swings_between_directory_and_link_never_leads_out(
    root: Path, any_directory: Directory, outside: Path
) -> None:
    write(root / "real/file", b"mine")
    (root / "d").symlink_to("real")
    stop = threading.Event()

    def swing() -> None:
        directory, link = root / "directory", root / "link"
        directory.mkdir()
        link.symlink_to(outside)
        (root / "d").unlink()
        while not stop.is_set():
            for one in (directory, link):
                try:
                    one.rename(root / "d")
                    (root / "d").rename(one)
                except OSError:
                    pass  # our own clean-up may have removed the empty directory
                directory.mkdir(exist_ok=True)

    swinging = threading.Thread(target=swing)
    swinging.start()
    try:
        for number in range(200):
            try:
                put(any_directory, f"d/{number}", b"data", durable=False)
            except DirectoryError:
                pass  # refusing is fine, and so is landing in the directory
    finally:
        stop.set()
        swinging.join()

    assert user_tree(outside) == {"secret": b"secret"}


def test_links_that_lie_in_the_trash_are_not_followed(root: Path, any_directory: Directory, outside: Path) -> None:
    """First a link "d" is thrown away, then a file "d/secret": its place in the trash must not be behind the link."""
    (root / "d").symlink_to("../outside")
    (root / "inside").mkdir()
    (root / "e").symlink_to("inside")
    any_directory.delete("e", read(any_directory, "e"))
    (root / "d").unlink()
    write(root / "e/secret", b"mine")

    any_directory.delete("e/secret", read(any_directory, "e/secret"))

    assert sorted(entry.path for entry in any_directory.trash.entries()) == ["e", "e/secret"]
    assert user_tree(outside) == {"secret": b"secret"}
    assert os.listdir(root / "inside") == []


def test_our_own_directory_is_never_a_link(root: Path, any_directory: Directory, outside: Path) -> None:
    (root / ".jetsync").symlink_to(outside)

    with pytest.raises(DirectoryError):
        put(any_directory, "file", b"data")

    assert user_tree(outside) == {"secret": b"secret"}


def test_the_agents_own_directory_is_made_again_when_somebody_removes_it(root: Path, directory: Directory) -> None:
    put(directory, "file", b"one")
    put(directory, "file", b"two", read(directory, "file"))
    for _ in range(2):
        os.rename(root / ".jetsync", root.parent / "removed")
        put(directory, "file", b"three", read(directory, "file"))
        os.rename(root / ".jetsync", root.parent / "removed too")
        directory.delete("file", read(directory, "file"))
        put(directory, "file", b"four")
        for name in ("removed", "removed too"):
            os.rename(root.parent / name, root.parent / f"{name} {os.urandom(4).hex()}")

    assert user_tree(root) == {"file": b"four"}


def test_a_root_that_is_gone_or_replaced_is_noticed(root: Path, directory: Directory) -> None:
    directory.check_root()
    root.rename(root.parent / "moved")
    with pytest.raises(RootError):
        directory.check_root()
    root.mkdir()
    with pytest.raises(RootError):
        directory.check_root()
    root.rmdir()
    (root.parent / "moved").rename(root)
    directory.check_root()


def test_a_root_that_is_no_directory_says_what_to_do(root: Path) -> None:
    write(root / "file")
    for path in (root / "missing", root / "file"):
        with pytest.raises(RootError) as caught:
            Directory.open(path)
        assert caught.value.remedy


def test_threads_that_make_and_remove_the_same_parents_get_along(root: Path, any_directory: Directory) -> None:
    def work(worker: int) -> int:
        for number in range(25):
            path = f"a/b/c/{worker}-{number}"
            put(any_directory, path, b"x", durable=False)
            any_directory.delete(path, read(any_directory, path), durable=False)
        return worker

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == list(range(8))

    assert user_tree(root) == {}
    assert len(list(any_directory.trash.entries())) == 200
