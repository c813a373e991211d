"""Many small files at once: each with an outcome of its own, under its own expectation."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.entries import Local, Reason
from agent.directory import Directory, Placing, Staged, Whole, syscalls
from agent.directory.together import Parents
from agent.errors import DirectoryError, PathError, SpaceError, StaleError
from tests.directory.disk import OLD_NS, read, staged_left, user_tree, write


def put_all(directory: Directory, files: dict[str, bytes], expected: dict[str, Local] | None = None) -> list[object]:
    """What came of each; nothing is left in staging."""
    staged = directory.stage_many([Whole(path, data, None, OLD_NS) for path, data in files.items()], durable=False)
    try:
        directory.sync()
        items = [
            Placing(path, one, (expected or {}).get(path))
            for path, one in zip(files, staged, strict=True)
            if isinstance(one, Staged)
        ]
        results: list[object] = [*directory.put_many(items)]
        directory.sync()
        return results
    finally:
        for one in staged:
            if isinstance(one, Staged):
                one.discard()


def as_read(directory: Directory, path: str) -> Local:
    """The local side as it is read; what we have put there with an old time isn't racy."""
    return replace(read(directory, path), racy=False)


def test_new_files_come_with_their_directories(root: Path, any_directory: Directory) -> None:
    files = {"a": b"1", "d/b": b"2", "d/c": b"", "d/e/f": b"4"}

    results = put_all(any_directory, files)

    assert user_tree(root) == {**files, "d": None, "d/e": None}
    assert results == [as_read(any_directory, path) for path in files]
    assert staged_left(root) == []


def test_what_is_not_as_expected_stays_and_the_others_come(root: Path, any_directory: Directory) -> None:
    write(root / "mine", b"mine")
    write(root / "replaced", b"old")
    write(root / "way", b"a file where a directory has to be")
    known = read(any_directory, "replaced")

    results = put_all(
        any_directory,
        {"mine": b"theirs", "replaced": b"new", "way/below": b"x", "new": b"new"},
        {"replaced": known},
    )

    mine, replaced, below, new = results
    assert isinstance(mine, StaleError)
    assert isinstance(below, PathError)
    assert below.reason is Reason.STRUCTURE_CLASH
    assert [replaced, new] == [as_read(any_directory, "replaced"), as_read(any_directory, "new")]
    assert user_tree(root) == {
        "mine": b"mine",
        "replaced": b"new",
        "way": b"a file where a directory has to be",
        "new": b"new",
    }
    assert [entry.path for entry in any_directory.trash.entries()] == ["replaced"]


def test_a_hostile_path_among_them_is_refused(root: Path, directory: Directory) -> None:
    outside, inside = put_all(directory, {"../outside": b"x", "inside": b"x"})

    assert isinstance(outside, PathError)
    assert isinstance(inside, Local)
    assert not (root.parent / "outside").exists()


def test_files_whose_directory_was_moved_away_meanwhile_are_stale(
    root: Path, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Parents.moved

    def moved(parents: Parents) -> set[str]:
        (root / "d").rename(root.parent / "elsewhere")
        return look(parents)

    monkeypatch.setattr(Parents, "moved", moved)
    gone, here = put_all(directory, {"d/a": b"1", "b": b"2"})

    assert isinstance(gone, StaleError)
    assert here == as_read(directory, "b")


def test_a_directory_that_is_removed_between_two_files_is_made_again(
    root: Path, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = syscalls.renameat2

    def renameat2(src_fd: int, src: str, dst_fd: int, dst: str, flags: int) -> None:
        if dst == "second":
            (root / "d/first").rename(root / "first")
            (root / "d").rmdir()
            monkeypatch.setattr(syscalls, "renameat2", rename)
        rename(src_fd, src, dst_fd, dst, flags)

    monkeypatch.setattr(syscalls, "renameat2", renameat2)
    first, second = put_all(directory, {"d/first": b"1", "d/second": b"2"})

    assert isinstance(first, StaleError)
    assert second == as_read(directory, "d/second")


def test_a_full_disk_fails_the_files_that_do_not_fit(
    directory: Directory, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to = os.write

    def full(fd: int, data: bytes) -> int:
        if data == b"large":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_to(fd, data)

    monkeypatch.setattr(os, "write", full)
    fits, too_large = directory.stage_many([Whole("a", b"s", None, None), Whole("b", b"large", None, None)])

    assert isinstance(fits, Staged)
    fits.discard()
    assert isinstance(too_large, SpaceError)
    assert staged_left(root) == []


class CountingLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.asked.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_one_flush_serves_all_that_waited_for_it_and_its_error_concerns_them_all(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, go_on, calls, errors = CountingLock(), threading.Event(), [], []

    def syncfs(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            go_on.wait(10)
        else:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def ask() -> None:
        try:
            directory.sync()
        except DirectoryError as error:
            errors.append(error)

    monkeypatch.setattr(syscalls, "syncfs", syncfs)
    monkeypatch.setattr(directory._flush, "_one_at_a_time", lock)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
        assert lock.asked.acquire(timeout=10)
    go_on.set()
    for thread in threads:
        thread.join()

    assert [len(calls), len(errors)] == [2, 3]
