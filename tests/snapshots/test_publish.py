"""Publishing: whole snapshots or none, content once, and a channel that moves last."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest

from agent.config.model import Publication
from agent.core import channels, manifest
from agent.errors import LostRaceError, RefusedError, SnapshotError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Link
from agent.snapshots.fill import Filling
from agent.snapshots.publish import Publishing
from agent.snapshots.report import PUBLICATION, SnapshotReport
from agent.snapshots.repository import Repository, read_manifest
from agent.snapshots.tree import BucketTree
from tests.support.publisher import Publisher, name_of, write
from tests.support.server import NatsServer
from tests.support.stock import Stock


async def test_a_tree_becomes_a_sealed_bucket_of_links_that_any_client_reads(
    publisher: Publisher, nats_server: NatsServer
):
    (publisher.directory / "tool").write_bytes(b"#!/bin/sh\n")
    (publisher.directory / "tool").chmod(0o755)
    (publisher.directory / "deep/link").symlink_to("../a")
    (publisher.directory / "hollow").mkdir()

    report = await publisher.publish()

    bucket = manifest.bucket_of(publisher.repository, report.id)
    with Stock(nats_server.url) as stock:
        got = {path: stock.get(bucket, path) for path in ("a", "deep/b", "deep/c", "deep/link", "empty", "tool")}
    assert got == {
        "a": b"one",
        "deep/b": b"two",
        "deep/c": b"one",
        "deep/link": b"one",
        "empty": b"",
        "tool": b"#!/bin/sh\n",
    }
    repository = await publisher.opened()
    snapshot = await repository.snapshot_bucket(report.id)
    assert snapshot.sealed
    stated = await read_manifest(snapshot, report.id)
    assert list(stated.manifest.entries) == ["a", "deep/b", "deep/c", "deep/link", "empty", "hollow/", "tool"]
    info = await snapshot.info("tool")
    assert info.metadata["jetsync.mode"] == "755" and info.metadata["jetsync.size"] == "10"
    assert report.uploads == len(await publisher.contents()) == 4  # "one" is stored once
    channel = await repository.channel("stable")
    assert channel is not None and channel.snapshot == report.id
    assert (
        channel.record is not None and channel.record.counter == 1 and channel.record.manifest == stated.manifest.digest
    )


async def test_an_equal_tree_is_not_published_again_and_a_rollback_stays(publisher: Publisher):
    first = await publisher.publish()
    write(publisher.directory, {"a": b"changed"})
    second = await publisher.publish()
    repository = await publisher.opened()
    stated = await read_manifest(await repository.snapshot_bucket(first.id), first.id)
    back = channels.Record(
        repository.name, "stable", first.id, stated.manifest.digest, 999, "2026-01-01T00:00:00Z", second.id
    )
    await repository.move(back, expected_revision=await repository.revision_of("stable"), signer=None)

    third = await publisher.publish()

    assert (third.id, third.uploads, third.links) == (second.id, 0, 0)
    channel = await repository.channel("stable")
    assert channel is not None and channel.snapshot == first.id
    assert len(await repository.snapshots()) == 2


async def test_one_changed_file_uploads_one_content(publisher: Publisher):
    first = await publisher.publish()
    write(publisher.directory, {"deep/b": b"three"})

    second = await publisher.publish()

    assert (second.uploads, second.bytes_up, second.links) == (1, 5, 4)
    channel = await (await publisher.opened()).channel("stable")
    assert channel is not None and channel.record is not None
    assert (channel.snapshot, channel.record.previous) == (second.id, first.id) and channel.record.counter > 1


async def test_a_lost_state_publishes_nothing_twice(publisher: Publisher, make_publisher: Callable[..., Any]):
    first = await publisher.publish()
    other = await make_publisher("two")
    other.now = publisher.now

    again = await other.publish()

    assert again.id == first.id and again.uploads == 0
    assert len(await (await publisher.opened()).snapshots()) == 1


async def test_a_tree_that_is_empty_all_of_a_sudden_is_published_on_purpose_only(make_publisher: Callable[..., Any]):
    publisher = await make_publisher(trigger="on-change")
    assert (await publisher.publish()).id  # it has always been empty
    write(publisher.directory, {"a": b"1"})
    first = await publisher.publish()
    (publisher.directory / "a").unlink()

    with pytest.raises(RefusedError, match="is empty"):
        await publisher.publish()
    channel = await (await publisher.opened()).channel("stable")
    assert channel is not None and channel.snapshot == first.id
    publisher.options["trigger"] = "manual"
    assert (await publisher.publish()).id != first.id


async def test_copies_need_no_repository(make_publisher: Callable[..., Any], nats_server: NatsServer):
    publisher = await make_publisher(content="copies")
    write(publisher.directory, {"a": b"one", "b": b"one", "large": os.urandom(300_000)})

    report = await publisher.publish()

    assert await publisher.contents() == set()
    bucket = await (await publisher.opened()).snapshot_bucket(report.id)
    assert (await bucket.info("large")).link is None
    with Stock(nats_server.url) as stock:
        assert stock.get(bucket.name, "large") == (publisher.directory / "large").read_bytes()
    assert report.uploads == 3


@pytest.mark.parametrize("step", ["content", "bucket", "fill", "seal", "move"])
async def test_a_run_that_is_broken_off_anywhere_is_finished_by_the_next(
    publisher: Publisher, step: str, monkeypatch: pytest.MonkeyPatch
):
    before = await publisher.publish()
    write(publisher.directory, {"a": b"news", "more": b"more"})
    repository = await publisher.opened()

    class Killed(BaseException):
        pass

    def kill(target: Any, name: str, *, after: bool = False) -> None:
        original = getattr(target, name)

        async def killed(*args: Any, **options: Any) -> Any:
            if after:
                await original(*args, **options)
            raise Killed

        monkeypatch.setattr(target, name, killed)

    match step:
        case "content":
            kill(Filling, "have_content", after=True)
        case "bucket":
            kill(Publishing, "_bucket", after=True)
        case "fill":
            kill(Filling, "fill", after=True)
        case "seal":
            kill(Bucket, "seal", after=True)
        case "move":
            kill(Repository, "move", after=True)
    with pytest.raises(Killed):
        await publisher.publish()
    monkeypatch.undo()
    if step != "move":
        channel = await repository.channel("stable")
        assert channel is not None and channel.snapshot == before.id

    report = await publisher.publish()

    snapshots = await repository.snapshots()
    assert [snapshot.sealed for snapshot in snapshots] == [True, True]
    channel = await repository.channel("stable")
    assert channel is not None and channel.snapshot == report.id == snapshots[-1].id
    assert (await publisher.publish()).id == report.id


async def test_what_was_begun_for_another_tree_is_removed(publisher: Publisher, monkeypatch: pytest.MonkeyPatch):
    async def full(*_: Any) -> None:
        raise SnapshotError("no")

    monkeypatch.setattr(Bucket, "seal", full)
    with pytest.raises(SnapshotError):
        await publisher.publish()
    monkeypatch.undo()
    write(publisher.directory, {"a": b"something else"})

    report = await publisher.publish()

    assert [(one.id, one.sealed) for one in await (await publisher.opened()).snapshots()] == [(report.id, True)]


async def test_of_two_publishers_one_wins_the_channel_and_the_other_says_so(
    publisher: Publisher, make_publisher: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = await make_publisher("two", directory=tmp_path / "other")
    write(other.directory, {"a": b"theirs"})
    original = Filling.have_content
    reports: list[SnapshotReport] = []

    async def slow(self: Any, report: SnapshotReport) -> None:
        await original(self, report)
        if not reports:
            reports.append(report)
            reports.append(await other.publish())

    monkeypatch.setattr(Filling, "have_content", slow)
    with pytest.raises(LostRaceError):
        await publisher.publish()

    repository = await publisher.opened()
    channel = await repository.channel("stable")
    assert channel is not None and channel.snapshot == reports[1].id
    assert all(snapshot.sealed for snapshot in await repository.snapshots())


async def test_content_that_others_damage_or_delete_is_healed_by_publishing_again(publisher: Publisher):
    first = await publisher.publish()
    bucket = (await publisher.opened()).bucket
    await bucket.put_bytes(name_of(b"one"), b"something else")
    await bucket.delete(name_of(b"two"))

    again = await publisher.publish()

    assert (again.id, again.uploads) == (first.id, 2)
    snapshot = await (await publisher.opened()).snapshot_bucket(first.id)
    assert [await snapshot.get_bytes(path) for path in ("a", "deep/b", "deep/c")] == [b"one", b"two", b"one"]


async def test_a_channel_that_others_broke_or_removed_is_made_again_with_a_higher_counter(
    make_publisher: Callable[..., Any], tmp_path: Path, nats_server: NatsServer
):
    (tmp_path / "key.nk").write_bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    publisher: Publisher = await make_publisher(sign_with=tmp_path / "key.nk")
    write(publisher.directory, {"a": b"one"})
    await publisher.publish()
    repository = await publisher.opened()
    with Stock(nats_server.url) as stock:

        def meta() -> dict[str, Any]:
            return stock.metas(publisher.repository)["channels/stable"].payload

        async def put(payload: bytes | dict[str, Any]) -> None:
            await asyncio.to_thread(stock.publish_meta, publisher.repository, "channels/stable", payload)

        old = await asyncio.to_thread(meta)
        write(publisher.directory, {"a": b"two"})
        report = await publisher.publish()
        good = await asyncio.to_thread(meta)
        nowhere = {"link": {"bucket": f"{publisher.repository}_20240131T120000Z-0123456789ab"}}
        harms: dict[str, bytes | dict[str, Any]] = {
            "broken": b"null",
            "not signed": good | {"metadata": {}},
            "played again": old,
            "leads nowhere": good | {"metadata": {}, "options": nowhere},
            "gone": good | {"deleted": True, "options": {}, "metadata": {}},
        }
        highest = 0
        for what, payload in harms.items():
            await put(payload)
            again = await publisher.publish()
            assert (again.id, again.changed, again.uploads, again.links) == (report.id, False, 0, 0), what
            channel = await repository.channel("stable")
            assert channel is not None and channel.record is not None, what
            assert channel.snapshot == report.id and channel.signer and channel.record.counter > highest, what
            highest = channel.record.counter
    assert len(await repository.snapshots()) == 2


async def test_a_signed_channel_is_not_published_to_without_a_key(make_publisher: Callable[..., Any], tmp_path: Path):
    (tmp_path / "key.nk").write_bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    publisher: Publisher = await make_publisher(sign_with=tmp_path / "key.nk")
    write(publisher.directory, {"a": b"one"})
    first = await publisher.publish()
    other: Publisher = await make_publisher("other", directory=tmp_path / "other")
    write(other.directory, {"a": b"two"})

    with pytest.raises(SnapshotError, match="no key to sign with"):
        await other.publish()

    channel = await (await publisher.opened()).channel("stable")
    assert channel is not None and channel.snapshot == first.id and channel.signer
    assert len(await (await publisher.opened()).snapshots()) == 1


async def test_missing_chunks_are_healed_too(publisher: Publisher):
    first = await publisher.publish()
    bucket = (await publisher.opened()).bucket
    info = await bucket.info(name_of(b"two"))
    await bucket.purge_chunks(info.nuid)

    assert (await publisher.publish()).uploads == 1
    snapshot = await (await publisher.opened()).snapshot_bucket(first.id)
    assert await snapshot.get_bytes("deep/b") == b"two"


async def test_content_in_use_is_stamped_anew_before_pruning_may_take_it(publisher: Publisher):
    await publisher.publish()
    bucket = (await publisher.opened()).bucket
    name = name_of(b"two")
    before = await bucket.info(name)
    publisher.now = before.time_ns / 1e9 + 13 * 3600
    write(publisher.directory, {"a": b"news"})

    report = await publisher.publish()

    after = await bucket.info(name)
    assert after.revision > before.revision and after.nuid == before.nuid and after.digest == before.digest
    assert report.uploads == 1


async def test_a_file_that_cannot_be_in_a_snapshot_fails_it_whole(publisher: Publisher):
    (publisher.directory / "out").symlink_to("/etc/passwd")

    with pytest.raises(SnapshotError, match="out: link_outside"):
        await publisher.publish()
    assert await (await publisher.opened()).snapshots() == []

    write(publisher.directory, {".jetsyncignore": b"out\n"})
    os.mkfifo(publisher.directory / "pipe")
    report = await publisher.publish()
    stated = await read_manifest(await (await publisher.opened()).snapshot_bucket(report.id), report.id)
    assert "out" not in stated.manifest.entries and "pipe" not in stated.manifest.entries


async def test_a_tree_that_changes_meanwhile_is_begun_again(publisher: Publisher, monkeypatch: pytest.MonkeyPatch):
    original = Filling.have_content
    turns: list[int] = []

    async def changing(self: Any, report: SnapshotReport) -> None:
        await original(self, report)
        turns.append(1)
        if len(turns) < 3:
            write(publisher.directory, {"a": b"turn %d" % len(turns)})

    monkeypatch.setattr(Filling, "have_content", changing)
    report = await publisher.publish()

    snapshot = await (await publisher.opened()).snapshot_bucket(report.id)
    assert await snapshot.get_bytes("a") == b"turn 2"
    assert [one.id for one in await (await publisher.opened()).snapshots()] == [report.id]


async def test_signed_snapshots_and_records_tell_their_publisher(make_publisher: Callable[..., Any], tmp_path: Path):
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "key.nk").write_bytes(seed + b"\n")
    publisher = await make_publisher(sign_with=tmp_path / "key.nk")
    write(publisher.directory, {"a": b"one"})

    report = await publisher.publish()

    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    repository = await publisher.opened()
    channel = await repository.channel("stable")
    assert channel is not None and channel.signer == public
    assert (await read_manifest(await repository.snapshot_bucket(report.id), report.id)).signer == public


async def test_a_file_without_a_seed_is_told(make_publisher: Callable[..., Any], tmp_path: Path):
    (tmp_path / "key.nk").write_text("hello\n")
    for name, words in (("key.nk", "has no nkey seed"), ("none.nk", "can't be read")):
        publisher = await make_publisher(name, sign_with=tmp_path / name)
        with pytest.raises(SnapshotError, match=words):
            await publisher.publish()


async def test_the_objects_of_a_bucket_are_published(
    connection: Connection, make_publisher: Callable[..., Any], bucket_name: str
):
    publisher = await make_publisher()
    source = (await Buckets(connection).ensure(f"{bucket_name}-src", BucketSpec(), may_create=True)).bucket
    await source.put_bytes("in/a", b"one")
    await source.put_bytes("in/b", b"two", metadata={"jetsync.mode": "755"})
    await source.put_bytes("out", b"three")
    await source.add_link("in/l", Link(source.name, "in/a"))
    await source.add_link("in/far", Link(source.name, "out"))
    config = Publication(
        name="models", bucket=source.name, prefix="in/", repository=publisher.repository, channel="stable"
    )
    report = SnapshotReport(PUBLICATION, "models")
    tree = BucketTree(source, "in/", repository=False)

    await Publishing(config, await publisher.opened(), tree, publisher.db).run(report)

    snapshot = await (await publisher.opened()).snapshot_bucket(report.id)
    stated = await read_manifest(snapshot, report.id)
    assert list(stated.manifest.entries) == ["a", "b", "far", "l"]
    assert stated.manifest.entries["b"].executable and stated.manifest.entries["l"].target == "a"
    assert [await snapshot.get_bytes(path) for path in ("a", "b", "far", "l")] == [b"one", b"two", b"three", b"one"]


async def test_a_bucket_that_would_let_content_expire_is_no_repository(connection: Connection, bucket_name: str):
    await Buckets(connection).ensure(bucket_name, BucketSpec(ttl=60.0), may_create=True)
    repository = await Repository.open(connection, bucket_name)

    with pytest.raises(SnapshotError, match="ttl"):
        await repository.mark()
