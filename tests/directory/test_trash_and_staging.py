"""The trash keeps every version apart and for its time; staging leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.directory import Directory, syscalls
from agent.errors import PathError
from tests.directory.disk import digest, put, read, staged_left, user_tree, write


def test_every_version_is_kept_and_the_newest_comes_back(root: Path, any_directory: Directory) -> None:
    for number in range(4):
        write(root / "a/file", b"version %d" % number)
        any_directory.delete("a/file", read(any_directory, "a/file"))

    entries = list(any_directory.trash.entries())
    assert [entry.path for entry in entries] == ["a/file"] * 4
    assert len({entry.batch for entry in entries}) == 4
    assert all(abs(entry.time - time.time()) < 3600 for entry in entries)

    any_directory.restore("a/file")
    assert user_tree(root) == {"a": None, "a/file": b"version 3"}
    with pytest.raises(PathError):
        any_directory.restore("a/file")
    (root / "a/file").unlink()
    any_directory.restore("a/file", batch=entries[1].batch)
    assert user_tree(root)["a/file"] == b"version 1"
    with pytest.raises(PathError):
        any_directory.restore("never/was")


def test_many_deletions_share_a_batch(root: Path, directory: Directory) -> None:
    for number in range(50):
        write(root / f"d{number % 5}/file{number}")
    for number in range(50):
        path = f"d{number % 5}/file{number}"
        directory.delete(path, read(directory, path))

    assert len(list(directory.trash.entries())) == 50
    assert len(os.listdir(root / ".jetsync/trash")) == 1


def test_a_file_and_a_directory_of_one_name_both_fit_into_the_trash(root: Path, any_directory: Directory) -> None:
    write(root / "a/b/c")
    any_directory.delete("a/b/c", read(any_directory, "a/b/c"))
    write(root / "a", b"file")
    any_directory.delete("a", read(any_directory, "a"))
    write(root / "a/b")
    any_directory.delete("a/b", read(any_directory, "a/b"))

    assert sorted(entry.path for entry in any_directory.trash.entries()) == ["a", "a/b", "a/b/c"]


def test_what_is_older_than_asked_for_is_removed(root: Path, opener) -> None:
    directory = opener(trash=3600.0)
    for number in range(3):
        write(root / f"d/{'e/' * 30}{number}")
        directory.delete(f"d/{'e/' * 30}{number}", read(directory, f"d/{'e/' * 30}{number}"))
    (root / ".jetsync/trash/not ours").mkdir()

    assert directory.trash.expire(time.time() + 3500) == 0
    assert len(list(directory.trash.entries())) == 3
    assert directory.trash.expire(time.time() + 3700) == 1
    assert list(directory.trash.entries()) == []
    assert os.listdir(root / ".jetsync/trash") == ["not ours"]


def test_a_very_deep_trash_can_be_listed_and_emptied(root: Path, directory: Directory) -> None:
    path = "/".join(["d"] * 400) + "/file"
    put(directory, path, b"deep", durable=False)
    directory.delete(path, read(directory, path))

    assert user_tree(root) == {}
    assert [entry.path for entry in directory.trash.entries()] == [path]
    assert directory.trash.expire(time.time() + 1e9) == 1
    assert os.listdir(root / ".jetsync/trash") == []


def test_a_large_staged_file_is_on_its_way_to_the_device_before_its_end(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    begin = syscalls.begin_to_write

    def note(fd: int, start: int, size: int) -> None:
        begun.append((start, size))
        begin(fd, start, size)

    monkeypatch.setattr(syscalls, "begin_to_write", note)
    block = bytes(3 << 20)
    with directory.stage("x") as staged:
        for _ in range(7):
            staged.write(block)
        staged.finish()

    assert begun == [(0, 9 << 20), (9 << 20, 9 << 20)]


def test_staging_hashes_what_is_written_and_leaves_nothing_on_errors(root: Path, directory: Directory) -> None:
    blocks: list[bytes | bytearray | memoryview] = [
        os.urandom(100_000),
        b"",
        bytearray(b"more"),
        memoryview(b"and more"),
    ]
    with directory.stage("x") as staged:
        for block in blocks:
            staged.write(block)
        assert staged.finish() == digest(b"".join(bytes(block) for block in blocks))
        assert staged.size == 100_012
        assert len(staged_left(root)) == 1
    assert staged_left(root) == []

    with pytest.raises(RuntimeError), directory.stage("x") as staged:
        staged.write(b"half")
        raise RuntimeError
    assert staged_left(root) == []
    assert user_tree(root) == {}


def test_a_refused_file_can_be_put_again(root: Path, directory: Directory) -> None:
    write(root / "a", b"in the way")
    with directory.stage("a/b") as staged:
        staged.write(b"content")
        staged.finish()
        with pytest.raises(PathError):
            directory.put_file("a/b", staged, None)
        directory.delete("a", read(directory, "a"))
        directory.put_file("a/b", staged, None)

    assert user_tree(root) == {"a": None, "a/b": b"content"}


def test_left_overs_of_a_killed_run_are_swept_but_not_what_is_in_use(root: Path, directory: Directory) -> None:
    with Directory.open(root) as killed:
        left = killed.stage("x")
        left.write(b"half")
        left._close()
    with directory.stage("y") as staged:
        assert directory.sweep_staging() == 1
        staged.write(b"whole")
        staged.finish()
        directory.put_file("y", staged, None)

    assert user_tree(root) == {"y": b"whole"}
    assert staged_left(root) == []


def test_nothing_is_made_until_it_is_needed(root: Path, directory: Directory) -> None:
    write(root / "file")
    directory.look("file")
    read(directory, "file")
    list(directory.trash.entries())
    directory.trash.expire(time.time())
    directory.sweep_staging()
    assert directory.case_insensitive is False
    assert directory.free_bytes() > 0

    assert os.listdir(root) == ["file"]
