"""Renames: not a chunk is sent, at most one live name has a nuid, and a racing writer never costs anybody's content."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agent.errors import ChunksError, ObjectNameError, ObjectNotFoundError, RevisionError
from agent.objectstore import Bucket, ObjectInfo, Renaming, objects, rename
from tests.support.stock import Stock

MANY = b"0123456789" * 40_000  # 4 chunks


@pytest.fixture(params=["as the server can", "in two steps"])
def either(request: pytest.FixtureRequest, bucket: Bucket) -> Bucket:
    """The bucket in both ways of renaming (on servers without atomic batches the ways are one)."""
    if request.param == "in two steps":
        bucket.config = {key: value for key, value in bucket.config.items() if key != "allow_atomic"}
    return bucket


async def test_a_rename_keeps_nuid_and_chunks_and_leaves_a_marker_with_a_fresh_nuid(either: Bucket, stock: Stock):
    put = await either.put_bytes("a", MANY, metadata={"k": "v"}, headers={"H": ["1"]})
    before = stock.chunks(either.name)
    moved = await either.rename("a", "dir/ü", expected_revision=put.revision)
    marker = await either.info("a", show_deleted=True)

    assert stock.chunks(either.name) == before == {put.nuid: 4}
    assert (moved.name, moved.nuid, moved.digest, moved.metadata) == ("dir/ü", put.nuid, put.digest, {"k": "v"})
    assert moved.revision == (await either.info("dir/ü")).revision
    assert marker.deleted and marker.nuid not in ("", put.nuid)
    assert await either.get_bytes("dir/ü") == MANY
    assert [info.name for info in await either.list()] == ["dir/ü"]
    assert stock.get(either.name, "dir/ü") == MANY


async def test_the_meta_can_change_with_the_name(either: Bucket):
    await either.put_bytes("a", b"1", metadata={"k": "v"})
    moved = await either.rename("a", "b", metadata={"k": "w"}, description="d")

    assert (moved.metadata, moved.description) == ({"k": "w"}, "d")
    assert (await either.info("b")).metadata == {"k": "w"}


async def test_a_link_can_be_renamed(either: Bucket):
    target = await either.put_bytes("t", b"1")
    await either.add_link("l", target)
    await either.rename("l", "m")

    assert await either.get_bytes("m") == b"1"


async def test_a_name_that_is_taken_is_not_overwritten(either: Bucket):
    await either.put_bytes("a", b"1")
    there = await either.put_bytes("b", b"2")
    with pytest.raises(RevisionError) as caught:
        await either.rename("a", "b")

    assert caught.value.actual == there.revision
    assert (await either.get_bytes("a"), await either.get_bytes("b")) == (b"1", b"2")


async def test_a_name_with_a_marker_is_taken_by_the_markers_revision(either: Bucket):
    await either.put_bytes("a", b"1")
    await either.put_bytes("b", b"2")
    deleted = await either.delete("b")
    with pytest.raises(RevisionError):
        await either.rename("a", "b")
    moved = await either.rename("a", "b", expected_new=deleted.revision)

    assert moved.revision > deleted.revision
    assert await either.get_bytes("b") == b"1"


async def test_what_is_not_there_cannot_be_renamed(either: Bucket):
    with pytest.raises(ObjectNotFoundError):
        await either.rename("a", "b")
    put = await either.put_bytes("a", b"1")
    with pytest.raises(ObjectNameError):
        await either.rename("a", "a")
    with pytest.raises(ObjectNameError):
        await either.rename("a", "x" * 3000)
    await either.delete("a")
    with pytest.raises(RevisionError):
        await either.rename("a", "b", expected_revision=put.revision)


def race(monkeypatch: pytest.MonkeyPatch, bucket: Bucket, other: Any) -> None:
    """Another writer comes after the rename has read the old name and before it writes anything."""
    real = objects.expect

    async def read_then_race(*args: Any) -> ObjectInfo:
        found = await real(*args)
        await other()
        return found

    monkeypatch.setattr("agent.objectstore.rename.expect", read_then_race)


async def test_an_overwrite_of_the_old_name_in_between_wins(either: Bucket, monkeypatch: pytest.MonkeyPatch):
    await either.put_bytes("a", MANY)
    race(monkeypatch, either, lambda: either.put_bytes("a", b"theirs"))
    with pytest.raises(RevisionError):
        await either.rename("a", "b")

    assert await either.get_bytes("a") == b"theirs"
    with pytest.raises(ObjectNotFoundError):
        await either.info("b")


async def test_a_changed_meta_of_the_old_name_in_between_wins_and_no_two_names_share_a_nuid(
    either: Bucket, monkeypatch: pytest.MonkeyPatch
):
    await either.put_bytes("a", MANY)
    race(monkeypatch, either, lambda: either.update_meta("a", description="theirs"))
    with pytest.raises(RevisionError):
        await either.rename("a", "b")

    assert (await either.info("a")).description == "theirs"
    assert await either.get_bytes("a") == MANY
    nuids = [info.nuid for info in await either.list(show_deleted=True)]
    assert len(set(nuids)) == len(nuids)


async def test_a_delete_of_the_old_name_in_between_wins(either: Bucket, monkeypatch: pytest.MonkeyPatch):
    await either.put_bytes("a", MANY)
    race(monkeypatch, either, lambda: either.delete("a"))
    with pytest.raises(RevisionError):
        await either.rename("a", "b")

    assert await either.list() == []


async def test_somebody_at_the_new_name_in_between_wins(either: Bucket, monkeypatch: pytest.MonkeyPatch):
    await either.put_bytes("a", MANY)
    race(monkeypatch, either, lambda: either.put_bytes("b", b"theirs"))
    with pytest.raises(RevisionError):
        await either.rename("a", "b")

    assert (await either.get_bytes("a"), await either.get_bytes("b")) == (MANY, b"theirs")


async def test_chunks_that_a_stock_writer_has_purged_between_the_steps_are_missed_and_told(
    bucket: Bucket, stock: Stock, monkeypatch: pytest.MonkeyPatch
):
    bucket.config = {key: value for key, value in bucket.config.items() if key != "allow_atomic"}
    put = await bucket.put_bytes("a", MANY)
    real = rename._check_chunks

    async def purge_first(at: Bucket, moved: ObjectInfo) -> ObjectInfo:
        stock.purge(bucket.name, put.nuid)
        return await real(at, moved)

    monkeypatch.setattr(rename, "_check_chunks", purge_first)
    with pytest.raises(ChunksError, match="put it again"):
        await bucket.rename("a", "b")


async def test_a_server_that_ignores_the_batch_still_renames(bucket: Bucket, stock: Stock):
    put = await bucket.put_bytes("a", MANY)
    was_atomic = bucket.atomic
    bucket.config["allow_atomic"] = True  # what is believed; the server may not know batches at all
    if was_atomic:  # or has them switched off
        await bucket.connection.api(f"STREAM.UPDATE.{bucket.stream}", {**bucket.config, "allow_atomic": False})
    moved = await bucket.rename("a", "b", expected_revision=put.revision)

    assert moved.revision == (await bucket.info("b")).revision
    assert await bucket.get_bytes("b") == MANY
    assert (await bucket.info("a", show_deleted=True)).deleted


async def test_a_batch_is_one_step_in_the_stream(bucket: Bucket):
    if not bucket.atomic:
        pytest.skip("this server has no atomic batches")
    await bucket.put_bytes("a", b"1")
    moved = await bucket.rename("a", "b")

    assert (await bucket.info("a", show_deleted=True)).revision == moved.revision + 1


async def renamings_of(bucket: Bucket, names: list[str]) -> list[Renaming]:
    infos = [await bucket.info(name) for name in names]
    return [Renaming(info, f"new/{info.name}", 0, info.metadata) for info in infos]


async def test_many_renames_are_one_batch_and_tell_each_revision(bucket: Bucket, stock: Stock):
    if not bucket.atomic:
        pytest.skip("this server has no atomic batches")
    names = [f"a{number}" for number in range(20)]
    for name in names:
        await bucket.put_bytes(name, name.encode(), metadata={"k": name})
    before = stock.chunks(bucket.name)
    moved = await bucket.rename_many(await renamings_of(bucket, names))

    assert moved is not None
    assert stock.chunks(bucket.name) == before
    for name, info in zip(names, moved, strict=True):
        assert info == replace(await bucket.info(f"new/{name}"), time_ns=info.time_ns)
        assert await bucket.get_bytes(f"new/{name}") == name.encode()
        assert (await bucket.info(name, show_deleted=True)).deleted


async def test_many_renames_do_nothing_when_one_precondition_fails(bucket: Bucket):
    if not bucket.atomic:
        pytest.skip("this server has no atomic batches")
    for name in ("a", "b"):
        await bucket.put_bytes(name, b"1")
    renamings = await renamings_of(bucket, ["a", "b"])
    await bucket.put_bytes("b", b"2")
    with pytest.raises(RevisionError):
        await bucket.rename_many(renamings)

    assert sorted(info.name for info in await bucket.list()) == ["a", "b"]
    assert await bucket.get_bytes("b") == b"2"


async def test_a_cancelled_rename_leaves_one_name_for_the_nuid(either: Bucket):
    for number in range(12):
        put = await either.put_bytes(f"a{number}", MANY)
        task = asyncio.create_task(either.rename(f"a{number}", f"b{number}"))
        await asyncio.sleep(number * 0.0003)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.02)
        names = [info.name for info in await either.list() if info.nuid == put.nuid]

        assert len(names) == 1
        assert await either.get_bytes(names[0]) == MANY


async def test_a_cancelled_delete_leaves_no_chunks_of_a_deleted_object(bucket: Bucket):
    for number in range(8):
        await bucket.put_bytes(f"a{number}", MANY)
        task = asyncio.create_task(bucket.delete(f"a{number}"))
        await asyncio.sleep(number * 0.0003)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    live = {info.nuid for info in await bucket.list()}

    assert set(await bucket.chunk_subjects()) == live
