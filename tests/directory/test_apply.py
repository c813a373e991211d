"""Changes of files: one atomic step, under an expectation, with the old version kept. On each kind of system."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.entries import Entry, Kind, Local, Obstacle, Reason
from agent.directory import Directory, expect, place
from agent.errors import PathError, StaleError
from tests.directory.disk import (
    OLD_NS,
    content_digest,
    digest,
    entry_of,
    put,
    read,
    staged_left,
    user_tree,
    write,
)

Interloper = Callable[[Callable[[], object]], None]


@pytest.fixture
def interloper(monkeypatch: pytest.MonkeyPatch) -> Interloper:
    """Makes somebody else act at the worst moment: right after our check, right before our rename."""

    def act(action: Callable[[], object]) -> None:
        check = expect.status_of_expected

        def check_then_act(*args):
            status = check(*args)
            action()
            return status

        monkeypatch.setattr(expect, "status_of_expected", check_then_act)

    return act


def in_trash(directory: Directory) -> list[tuple[str, bytes]]:
    found = []
    for entry in directory.trash.entries():
        file = directory.path / ".jetsync/trash" / entry.batch / entry.path
        found.append((entry.path, b"-> " + os.fsencode(os.readlink(file)) if file.is_symlink() else file.read_bytes()))
    return found


# ---- create and replace ----


def test_a_new_file_comes_with_its_parents_digest_time_and_bit(root: Path, any_directory: Directory) -> None:
    applied = put(any_directory, "a/b/c", b"new", executable=True)

    assert user_tree(root) == {"a": None, "a/b": None, "a/b/c": b"new"}
    assert content_digest(applied.local) == digest(b"new")
    status = (root / "a/b/c").stat()
    assert status.st_mtime_ns == OLD_NS
    assert status.st_mode & 0o111
    assert applied.local.signature == any_directory.look("a/b/c").signature
    assert not applied.local.racy
    assert staged_left(root) == []
    assert in_trash(any_directory) == []


def test_a_new_file_never_overwrites_what_came_meanwhile(root: Path, any_directory: Directory) -> None:
    write(root / "file", b"theirs")

    with pytest.raises(StaleError):
        put(any_directory, "file", b"ours")

    assert user_tree(root) == {"file": b"theirs"}
    assert staged_left(root) == []


def test_a_replaced_file_is_in_the_trash(root: Path, any_directory: Directory) -> None:
    write(root / "a/file", b"old")

    applied = put(any_directory, "a/file", b"new", read(any_directory, "a/file"))

    assert user_tree(root) == {"a": None, "a/file": b"new"}
    assert in_trash(any_directory) == [("a/file", b"old")]
    assert applied.local.signature == any_directory.look("a/file").signature
    assert staged_left(root) == []


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_what_is_moved_away_as_soon_as_it_appears_was_applied(
    root: Path, directory: Directory, monkeypatch: pytest.MonkeyPatch, replaced: bool, link: bool
) -> None:
    if replaced:
        write(root / "file", b"old")
    expected = read(directory, "file") if replaced else None
    name = "replace" if replaced else "create"
    real: Callable[..., None] = getattr(place, name)

    def and_move_away(*arguments: object) -> None:
        real(*arguments)
        (root / "file").rename(root / "moved")

    monkeypatch.setattr(place, name, and_move_away)
    if link:
        applied = directory.put_link("file", "target", expected)
    else:
        applied = put(directory, "file", b"new", expected)
    monkeypatch.undo()

    side = applied.local.side
    assert isinstance(side, Entry)
    assert side == Entry(Kind.LINK, target="target") if link else side.digest == digest(b"new")
    assert directory.look("file").kind == "absent"
    assert os.readlink(root / "moved") == "target" if link else (root / "moved").read_bytes() == b"new"
    assert staged_left(root) == []


def test_without_trash_a_replaced_file_is_gone(root: Path, opener) -> None:
    directory = opener(trash=0.0)
    write(root / "file", b"old")

    put(directory, "file", b"new", read(directory, "file"))
    directory.delete("file", read(directory, "file"))

    assert user_tree(root) == {}
    assert in_trash(directory) == []


def test_a_replaced_file_can_stay_as_a_conflict_copy(root: Path, any_directory: Directory) -> None:
    write(root / "a/file.txt", b"local edit")

    applied = put(any_directory, "a/file.txt", b"remote", read(any_directory, "a/file.txt"), keep_as="a/file.copy.txt")

    assert user_tree(root) == {"a": None, "a/file.txt": b"remote", "a/file.copy.txt": b"local edit"}
    assert applied.displaced == "a/file.copy.txt"
    assert in_trash(any_directory) == []


def test_a_conflict_copy_never_overwrites(root: Path, any_directory: Directory) -> None:
    write(root / "file", b"local edit")
    write(root / "copy", b"somebody's")

    with pytest.raises(StaleError):
        put(any_directory, "file", b"remote", read(any_directory, "file"), keep_as="copy")

    found = user_tree(root)
    assert found["copy"] == b"somebody's"
    assert b"local edit" in [found["file"], *(content for _, content in in_trash(any_directory))]


def test_a_conflict_copy_that_a_crash_left_half_made_is_completed(root: Path, directory: Directory) -> None:
    write(root / "file", b"local edit")
    os.link(root / "file", root / "copy")

    put(directory, "file", b"remote", read(directory, "file"), keep_as="copy")

    assert user_tree(root) == {"file": b"remote", "copy": b"local edit"}
    assert (root / "copy").stat().st_nlink == 1


def test_another_file_of_the_same_content_is_as_good_a_conflict_copy(root: Path, directory: Directory) -> None:
    write(root / "file", b"local edit")
    write(root / "copy", b"local edit")

    put(directory, "file", b"remote", read(directory, "file"), keep_as="copy")

    assert user_tree(root) == {"file": b"remote", "copy": b"local edit"}


def test_a_replacement_that_fails_leaves_the_copy_that_was_there(
    root: Path, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "file", b"local edit")
    write(root / "copy", b"local edit")

    def refuse(*_: object) -> None:
        raise StaleError("changed in the moment it was to be replaced")

    monkeypatch.setattr(place, "replace", refuse)
    with pytest.raises(StaleError):
        put(directory, "file", b"remote", read(directory, "file"), keep_as="copy")

    assert user_tree(root) == {"file": b"local edit", "copy": b"local edit"}


def test_a_file_that_changed_is_not_replaced(root: Path, any_directory: Directory) -> None:
    file = write(root / "file", b"old")
    expected = read(any_directory, "file")
    file.write_bytes(b"edit")

    with pytest.raises(StaleError):
        put(any_directory, "file", b"new", expected)
    file.unlink()
    with pytest.raises(StaleError):
        put(any_directory, "file", b"new", expected)

    assert user_tree(root) == {}
    assert staged_left(root) == []


def test_a_write_in_the_last_moment_is_put_back(root: Path, any_directory: Directory, interloper: Interloper) -> None:
    file = write(root / "file", b"old")
    expected = read(any_directory, "file")
    interloper(lambda: file.write_bytes(b"a last moment's edit"))

    with pytest.raises(StaleError):
        put(any_directory, "file", b"new", expected)
    with pytest.raises(StaleError):
        put(any_directory, "file", b"new", expected, keep_as="copy")

    assert user_tree(root) == {"file": b"a last moment's edit"}
    assert in_trash(any_directory) == []
    assert staged_left(root) == []


def test_a_file_renamed_over_in_the_last_moment_is_put_back(
    root: Path, any_directory: Directory, interloper: Interloper
) -> None:
    write(root / "file", b"old")
    expected = read(any_directory, "file")
    other = write(root.parent / "other", b"their new version")
    interloper(lambda: other.exists() and other.rename(root / "file"))

    with pytest.raises(StaleError):
        put(any_directory, "file", b"new", expected)
    with pytest.raises(StaleError):
        any_directory.delete("file", expected)
    with pytest.raises(StaleError):
        any_directory.move("file", "elsewhere", expected)

    assert user_tree(root) == {"file": b"their new version"}


def test_a_racy_file_is_compared_by_content_before_it_is_lost(root: Path, any_directory: Directory) -> None:
    """Same size, same times, same inode: only the content tells that it was written after we had read it."""
    write(root / "file", b"abc")
    local = read(any_directory, "file")
    assert local.racy
    unseen = Local(Entry(Kind.FILE, digest(b"abd"), 3, False, entry_of(local).mtime_ns), local.signature, racy=True)

    with pytest.raises(StaleError):
        put(any_directory, "file", b"new", unseen)
    with pytest.raises(StaleError):
        any_directory.delete("file", unseen)

    assert user_tree(root) == {"file": b"abc"}


def test_a_replaced_file_keeps_its_permissions_but_for_x(root: Path, directory: Directory) -> None:
    file = write(root / "private", b"old")
    file.chmod(0o600)

    put(directory, "private", b"new", read(directory, "private"), executable=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o700
    applied = put(directory, "private", b"newer", read(directory, "private"), executable=None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o700
    assert entry_of(applied.local).executable
    put(directory, "private", b"newest", read(directory, "private"), executable=False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(root: Path, directory: Directory) -> None:
    file = write(root / "theirs", b"old")
    os.chown(file, 12345, 54321)

    put(directory, "theirs", b"new", read(directory, "theirs"))

    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 54321)


def test_modes_are_those_asked_for_less_the_umask(root: Path, opener) -> None:
    before = os.umask(0o027)
    try:
        directory = opener(file_mode=0o664, directory_mode=0o775)
        put(directory, "d/plain", b"")
        put(directory, "d/program", b"", executable=True)
    finally:
        os.umask(before)

    assert [stat.S_IMODE((root / path).stat().st_mode) for path in ("d", "d/plain", "d/program")] == [
        0o750,
        0o640,
        0o750,
    ]


def test_a_time_that_no_file_system_holds_is_left_out(root: Path, directory: Directory) -> None:
    applied = put(directory, "file", b"", mtime_ns=1 << 80)

    assert applied.local.signature == directory.look("file").signature
    assert entry_of(applied.local).mtime_ns == (root / "file").stat().st_mtime_ns


def test_many_small_files_can_share_their_flushes(root: Path, directory: Directory) -> None:
    staged = []
    for number in range(5):
        one = directory.stage(f"d{number}/file")
        one.write(b"%d" % number)
        one.finish(durable=False)
        staged.append(one)
    directory.sync()
    for number, one in enumerate(staged):
        directory.put_file(f"d{number}/file", one, None, durable=False)
    directory.sync_directories(f"d{number}/file" for number in range(5))

    assert [(root / f"d{number}/file").read_bytes() for number in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert staged_left(root) == []


# ---- links ----


def test_links_are_made_replaced_and_deleted(root: Path, any_directory: Directory) -> None:
    made = any_directory.put_link("a/b/link", "a/target", None)
    assert os.readlink(root / "a/b/link") == "../target"
    assert made.local == any_directory.look("a/b/link").local

    again = any_directory.put_link("a/b/link", "c", made.local)
    assert os.readlink(root / "a/b/link") == "../../c"

    put(any_directory, "a/b/link", b"now a file", again.local)
    assert user_tree(root)["a/b/link"] == b"now a file"
    any_directory.put_link("a/b/link", "c", read(any_directory, "a/b/link"))

    local = read(any_directory, "a/b/link")
    any_directory.delete("a/b/link", local)
    assert user_tree(root) == {}
    assert [path for path, _ in in_trash(any_directory)] == ["a/b/link"] * 4
    assert staged_left(root) == []


# ---- delete and move ----


def test_deleting_moves_to_the_trash_and_removes_the_directories_it_empties(
    root: Path, any_directory: Directory
) -> None:
    write(root / "a/b/c/file", b"bye")
    write(root / "a/stays")

    removed = any_directory.delete("a/b/c/file", read(any_directory, "a/b/c/file"))

    assert removed == ["a/b/c/", "a/b/"]
    assert sorted(user_tree(root)) == ["a", "a/stays"]
    assert in_trash(any_directory) == [("a/b/c/file", b"bye")]


def test_deleting_what_changed_leaves_it(root: Path, any_directory: Directory, interloper: Interloper) -> None:
    file = write(root / "file", b"old")
    expected = read(any_directory, "file")
    interloper(lambda: file.write_bytes(b"edit!"))

    with pytest.raises(StaleError):
        any_directory.delete("file", expected)

    assert user_tree(root) == {"file": b"edit!"}
    assert in_trash(any_directory) == []


def test_the_root_itself_is_never_removed(root: Path, directory: Directory) -> None:
    write(root / "only")

    assert directory.delete("only", read(directory, "only")) == []
    assert root.is_dir()


def test_moving_keeps_the_file_and_overwrites_nothing(root: Path, any_directory: Directory) -> None:
    write(root / "a/file", b"moving")
    write(root / "taken", b"theirs")
    before = read(any_directory, "a/file")

    with pytest.raises(StaleError):
        any_directory.move("a/file", "taken", before)
    local = any_directory.move("a/file", "new/place", read(any_directory, "a/file"))

    assert user_tree(root) == {"taken": b"theirs", "new": None, "new/place": b"moving"}
    assert local.side == before.side
    assert local.signature == any_directory.look("new/place").signature


def test_moving_what_changed_moves_it_back(root: Path, any_directory: Directory, interloper: Interloper) -> None:
    file = write(root / "file", b"old")
    expected = read(any_directory, "file")
    interloper(lambda: file.write_bytes(b"edit!"))

    with pytest.raises(StaleError):
        any_directory.move("file", "elsewhere", expected)

    assert user_tree(root) == {"file": b"edit!"}


# ---- directories ----


def test_an_empty_directory_is_made_and_removed(root: Path, opener) -> None:
    directory = opener(empty_directories=True)

    local = directory.make_directory("a/b/")
    assert local == read(directory, "a/b/")
    assert directory.make_directory("a/b/") == local
    write(root / "a/b/file")
    with pytest.raises(StaleError):
        directory.delete("a/b/", local)
    (root / "a/b/file").unlink()
    assert directory.delete("a/b/", local) == ["a/"]
    assert user_tree(root) == {}


def test_a_file_where_a_directory_is_needed_is_a_clash(root: Path, any_directory: Directory) -> None:
    write(root / "a", b"file")

    with pytest.raises(PathError) as caught:
        put(any_directory, "a/b", b"")
    assert caught.value.reason == Reason.STRUCTURE_CLASH
    with pytest.raises(PathError):
        any_directory.make_directory("a/b/")
    assert user_tree(root) == {"a": b"file"}


def test_a_directory_with_files_is_never_replaced_by_a_file_but_an_empty_one_is(
    root: Path, any_directory: Directory
) -> None:
    write(root / "a/file", b"x")
    with pytest.raises(PathError) as caught:
        put(any_directory, "a", b"")
    assert caught.value.reason == Reason.STRUCTURE_CLASH

    (root / "b").mkdir()
    put(any_directory, "b", b"file now")
    assert user_tree(root) == {"a": None, "a/file": b"x", "b": b"file now"}


def test_a_file_that_became_a_directory_is_stale(root: Path, any_directory: Directory) -> None:
    file = write(root / "a")
    expected = read(any_directory, "a")
    file.unlink()
    write(root / "a/below", b"theirs")

    for change in (
        lambda: put(any_directory, "a", b"", expected),
        lambda: any_directory.delete("a", expected),
        lambda: any_directory.move("a", "b", expected),
        lambda: any_directory.set_metadata("a", expected, executable=True),
    ):
        with pytest.raises(StaleError):
            change()
    assert user_tree(root) == {"a": None, "a/below": b"theirs"}


def test_a_parent_that_became_a_file_is_stale(root: Path, any_directory: Directory) -> None:
    write(root / "a/b")
    expected = read(any_directory, "a/b")
    (root / "a/b").unlink()
    (root / "a").rmdir()
    write(root / "a", b"theirs")

    for change in (
        lambda: put(any_directory, "a/b", b"", expected),
        lambda: any_directory.delete("a/b", expected),
        lambda: any_directory.move("a/b", "b", expected),
        lambda: any_directory.set_metadata("a/b", expected, executable=True),
    ):
        with pytest.raises(StaleError):
            change()
    assert user_tree(root) == {"a": b"theirs"}


# ---- metadata ----


def test_metadata_is_set_and_read_back(root: Path, any_directory: Directory) -> None:
    file = write(root / "file")
    file.chmod(0o640)
    before = read(any_directory, "file")

    local = any_directory.set_metadata("file", before, executable=True, mtime_ns=OLD_NS)

    assert stat.S_IMODE(file.stat().st_mode) == 0o750
    assert file.stat().st_mtime_ns == OLD_NS
    assert entry_of(local) == Entry(Kind.FILE, entry_of(before).digest, 7, True, OLD_NS)
    assert local.signature == any_directory.look("file").signature
    assert local.racy, "a write hidden by the mtime has to be found by the next look"


def test_metadata_of_a_file_that_changed_is_left(root: Path, any_directory: Directory) -> None:
    file = write(root / "file")
    before = read(any_directory, "file")
    file.write_bytes(b"other")

    with pytest.raises(StaleError):
        any_directory.set_metadata("file", before, executable=True)

    assert not file.stat().st_mode & 0o111


# ---- refusals ----


def test_an_obstacle_is_never_overwritten_moved_or_deleted(root: Path, any_directory: Directory) -> None:
    os.mkfifo(root / "fifo")
    obstacle = read(any_directory, "fifo")
    assert isinstance(obstacle.side, Obstacle)

    for change in (
        lambda: put(any_directory, "fifo", b"", obstacle),
        lambda: any_directory.delete("fifo", obstacle),
        lambda: any_directory.move("fifo", "x", obstacle),
        lambda: any_directory.put_link("fifo", "x", obstacle),
    ):
        with pytest.raises(PathError):
            change()
    assert stat.S_ISFIFO((root / "fifo").lstat().st_mode)


def test_a_directory_opened_for_reading_is_never_written(root: Path, opener) -> None:
    directory = opener(read_only=True)
    write(root / "file")
    local = read(directory, "file")

    for change in (
        lambda: directory.stage("x"),
        lambda: directory.delete("file", local),
        lambda: directory.move("file", "x", local),
        lambda: directory.make_directory("d/"),
        lambda: directory.set_metadata("file", local, executable=True),
        lambda: directory.put_link("x", "file", None),
    ):
        with pytest.raises(PathError) as caught:
            change()
        assert caught.value.reason == Reason.UNWRITABLE
    assert directory.sweep_staging() == 0
    assert directory.trash.expire(1e12) == 0
    assert directory.read_only
    assert os.listdir(root) == ["file"]


def test_directories_without_a_file_in_them_are_in_nobodys_way(root: Path, any_directory: Directory) -> None:
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/d").mkdir()
    put(any_directory, "a", b"file", None)

    assert (root / "a").read_bytes() == b"file"


@pytest.mark.parametrize("link", [False, True])
def test_a_directory_with_something_in_it_stays_whole(root: Path, any_directory: Directory, link: bool) -> None:
    (root / "a/empty").mkdir(parents=True)
    (root / "a/z").mkdir()
    (root / "a/z/x").symlink_to("..") if link else write(root / "a/z/x")
    with pytest.raises(PathError) as error:
        put(any_directory, "a", b"file", None)

    assert error.value.reason == Reason.STRUCTURE_CLASH
    assert (root / "a/empty").is_dir()
    assert (root / "a/z/x").exists()
