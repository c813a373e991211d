"""Installing: whole versions or none, bytes fetched once, and a directory that others can read."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core import manifest as manifests
from agent.directory import Versions, oldversions
from agent.errors import LockedError, ObjectNotFoundError, RefusedError, SnapshotError, SpaceError
from agent.objectstore import Buckets, BucketSpec, Connection, Mirror
from tests.support.publisher import name_of
from tests.support.snapshots import Executable, Files, Maker, Subscriber, To, content_of


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False, **options)


TREE: Files = {
    "a": b"one",
    "bin/tool": Executable(b"#!/bin/sh\n"),
    "deep/down/b": b"two",
    "deep/same": b"one",
    "empty": b"",
    "hollow/": None,
    "latest": To("deep/down/b"),
    "deep/up": To("a"),
    "large": bytes(range(256)) * 2000,
}


async def test_the_tree_is_what_was_published_and_others_can_read_it(maker: Maker, subscriber: Subscriber):
    identity = await maker.make(TREE)
    before = os.umask(0o077)
    try:
        report = await subscriber.install()
    finally:
        os.umask(before)

    assert os.readlink(subscriber.directory / "current") == f"versions/{identity}"
    assert (report.id, report.previous, report.downloads, report.reused) == (identity, "", 5, 1)
    current = subscriber.directory / "current"
    assert content_of(current.resolve()) == {
        "a": b"one",
        "bin/tool": b"#!/bin/sh\n",
        "deep/down/b": b"two",
        "deep/same": b"one",
        "deep/up": "../a",
        "empty": b"",
        "hollow": None,
        "large": TREE["large"],
        "latest": "deep/down/b",
    }
    assert (current / "a").stat().st_mode & 0o7777 == 0o444
    assert (current / "bin/tool").stat().st_mode & 0o7777 == 0o555
    for directory in (subscriber.directory, current, current / "deep/down", current / "hollow"):
        assert directory.stat().st_mode & 0o7777 == 0o755
    assert (current / "a").stat().st_ino == (current / "deep/same").stat().st_ino
    assert (subscriber.directory / "versions/.jetsync").stat().st_mode & 0o7777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
async def test_a_user_with_another_uid_reads_every_file(maker: Maker, subscriber: Subscriber, tmp_path: Path):
    await maker.make(TREE)
    await subscriber.install()
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if parent != Path("/tmp"):
            parent.chmod(0o755)

    files = [subscriber.directory / "current" / path for path in ("deep/down/b", "latest")]
    done = run("cat", *files, user=65534, group=65534, extra_groups=[])

    assert done.stdout == b"twotwo"


async def test_a_group_of_the_directory_is_passed_on(maker: Maker, subscriber: Subscriber):
    await maker.make(TREE)
    subscriber.directory.mkdir()
    os.chown(subscriber.directory, -1, 4711 if os.geteuid() == 0 else -1)
    subscriber.directory.chmod(0o2750)

    await subscriber.install()

    group = subscriber.directory.stat().st_gid
    assert subscriber.directory.stat().st_mode & 0o7777 == 0o2750
    for path in ("versions", "current/deep", "current/deep/down/b", "current/bin/tool"):
        assert (subscriber.directory / path).stat().st_gid == group
    assert (subscriber.directory / "current/deep").stat().st_mode & 0o7777 == 0o2755


async def test_unchanged_files_are_the_same_files_and_only_what_is_new_is_fetched(maker: Maker, subscriber: Subscriber):
    first = await maker.make(TREE)
    await subscriber.install()
    changed = {**TREE, "a": b"other", "moved/large": TREE["large"]}
    del changed["large"]
    second = await maker.make(changed)

    report = await subscriber.install()

    assert (report.id, report.previous) == (second, first)
    assert (report.downloads, report.bytes_down) == (1, 5)
    old, new = subscriber.version(first), subscriber.version(second)
    for path in ("bin/tool", "deep/down/b", "deep/same", "empty"):
        assert (old / path).stat().st_ino == (new / path).stat().st_ino
    assert (old / "large").stat().st_ino == (new / "moved/large").stat().st_ino
    assert (old / "a").read_bytes() == b"one" and (new / "a").read_bytes() == b"other"


async def test_a_file_that_becomes_executable_is_a_file_of_its_own(maker: Maker, subscriber: Subscriber):
    first = await maker.make({"tool": b"#!/bin/sh\n", "other": b"x"})
    await subscriber.install()
    second = await maker.make({"tool": Executable(b"#!/bin/sh\n"), "again": b"#!/bin/sh\n"})

    report = await subscriber.install()

    assert report.downloads == 0
    assert (subscriber.version(first) / "tool").stat().st_mode & 0o777 == 0o444
    assert (subscriber.version(second) / "tool").stat().st_mode & 0o777 == 0o555
    assert (subscriber.version(second) / "again").stat().st_mode & 0o777 == 0o444


async def test_a_rollback_fetches_nothing(maker: Maker, subscriber: Subscriber):
    first = await maker.make(TREE)
    await subscriber.install()
    second = await maker.make({"a": b"changed"})
    await subscriber.install()
    await maker.back_to(first)

    report = await subscriber.install()

    assert (report.id, report.previous, report.downloads) == (first, second, 0)
    assert subscriber.current == first


async def test_nothing_to_do_does_nothing(maker: Maker, subscriber: Subscriber):
    identity = await maker.make(TREE)
    await subscriber.install()
    inode = os.lstat(subscriber.directory / "current").st_ino

    report = await subscriber.install()

    assert (report.id, report.previous, report.changed, report.downloads, report.reused) == (
        identity, identity, False, 0, 0,
    )  # fmt: skip
    assert os.lstat(subscriber.directory / "current").st_ino == inode


async def test_a_pinned_snapshot_stays_whatever_the_channel_does(maker: Maker, subscriber: Subscriber):
    first = await maker.make({"a": b"one"})
    await maker.make({"a": b"two"})

    report = await subscriber.install(snapshot=first)

    assert report.id == subscriber.current == first


async def test_copies_need_no_repository_content(maker: Maker, subscriber: Subscriber):
    identity = await maker.make(TREE, copies=True)

    await subscriber.install()

    assert subscriber.current == identity
    assert content_of(subscriber.version(identity))["large"] == TREE["large"]


async def test_a_mirror_of_repository_and_snapshot_is_as_good(
    maker: Maker, subscriber: Subscriber, connection: Connection, bucket_name: str
):
    identity = await maker.make(TREE)
    mirror = f"mirror-of-{bucket_name}"
    await Buckets(connection).create(mirror, BucketSpec(mirror=Mirror(bucket=bucket_name)))
    subscriber.repository = mirror
    repository = (await Buckets(connection).bind(mirror)).name
    assert repository == mirror
    await _until_mirrored(connection, mirror, name_of(b"two"), manifests.channel_name("stable"))

    report = await subscriber.install()

    assert report.id == identity
    assert (subscriber.directory / "current/deep/down/b").read_bytes() == b"two"


async def _until_mirrored(connection: Connection, mirror: str, *names: str) -> None:
    bucket = await Buckets(connection).bind(mirror)
    async with asyncio.timeout(20):
        for wanted in names:
            while True:
                try:
                    await bucket.info(wanted)
                    break
                except ObjectNotFoundError:
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize("lacks", ["nothing", "an object"])
async def test_a_mirror_of_the_snapshots_bucket_needs_no_seal_but_must_be_complete(
    maker: Maker, subscriber: Subscriber, connection: Connection, lacks: str
):
    """As another JetStream domain has it: under the snapshot's name, and a mirror."""
    identity = await maker.make(TREE, copies=True, objects={"deep/down/b": None} if lacks == "an object" else None)
    buckets, name = Buckets(connection), manifests.bucket_of(maker.repository, identity)
    origin, elsewhere = await buckets.bind(name), await buckets.create(f"{maker.repository}-elsewhere")
    for info in await origin.list():
        if info.link is not None:
            await elsewhere.add_link(info.name, info.link)
        else:
            await elsewhere.put_bytes(info.name, await origin.get_bytes(info))
    await buckets.delete(name)
    await buckets.create(name, BucketSpec(mirror=Mirror(bucket=elsewhere.name)))
    await _until_mirrored(connection, name, *(info.name for info in await elsewhere.list()))

    if lacks == "nothing":
        assert (await subscriber.install()).id == identity
        assert (subscriber.directory / "current/latest").read_bytes() == b"two"
    else:
        with pytest.raises(SnapshotError, match="'deep/down/b' has no object"):
            await subscriber.install()


# -- what stands in the way --------------------------------------------------------------------------------------------


async def test_foreign_content_is_left_alone(maker: Maker, subscriber: Subscriber):
    subscriber.directory.mkdir()
    foreign = {
        "notes.txt": b"mine",
        "versions/20200101T000000Z-0123456789ab/x": b"mine too",
        "versions/other/y": b"and this",
        "versions/z": b"",
    }
    for path, data in foreign.items():
        (subscriber.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (subscriber.directory / path).write_bytes(data)
    for number in range(3):
        await maker.make({"a": b"%d" % number})
        await subscriber.install(keep=1)

    for path, data in foreign.items():
        assert (subscriber.directory / path).read_bytes() == data


@pytest.mark.parametrize("kind", ["directory", "file", "link", "other link"])
async def test_a_foreign_current_is_never_replaced(maker: Maker, subscriber: Subscriber, kind: str):
    await maker.make(TREE)
    subscriber.directory.mkdir()
    current = subscriber.directory / "current"
    if kind == "directory":
        current.mkdir()
        (current / "x").write_bytes(b"mine")
    elif kind == "file":
        current.write_bytes(b"mine")
    else:
        current.symlink_to("elsewhere" if kind == "link" else "versions/../../x")
    before = os.lstat(current)

    with pytest.raises(RefusedError, match="current"):
        await subscriber.install()

    assert os.lstat(current).st_ino == before.st_ino
    assert subscriber.ids == set()  # nothing was fetched for nothing


async def test_a_foreign_directory_with_the_name_of_the_version_is_refused_or_taken_as_it_is(
    maker: Maker, make_subscriber: Callable[..., Subscriber]
):
    identity = await maker.make({"a": b"one"})
    other, equal = make_subscriber("other"), make_subscriber("equal")
    for subscriber, data in ((other, b"two"), (equal, b"one")):
        subscriber.version(identity).mkdir(parents=True)
        subscriber.version(identity).chmod(0o755)
        (subscriber.version(identity) / "a").write_bytes(data)
        (subscriber.version(identity) / "a").chmod(0o444)

    with pytest.raises(RefusedError, match=identity):
        await other.install()
    await equal.install()

    assert (other.version(identity) / "a").read_bytes() == b"two" and other.current == ""
    assert equal.current == identity


async def test_a_second_agent_is_kept_out(maker: Maker, subscriber: Subscriber):
    await maker.make(TREE)
    with Versions.open(subscriber.directory):
        with pytest.raises(LockedError):
            await subscriber.install()
    await subscriber.install()


# -- damage ------------------------------------------------------------------------------------------------------------


async def test_a_damaged_file_of_the_previous_version_is_fetched_and_not_linked(maker: Maker, subscriber: Subscriber):
    first = await maker.make(TREE)
    await subscriber.install()
    for path, damage in (("a", b"bad"), ("deep/down/b", b"longer than before")):
        (subscriber.version(first) / path).chmod(0o644)
        (subscriber.version(first) / path).write_bytes(damage)
        (subscriber.version(first) / path).chmod(0o444)
    (subscriber.version(first) / "bin/tool").unlink()
    second = await maker.make({**TREE, "new": b"new"})

    report = await subscriber.install()

    assert report.downloads == 4
    found = content_of(subscriber.version(second))
    assert (found["a"], found["deep/same"], found["deep/down/b"], found["new"]) == (b"one", b"one", b"two", b"new")
    assert (subscriber.version(second) / "large").stat().st_ino == (subscriber.version(first) / "large").stat().st_ino


async def test_a_touched_file_of_the_previous_version_is_hashed_and_linked(maker: Maker, subscriber: Subscriber):
    first = await maker.make(TREE)
    await subscriber.install()
    os.utime(subscriber.version(first) / "a")
    second = await maker.make({"a": b"one"})

    report = await subscriber.install()

    assert report.downloads == 0
    assert (subscriber.version(second) / "a").stat().st_ino == (subscriber.version(first) / "a").stat().st_ino


@pytest.mark.parametrize("damage", ["changed", "missing", "more", "mode", "link", "gone"])
async def test_a_damaged_current_version_is_made_anew(maker: Maker, subscriber: Subscriber, damage: str):
    identity = await maker.make(TREE)
    await subscriber.install()
    version, path = subscriber.version(identity), subscriber.version(identity) / "a"
    if damage == "changed":
        path.chmod(0o644)
        path.write_bytes(b"bad")
        path.chmod(0o444)
    elif damage == "missing":
        path.unlink()
    elif damage == "more":
        (version / "deep/more").write_bytes(b"x")
    elif damage == "mode":
        path.chmod(0o666)
    elif damage == "link":
        (version / "latest").unlink()
        (version / "latest").symlink_to("/etc/passwd")
    else:
        version.rename(subscriber.directory / "away")

    report = await subscriber.install()

    assert report.id == subscriber.current == identity and not report.changed
    found = content_of(version)
    assert found["a"] == b"one" and found["latest"] == "deep/down/b" and "deep/more" not in found
    assert path.stat().st_mode & 0o777 == 0o444
    assert [name for name in os.listdir(subscriber.directory / "versions/.jetsync") if "removed" in name] == []


async def test_nothing_is_read_or_written_through_a_link_that_somebody_put_into_a_version(
    maker: Maker, subscriber: Subscriber, tmp_path: Path
):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b").write_bytes(b"two")
    first = await maker.make({"down/b": b"two", "a": b"1"})
    await subscriber.install()
    version = subscriber.version(first)
    (version / "down/b").unlink()
    (version / "down").rmdir()
    (version / "down").symlink_to(outside)
    await maker.make({"down/b": b"two", "a": b"2"})

    report = await subscriber.install()

    assert report.downloads == 2
    await maker.make({"a": b"3"})
    await subscriber.install(keep=1)
    assert (outside / "b").read_bytes() == b"two"


# -- space -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
async def test_without_room_the_old_version_stays_and_with_room_it_goes_on(maker: Maker, subscriber: Subscriber):
    subscriber.directory.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", "size=4m", "none", subscriber.directory)
    if mounted.returncode:
        pytest.skip("can't mount here")
    try:
        first = await maker.make({"a": b"one"})
        await subscriber.install()
        ballast = subscriber.directory / "ballast"
        ballast.write_bytes(bytes(3 << 20))
        second = await maker.make({"a": b"two", "large": os.urandom(1 << 20)})

        with pytest.raises(SpaceError):
            await subscriber.install()

        assert subscriber.current == first
        ballast.unlink()
        await subscriber.install()
        assert subscriber.current == second
    finally:
        run("umount", subscriber.directory)


# -- old versions ------------------------------------------------------------------------------------------------------


async def test_versions_beyond_keep_go_but_none_that_was_current_a_moment_ago(
    maker: Maker, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
):
    ids = []
    for number in range(4):
        ids.append(await maker.make({"a": b"%d" % number}))
        await subscriber.install(keep=2)
    assert subscriber.ids == set(ids)

    monkeypatch.setattr(oldversions, "GRACE", 0.0)
    await subscriber.install()

    assert subscriber.ids == {ids[2], ids[3]}
    assert (subscriber.directory / "current/a").read_bytes() == b"3"
    left = set(os.listdir(subscriber.directory / "versions/.jetsync"))
    assert left == {"lock", "times.json", f"{ids[2]}.json", f"{ids[3]}.json"}


async def test_what_was_begun_for_another_snapshot_goes_on_as_the_wanted_one(
    maker: Maker, subscriber: Subscriber, connection: Connection
):
    first = await maker.make({"big": b"x" * 300_000, "lost": b"lost"}, content=False)
    repository = await maker.opened()
    await repository.bucket.put_bytes(name_of(b"x" * 300_000), b"x" * 300_000)
    with pytest.raises(SnapshotError, match="lost"):
        await subscriber.install()
    assert subscriber.ids == {f"{first}.partial"}
    second = await maker.make({"big": b"x" * 300_000, "small": b"small"})

    report = await subscriber.install()

    assert subscriber.ids == {second}
    assert report.downloads <= 2
