"""Versions beside each other: what is ours and what isn't, one step from one to the next, and poorer file systems."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest, snapshot_id
from agent.directory import Capabilities, StoppedError, Versions, oldversions, syscalls
from agent.errors import DigestError, LockedError, PathError, RefusedError, RootError, StaleError
from tests.directory.disk import run_as_root_in_namespace
from tests.support.snapshots import content_of

Opener = Callable[..., Versions]


def tree(**files: bytes) -> Manifest:
    entries = [
        (path.replace("__", "/"), Entry(Kind.FILE, hashlib.sha256(data).digest(), len(data), executable=False))
        for path, data in files.items()
    ]
    return Manifest.of(entries)


def identity(manifest: Manifest, second: int = 0) -> str:
    return snapshot_id(datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC), manifest.digest)


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    opened: list[Versions] = []

    def open_it(**options) -> Versions:
        versions = Versions.open(tmp_path / "live", **options)
        opened.append(versions)
        return versions

    yield open_it
    for versions in opened:
        versions.close()


POORER = {
    "modern": Capabilities(),
    "no-openat2": Capabilities(openat2=False),
    "no-exchange": Capabilities(exchange=False),
    "nothing": Capabilities(openat2=False, exchange=False, noreplace=False, hard_links=False),
}


@pytest.fixture(params=POORER)
def versions(request: pytest.FixtureRequest, opener: Opener) -> Versions:
    can = POORER[request.param]
    return opener(
        capabilities=Capabilities(
            openat2=can.openat2, exchange=can.exchange, noreplace=can.noreplace, hard_links=can.hard_links
        )
    )


def install(versions: Versions, second: int, /, **files: bytes) -> str:
    """A version, complete and current."""
    manifest = tree(**files)
    made = identity(manifest, second)
    build(versions, made, manifest, {path.replace("__", "/"): data for path, data in files.items()})
    versions.make_current(made, now=1000.0 + second)
    return made


def build(versions: Versions, made: str, manifest: Manifest, files: dict[str, bytes]) -> None:
    place = versions.build(made, manifest)
    try:
        place.tidy()
        place.furnish()
        place.reuse(None)
        place.put([(paths[0], files[paths[0]]) for paths in place.missing.values()])
        place.spread()
        versions.complete(made, place)
    finally:
        place.close()


def test_one_version_follows_the_other_in_one_step(versions: Versions, tmp_path: Path):
    current = tmp_path / "live/current"
    seen: set[str] = set()
    stop = threading.Event()
    first = install(versions, 1, a=b"one")

    def read() -> None:
        while not stop.is_set():
            seen.add((current / "a").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for second in range(2, 8):
            install(versions, second, a=b"%d" % second)
    finally:
        stop.set()
        reader.join()

    assert seen <= {"one", *map(str, range(2, 8))}
    assert versions.current() == os.path.basename(os.readlink(current)) != first
    assert sorted(os.listdir(tmp_path / "live")) == ["current", "versions"]


def test_a_damaged_version_is_replaced_as_a_whole(versions: Versions, tmp_path: Path):
    made = install(versions, 1, a=b"one", down__b=b"two")
    path = tmp_path / "live/versions" / made
    (path / "a").unlink()
    (path / "down/more").mkdir()
    assert "missing" in versions.damage(made) or "more" in versions.damage(made)

    build(versions, made, tree(a=b"one", down__b=b"two"), {"a": b"one", "down/b": b"two"})

    assert versions.damage(made) == ""
    assert content_of(path) == {"a": b"one", "down/b": b"two"}
    assert not [name for name in os.listdir(tmp_path / "live/versions/.jetsync") if name.startswith("removed")]


@pytest.mark.parametrize("refusal", ["EMLINK", "EPERM", "EXDEV"])
def test_where_a_file_takes_no_more_names_it_is_copied(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
):
    versions = opener()
    first = install(versions, 1, a=b"one")
    manifest = tree(a=b"one", b=b"one")
    second = identity(manifest, 2)
    previous = versions.version(first)
    assert previous is not None

    def link(*_args: object, **_options: object) -> None:
        raise OSError(getattr(errno, refusal), "no more links")

    monkeypatch.setattr(os, "link", link)
    place = versions.build(second, manifest)
    place.tidy()
    place.furnish()
    place.reuse(previous)
    monkeypatch.undo()
    assert place.missing == {}
    versions.complete(second, place)
    place.close()
    previous.tree.close()

    one, other = (tmp_path / "live/versions" / made / "a" for made in (first, second))
    assert other.read_bytes() == b"one" and one.stat().st_ino != other.stat().st_ino


def test_what_an_earlier_attempt_left_counts_when_it_is_right(opener: Opener, tmp_path: Path):
    versions = opener()
    manifest = tree(right=b"right", wrong=b"wrong", half=b"half", down__b=b"b")
    made = identity(manifest)
    partial = tmp_path / "live/versions" / f"{made}.partial"
    for path, data in {"right": b"right", "wrong": b"WRONG", "half": b"ha", "more/x": b"x"}.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_bytes(data)
        (partial / path).chmod(0o444)
    (partial / "down").symlink_to(tmp_path)
    inode = (partial / "right").stat().st_ino

    place = versions.build(made, manifest)
    place.tidy()
    place.furnish()
    place.reuse(None)

    assert sorted(path for paths in place.missing.values() for path in paths) == ["down/b", "half", "wrong"]
    assert sorted(os.listdir(partial)) == ["down", "right"] and not (partial / "down").is_symlink()
    assert (partial / "right").stat().st_ino == inode
    place.close()


def test_wrong_bytes_are_refused_and_leave_nothing(opener: Opener, tmp_path: Path):
    versions = opener()
    manifest = tree(a=b"one")
    place = versions.build(identity(manifest), manifest)
    place.tidy()
    place.furnish()
    place.reuse(None)

    with pytest.raises(DigestError, match="a"):
        place.put([("a", b"two")])

    assert os.listdir(tmp_path / "live/versions" / f"{identity(manifest)}.partial") == []
    with pytest.raises(StaleError, match="missing"):
        versions.complete(identity(manifest), place)
    place.close()


@pytest.mark.parametrize("what", ["file", "directory", "symlink", "fifo", "mode", "directory mode"])
def test_a_tree_that_somebody_changes_while_it_is_built_is_never_complete(opener: Opener, tmp_path: Path, what: str):
    versions = opener()
    manifest = tree(a=b"one", down__b=b"b")
    made = identity(manifest)
    place = versions.build(made, manifest)
    place.tidy()
    place.furnish()
    place.reuse(None)
    place.put([("a", b"one"), ("down/b", b"b")])
    place.spread()
    partial = tmp_path / "live/versions" / f"{made}.partial"
    match what:
        case "file":
            (partial / "down/more").touch()
        case "directory":
            (partial / "more").mkdir()
        case "symlink":
            (partial / "a").unlink()
            (partial / "a").symlink_to("down/b")
        case "fifo":
            (partial / "a").unlink()
            os.mkfifo(partial / "a")
        case "mode":
            (partial / "a").chmod(0o4444)
        case _:
            (partial / "down").chmod(0o777)

    with pytest.raises(StaleError):
        versions.complete(made, place)

    place.close()
    assert not versions.exists(made)


def test_work_ends_when_somebody_wants_it_to(opener: Opener):
    versions = opener()
    made = install(versions, 1, a=b"one")

    with pytest.raises(StoppedError):
        versions.damage(made, stop=lambda: True)


# -- current -----------------------------------------------------------------------------------------------------------


def test_what_comes_into_the_place_of_current_at_the_last_moment_is_not_lost(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    versions = opener()
    install(versions, 1, a=b"one")
    manifest = tree(a=b"two")
    build(versions, identity(manifest, 2), manifest, {"a": b"two"})
    current = tmp_path / "live/current"

    def exchange(*args: object, real=syscalls.renameat2) -> None:
        if current.is_symlink():
            current.unlink()
            current.write_bytes(b"mine")
        real(*args)

    monkeypatch.setattr(syscalls, "renameat2", exchange)
    with pytest.raises(RefusedError):
        versions.make_current(identity(manifest, 2))

    assert current.read_bytes() == b"mine"


def test_what_comes_where_nothing_was_current_is_not_lost(
    versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest = tree(a=b"one")
    build(versions, identity(manifest), manifest, {"a": b"one"})
    current = tmp_path / "live/current"
    before = versions.current

    def look_then_somebody_comes() -> str:
        found = before()
        current.mkdir()
        return found

    monkeypatch.setattr(versions, "current", look_then_somebody_comes)
    with pytest.raises(RefusedError):
        versions.make_current(identity(manifest))

    assert current.is_dir() and not current.is_symlink()


# -- opening -----------------------------------------------------------------------------------------------------------


def test_only_the_last_directory_is_made(tmp_path: Path):
    with pytest.raises(RootError):
        Versions.open(tmp_path / "missing/live")
    (tmp_path / "file").touch()
    with pytest.raises(RootError):
        Versions.open(tmp_path / "file")


@pytest.mark.parametrize("name", ["versions", "versions/.jetsync"])
@pytest.mark.parametrize("what", ["file", "link"])
def test_what_stands_where_our_directories_have_to_be_is_left_alone(tmp_path: Path, name: str, what: str):
    path = tmp_path / "live" / name
    path.parent.mkdir(parents=True)
    if what == "file":
        path.write_bytes(b"mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PathError):
        Versions.open(tmp_path / "live")

    assert path.read_bytes() == b"mine" if what == "file" else os.listdir(tmp_path / "elsewhere") == []


def test_one_agent_at_a_time(opener: Opener):
    first = opener()
    with pytest.raises(LockedError):
        opener()
    assert first.current() == ""


def test_damaged_notes_are_as_good_as_none(opener: Opener, tmp_path: Path):
    versions = opener()
    first = install(versions, 1, a=b"one")
    second = install(versions, 2, a=b"two")
    own = tmp_path / "live/versions/.jetsync"
    for name in ("times.json", f"{first}.json"):
        (own / name).write_bytes(b"\xff{")
    (own / "accepted.json").write_text("[]")

    assert versions.recorded(first) is None and versions.files.read("accepted.json") is None
    assert versions.clean(1, now=2000.0) == pytest.approx(oldversions.GRACE)
    assert versions.exists(first) and versions.current() == second


# -- old versions ------------------------------------------------------------------------------------------------------


def test_the_longest_gone_go_first_and_never_within_ten_minutes(versions: Versions):
    ids = [install(versions, second, a=b"%d" % second) for second in range(1, 5)]  # replaced at 1002, 1003, 1004

    assert versions.clean(2, now=1010.0) == pytest.approx(592.0)
    assert versions.versions() == set(ids)
    assert versions.clean(2, now=1602.5) == pytest.approx(0.5)
    assert versions.versions() == set(ids[1:])
    assert versions.clean(2, now=9999.0) is None
    assert versions.versions() == set(ids[2:])
    assert versions.clean(1, spare=(ids[2],), now=9999.0) is None
    assert versions.versions() == set(ids[2:])


def test_a_clock_that_was_set_back_keeps_nothing_for_ever(opener: Opener):
    versions = opener()
    first = install(versions, 1, a=b"one")
    manifest = tree(a=b"two")
    build(versions, identity(manifest, 2), manifest, {"a": b"two"})
    versions.make_current(identity(manifest, 2), now=5_000_000_000.0)

    assert versions.clean(1, now=2000.0) == pytest.approx(600.0)
    assert versions.clean(1, now=2601.0) is None
    assert not versions.exists(first)


def test_what_was_only_begun_goes_unless_it_is_wanted(opener: Opener):
    versions = opener()
    manifest = tree(a=b"one")
    made = identity(manifest)
    versions.build(made, manifest).close()

    versions.clean(1, spare=(made,))
    assert versions.foreign() == [] and (versions.path_of(made + ".partial")).exists()
    versions.clean(1)
    assert not (versions.path_of(made + ".partial")).exists()


def test_old_versions_are_removed_whatever_somebody_put_into_them(opener: Opener, tmp_path: Path):
    versions = opener()
    first = install(versions, 1, a=b"one")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_bytes(b"mine")
    path = versions.path_of(first)
    (path / "link").symlink_to(tmp_path / "outside")
    deep = path
    for _ in range(300):
        deep = deep / "deeper"
        deep.mkdir()
    install(versions, 2, a=b"two")

    versions.clean(1, now=9999.0)

    assert not path.exists() and (tmp_path / "outside/x").read_bytes() == b"mine"


def test_times_that_are_no_numbers_are_passed_over(opener: Opener, tmp_path: Path):
    versions = opener()
    install(versions, 1, a=b"one")
    (tmp_path / "live/versions/.jetsync/times.json").write_text(json.dumps({"x": [], "y": None}))

    assert versions.clean(1) is None


def test_a_mount_within_a_version_is_never_emptied(tmp_path: Path):
    told = run_as_root_in_namespace(
        """
        import os, subprocess, sys
        from pathlib import Path
        from agent.directory import Versions
        from tests.directory.test_versions import install
        base = Path(sys.argv[1])
        with Versions.open(base / "live") as versions:
            first = install(versions, 1, down__a=b"one")
            install(versions, 2, a=b"two")
            inside = versions.path_of(first) / "down"
            subprocess.run(["mount", "--bind", base / "data", inside], check=True)
            versions.clean(1, now=9999.0)
            print((base / "data/mine").read_text().strip(), versions.exists(first))
        """,
        tmp_path,
        prepare=f"mkdir {tmp_path}/data && echo mine > {tmp_path}/data/mine",
    )

    assert told.split() == ["mine", "False"]
