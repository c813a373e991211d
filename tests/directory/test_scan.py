"""The scan: differences only, in order, and never a deletion that wasn't seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.entries import Entry, Kind, Local, Obstacle, Reason
from agent.core.filters import Filters
from agent.directory import Directory, DirectoryOptions
from agent.errors import RootError
from tests.directory.disk import EVERYTHING_IN, Known, hints_of, known_of, put, read, write

FILE = Local(Entry(Kind.FILE, b"d" * 32, 1, False, 0))


def test_a_first_scan_yields_everything_in_the_order_of_paths(root: Path, any_directory: Directory) -> None:
    for path in ("a/b", "a.txt", "a/z", "a0", "a/b.c/d", "é/x", "zz", "\U0001f600", "\ufb01"):
        write(root / path)
    (root / "empty").mkdir()

    found = [path for path, kind in hints_of(any_directory)]

    assert found == sorted(found, key=str.encode)
    assert set(found) == {"a.txt", "a/b", "a/b.c/d", "a/z", "a0", "zz", "é/x", "\ufb01", "\U0001f600"}


def test_a_second_scan_yields_nothing(root: Path, any_directory: Directory) -> None:
    for number in range(20):
        write(root / f"d{number % 3}/{number}")
    (root / "link").symlink_to("d0/0")
    (root / "outside").symlink_to("/etc")
    os.mkfifo(root / "fifo")

    scan = any_directory.scan(Known(known_of(any_directory)), EVERYTHING_IN)

    assert list(scan) == []
    assert scan.complete
    assert (scan.files, scan.bytes, scan.problems) == (20, 140, 1)


def test_changes_are_seen_one_by_one(root: Path, any_directory: Directory) -> None:
    for path in ("a/edited", "a/touched", "a/chmod", "b/gone", "c/replaced", "same", "link"):
        write(root / path)
    (root / "link").unlink()
    (root / "link").symlink_to("same")
    known = known_of(any_directory)

    (root / "a/edited").write_bytes(b"other")
    os.utime(root / "a/touched")
    (root / "a/chmod").chmod(0o700)
    (root / "b/gone").unlink()
    write(root / "new", b"content")
    os.replace(root / "new", root / "c/replaced")
    (root / "link").unlink()
    (root / "link").symlink_to("b")
    write(root / "new")

    assert hints_of(any_directory, known) == [
        ("a/chmod", "look"),
        ("a/edited", "look"),
        ("a/touched", "look"),
        ("b/gone", "gone"),
        ("c/replaced", "look"),
        ("link", "look"),
        ("new", "look"),
    ]


def test_what_is_racy_is_looked_at_again(root: Path, directory: Directory) -> None:
    write(root / "file")
    local = read(directory, "file")

    assert hints_of(directory, [("file", Local(local.side, local.signature, racy=True))]) == [("file", "look")]


def test_a_file_that_became_a_directory_and_the_reverse(root: Path, any_directory: Directory) -> None:
    write(root / "a")
    write(root / "b/c")
    known = known_of(any_directory)
    (root / "a").unlink()
    write(root / "a/below")
    (root / "b/c").unlink()
    (root / "b").rmdir()
    write(root / "b")

    assert hints_of(any_directory, known) == [("a", "gone"), ("a/below", "look"), ("b", "look"), ("b/c", "gone")]


def test_a_directory_that_became_a_link_is_not_entered(root: Path, any_directory: Directory) -> None:
    write(root / "d/file")
    known = known_of(any_directory)
    (root / "d").rename(root.parent / "moved")
    (root / "d").symlink_to("../moved")

    assert hints_of(any_directory, known) == [("d", Reason.LINK_OUTSIDE), ("d/file", "gone")]


def test_a_part_of_the_tree_can_be_scanned_alone(root: Path, any_directory: Directory) -> None:
    for path in ("a/x", "a/b/y", "a.b", "c"):
        write(root / path)

    assert hints_of(any_directory, below="a") == [("a/b/y", "look"), ("a/x", "look")]
    assert hints_of(any_directory, below="a/b/") == [("a/b/y", "look")]
    assert hints_of(any_directory, [("a/gone", FILE), ("a/x", FILE)], below="a") == [
        ("a/b/y", "look"),
        ("a/gone", "gone"),
        ("a/x", "look"),
    ]
    assert hints_of(any_directory, [("nothing/x", FILE)], below="nothing") == [("nothing/x", "gone")]
    assert hints_of(any_directory, [("c/x", FILE)], below="c") == [("c", "look"), ("c/x", "gone")]


def test_filters_are_asked_and_exclusion_is_not_deletion(root: Path, any_directory: Directory) -> None:
    for path in ("keep", "skip.tmp", "cache/deep/file", "sub/inner.tmp", "sub/kept"):
        write(root / path)
    known = [*known_of(any_directory), ("was.tmp", FILE)]
    filters = Filters(exclude=["*.tmp", "cache/"])

    assert hints_of(any_directory, known, filters) == [
        ("cache/deep/file", "excluded"),
        ("skip.tmp", "excluded"),
        ("sub/inner.tmp", "excluded"),
        ("was.tmp", "excluded"),
    ]


def test_ignore_files_count_from_where_they_are_and_travel(root: Path, any_directory: Directory) -> None:
    for path in ("a/x.log", "a/b/x.log", "x.log", "a/keep", "a/secret/key"):
        write(root / path)
    known = known_of(any_directory)
    write(root / "a/.jetsyncignore", "*.log\nsecret/\n")

    scan = any_directory.scan(Known(known), EVERYTHING_IN)
    assert [(hint.path, hint.kind) for hint in scan] == [
        ("a/.jetsyncignore", "look"),
        ("a/b/x.log", "excluded"),
        ("a/secret/key", "excluded"),
        ("a/x.log", "excluded"),
    ]
    assert dict(scan.filters.ignore_files) == {"a": "*.log\nsecret/\n"}

    (root / "a/.jetsyncignore").unlink()
    again = any_directory.scan(Known(known), scan.filters)
    assert list(again) == []
    assert dict(again.filters.ignore_files) == {}


def test_a_directory_whose_ignore_file_cannot_be_read_is_a_problem(root: Path, any_directory: Directory) -> None:
    write(root / "a/key")
    known = known_of(any_directory)
    (root / "a/.jetsyncignore").symlink_to("/etc/hostname")

    assert hints_of(any_directory, known) == [("a/", Reason.UNREADABLE)]


def test_the_agents_own_and_reserved_directories_are_never_seen(root: Path, any_directory: Directory) -> None:
    put(any_directory, "file", b"")
    any_directory.delete("file", read(any_directory, "file"))
    for path in ("a/.jetsync/x", "lost+found/x", ".snapshot/x", ".nfs00001", "a/.nfs2"):
        write(root / path)

    assert hints_of(any_directory) == []


def test_names_that_cannot_travel_are_problems_once(root: Path, any_directory: Directory) -> None:
    write(root / "back\\slash")
    for raw in (b"caf\xe9", b"\xff\xfe"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + raw)).write_bytes(b"")
    os.mkdir(os.fsencode(root) + b"/d\xe9")
    Path(os.fsdecode(os.fsencode(root) + b"/d\xe9/file")).write_bytes(b"")
    write(root / "caf\xe9-but-utf8")
    expected = [
        ("\\xff\\xfe", Reason.NOT_UTF8),
        ("back\\slash", Reason.INVALID_NAME),
        ("caf\\xe9", Reason.NOT_UTF8),
        ("d\\xe9/", Reason.NOT_UTF8),
    ]

    found = hints_of(any_directory)
    assert sorted(found) == sorted([*expected, ("caf\xe9-but-utf8", "look")])
    known = [(path, Local(Obstacle(Reason(reason)))) for path, reason in sorted(expected)]
    known += known_of(any_directory, ["caf\xe9-but-utf8"])
    known.sort(key=lambda one: one[0].encode())
    assert hints_of(any_directory, known) == []

    for raw in (b"caf\xe9", b"\xff\xfe"):
        os.unlink(os.fsencode(root) + b"/" + raw)
    assert hints_of(any_directory, known) == [("\\xff\\xfe", "gone"), ("caf\\xe9", "gone")]


def test_names_too_long_for_an_object_are_problems(root: Path, any_directory: Directory) -> None:
    deep = root / "/".join(["d" * 250] * 8)
    deep.mkdir(parents=True)
    write(deep / ("n" * 41))
    (deep / ("d" * 41)).mkdir()
    write(deep / "ok")
    prefix = "/".join(["d" * 250] * 8) + "/"

    assert hints_of(any_directory) == [
        (prefix + "d" * 41 + "/", Reason.NAME_TOO_LONG),
        (prefix + "n" * 41, Reason.NAME_TOO_LONG),
        (prefix + "ok", "look"),
    ]


def test_large_files_are_problems_until_they_are_small(root: Path, opener) -> None:
    write(root / "large", b"x" * 100)
    strict, generous = opener(max_size=99), opener()

    assert hints_of(strict) == [("large", Reason.MAX_SIZE)]
    known = [("large", read(strict, "large"))]
    assert hints_of(strict, known) == []
    assert hints_of(generous, known) == [("large", "look")]
    assert hints_of(strict, known_of(generous)) == [("large", Reason.MAX_SIZE)]


def test_an_obstacle_that_went_away_is_looked_at(root: Path, directory: Directory) -> None:
    write(root / "file")
    for reason in (Reason.UNREADABLE, Reason.CHANGING, Reason.FIFO):
        local = Local(Obstacle(reason), directory.look("file").signature)
        assert hints_of(directory, [("file", local)]) == [("file", "look")]


def test_empty_directories_are_entries_only_when_asked_for(root: Path, opener) -> None:
    (root / "empty").mkdir()
    (root / "outer/inner").mkdir(parents=True)
    write(root / "full/file")
    plain, keeping = opener(), opener(empty_directories=True)

    assert hints_of(plain) == [("full/file", "look")]
    assert hints_of(keeping) == [("empty/", "look"), ("full/file", "look"), ("outer/inner/", "look")]
    known = known_of(keeping, ["empty/", "full/file", "outer/inner/"])
    assert hints_of(keeping, known) == []
    assert hints_of(keeping, known, Filters(exclude=["outer/"])) == [("outer/inner/", "excluded")]
    assert hints_of(plain, known) == [("empty/", "excluded"), ("outer/inner/", "excluded")]

    write(root / "empty/file")
    (root / "outer/inner").rmdir()
    assert hints_of(keeping, known) == [
        ("empty/", "gone"),
        ("empty/file", "look"),
        ("outer/", "look"),
        ("outer/inner/", "gone"),
    ]


def test_a_stopped_scan_says_nothing_is_gone(root: Path, directory: Directory) -> None:
    for number in range(10):
        write(root / f"{number}/file")
    known = [(f"{number}/gone", FILE) for number in range(10)]
    questions = iter([False] * 5)

    scan = directory.scan(Known(known), EVERYTHING_IN, stop=lambda: next(questions, True))

    assert len([hint for hint in scan if hint.kind == "gone"]) < 5
    assert not scan.complete


def test_a_root_that_is_gone_ends_the_scan_before_anything_is_gone(root: Path, directory: Directory) -> None:
    write(root / "file")
    known = known_of(directory)
    root.rename(root.parent / "moved")

    with pytest.raises(RootError):
        hints_of(directory, known)


def test_a_root_that_vanishes_during_the_scan_is_noticed(root: Path, directory: Directory) -> None:
    write(root / "a/file")
    scan = directory.scan(Known([("z", FILE)]), EVERYTHING_IN)
    hints = iter(scan)
    assert next(hints).path == "a/file"
    root.rename(root.parent / "moved")

    with pytest.raises(RootError):
        list(hints)
    assert not scan.complete


def test_deep_trees_need_few_descriptors(root: Path, any_directory: Directory) -> None:
    path = "/".join("d" * 300)
    write(root / path / "deep")
    write(root / "d/d/zz")
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    def count() -> bool:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
        return False

    scan = any_directory.scan(Known(), EVERYTHING_IN, stop=count)

    assert [hint.path for hint in scan] == [f"{path}/deep", "d/d/zz"]
    assert scan.complete
    assert most < 50
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_moved_away_under_the_scan_has_nothing_gone(root: Path, directory: Directory) -> None:
    path = "/".join("d" * 60)
    write(root / path / "deep")
    known = [("d/d/zz", FILE), ("e", FILE)]
    scan = directory.scan(Known(known), EVERYTHING_IN)
    hints = iter(scan)
    assert next(hints).path == f"{path}/deep"
    (root / "d").rename(root.parent / "moved")

    assert [(hint.path, hint.kind) for hint in hints] == [("e", "gone")]
    assert not scan.complete


class TestFollow:
    def test_links_are_walked_like_what_they_point_to(self, root: Path, opener) -> None:
        write(root / "data/file")
        (root / "link").symlink_to("data/file")
        (root / "way").symlink_to("data")
        (root / "outside").symlink_to("/etc")
        (root / "dangling").symlink_to("nothing")
        directory = opener(symlinks="follow")

        found = hints_of(directory)

        assert found == [
            ("dangling", Reason.BROKEN_LINK),
            ("data/file", "look"),
            ("link", "look"),
            ("outside", Reason.LINK_OUTSIDE),
            ("way/file", "look"),
        ]
        known = known_of(directory)
        assert hints_of(directory, known) == []
        (root / "data/file").write_bytes(b"changed")
        assert hints_of(directory, known) == [("data/file", "look"), ("link", "look"), ("way/file", "look")]

    def test_circles_end(self, root: Path, opener) -> None:
        write(root / "a/file")
        (root / "a/up").symlink_to("..")
        (root / "a/self").symlink_to(".")
        (root / "b").mkdir()
        (root / "b/to-a").symlink_to("../a")
        (root / "a/to-b").symlink_to("../b")

        found = hints_of(opener(symlinks="follow"))

        assert ("a/file", "look") in found
        assert ("b/to-a/file", "look") in found
        assert {kind for path, kind in found if not path.endswith("file")} == {Reason.BROKEN_LINK}

    def test_many_crossing_links_do_not_explode(self, root: Path, opener) -> None:
        for one in range(4):
            write(root / f"{one}/file")
            for other in range(4):
                (root / f"{one}/{other}").symlink_to(f"../{other}")

        assert len(hints_of(opener(symlinks="follow"))) < 1000


NAMES = st.sampled_from(["a", "b", "a.b", "a b", "a0", "A", "é", "\U0001f600", "-"])
PATHS = st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=8).map(
    lambda paths: {path for path in paths if not any(other.startswith(path + "/") for other in paths)}
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=PATHS, after=PATHS)
def test_the_hints_are_the_difference_of_any_two_trees(
    tmp_path_factory: pytest.TempPathFactory, before: set[str], after: set[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path in after:
        write(root / path)
    with Directory.open(root, options=DirectoryOptions()) as directory:
        known = []
        for path in sorted(before, key=str.encode):
            look = directory.look(path)
            known.append((path, Local(FILE.side, look.signature) if path in after else FILE))

        assert hints_of(directory, known) == [
            (path, "gone" if path in before else "look") for path in sorted(before ^ after, key=str.encode)
        ]
