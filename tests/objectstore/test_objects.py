"""One object's meta: read, changed, deleted under its precondition, with an outcome that is known or called unknown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.errors import (
    BadMetaError,
    BucketError,
    BucketNotFoundError,
    ObjectNameError,
    ObjectNotFoundError,
    RevisionError,
    UnknownOutcomeError,
)
from agent.objectstore import (
    Bucket,
    Buckets,
    Connection,
    Endpoint,
    NotSentError,
    ObjectInfo,
    chunks,
    refused,
)
from agent.objectstore.commit import commit, newest
from agent.objectstore.subjects import meta_subject, new_nuid
from tests.objectstore.waiting import until
from tests.support.server import NatsServer
from tests.support.stock import Stock

MANY = b"0123456789" * 40_000  # 4 chunks


def link_to_nothing(bucket: Bucket, name: str) -> ObjectInfo:
    """A meta that needs no chunks."""
    return ObjectInfo(bucket.name, name, new_nuid(), digest=bytes(32))


async def test_an_object_has_its_revision_and_the_servers_time(bucket: Bucket):
    put = await bucket.put_bytes("a", MANY)
    info = await bucket.info("a")

    assert (info.revision, info.nuid, info.digest, info.chunks) == (put.revision, put.nuid, put.digest, 4)
    assert info.time_ns > 1_600_000_000_000_000_000


async def test_what_is_not_there_is_not_found(bucket: Bucket, buckets: Buckets):
    with pytest.raises(ObjectNotFoundError, match="'a'"):
        await bucket.info("a")
    await buckets.delete(bucket.name)
    with pytest.raises(BucketNotFoundError):
        await bucket.info("a")


async def test_a_name_that_is_too_long_is_refused_and_the_connection_lives(bucket: Bucket):
    for attempt in (bucket.info("x" * 3500), bucket.delete("x" * 3500), bucket.update_meta("x" * 3500)):
        with pytest.raises(ObjectNameError):
            await attempt
    name = "ü" * 1024
    await commit(bucket, link_to_nothing(bucket, name), expected_revision=0)

    assert (await bucket.info(name)).name == name
    assert bucket.connection.reconnects == 0


# -- preconditions


async def test_a_create_wins_once_and_the_loser_is_told_who_is_there(bucket: Bucket):
    first = await commit(bucket, link_to_nothing(bucket, "a"), expected_revision=0)
    with pytest.raises(RevisionError) as caught:
        await commit(bucket, link_to_nothing(bucket, "a"), expected_revision=0)

    assert caught.value.actual == first.revision
    assert (await bucket.info("a")).nuid == first.nuid


async def test_every_write_refuses_a_stale_revision_and_changes_nothing(bucket: Bucket):
    old = await bucket.put_bytes("a", b"1")
    new = await bucket.put_bytes("a", b"2", expected_revision=old.revision)

    for attempt in (
        bucket.put_bytes("a", b"3", expected_revision=old.revision),
        bucket.update_meta("a", description="x", expected_revision=old.revision),
        bucket.delete("a", expected_revision=old.revision),
        bucket.delete("a", known=old),
        bucket.rename("a", "b", expected_revision=old.revision),
        bucket.add_link("a", ObjectInfo(bucket.name, "t"), expected_revision=old.revision),
        bucket.add_bucket_link("a", "other", expected_revision=old.revision),
    ):
        with pytest.raises(RevisionError) as caught:
            await attempt
        assert caught.value.actual == new.revision
    assert (await bucket.info("a")).revision == new.revision
    assert await bucket.get_bytes("a") == b"2"


async def test_a_marker_has_a_revision_that_a_create_over_it_needs(bucket: Bucket):
    await bucket.put_bytes("a", b"1")
    deleted = await bucket.delete("a")
    with pytest.raises(RevisionError):
        await bucket.put_bytes("a", b"2", expected_revision=0)

    assert (await bucket.put_bytes("a", b"2", expected_revision=deleted.revision)).revision > deleted.revision


# -- update_meta


async def test_a_change_of_the_meta_keeps_content_nuid_and_what_we_do_not_know(bucket: Bucket, stock: Stock):
    put = await bucket.put_bytes("a", MANY, headers={"H": ["1"]}, metadata={"k": "v"}, description="old")
    raw = stock.meta(bucket.name, "a")
    assert raw is not None
    stock.publish_meta(bucket.name, "a", {**raw.payload, "future": [1], "options": {"codec": "x"}})
    changed = await bucket.update_meta("a", description="new", metadata={"k": "w"})
    after = stock.meta(bucket.name, "a")

    assert after is not None
    assert after.payload["future"] == [1]
    assert after.payload["options"] == {"codec": "x"}
    assert (changed.nuid, changed.digest, changed.headers) == (put.nuid, put.digest, {"H": ["1"]})
    assert (changed.description, changed.metadata) == ("new", {"k": "w"})
    assert (await bucket.info("a")).metadata == {"k": "w"}
    assert await bucket.get_bytes("a") == MANY


async def test_an_update_of_nothing_is_not_found(bucket: Bucket):
    with pytest.raises(ObjectNotFoundError):
        await bucket.update_meta("a", description="x")
    with pytest.raises(RevisionError):
        await bucket.update_meta("a", description="x", expected_revision=5)


async def test_an_unconditional_change_is_made_to_what_a_faster_writer_has_left(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    await bucket.put_bytes("a", b"1")
    raced = race_once(monkeypatch, bucket, lambda: bucket.put_bytes("a", b"22"))
    changed = await bucket.update_meta("a", description="x")

    assert raced() == 1
    assert (changed.size, changed.description) == (2, "x")
    assert await bucket.get_bytes("a") == b"22"


# -- delete


async def test_a_delete_leaves_a_marker_with_a_nuid_of_its_own_and_no_chunks(bucket: Bucket, stock: Stock):
    put = await bucket.put_bytes("a", MANY)
    deleted = await bucket.delete("a", expected_revision=put.revision)
    marker = await bucket.info("a", show_deleted=True)

    assert (deleted.nuid, deleted.chunks, deleted.purged) == (put.nuid, 4, True)
    assert (marker.deleted, marker.revision, marker.size) == (True, deleted.revision, 0)
    assert marker.nuid not in ("", put.nuid)
    assert stock.chunks(bucket.name) == {}
    with pytest.raises(ObjectNotFoundError):
        await bucket.info("a")
    with pytest.raises(ObjectNotFoundError):
        await bucket.delete("a")


async def test_a_delete_can_leave_the_chunks_for_later(bucket: Bucket):
    put = await bucket.put_bytes("a", MANY)
    deleted = await bucket.delete("a", known=put, purge=False)

    assert not deleted.purged
    assert await bucket.chunk_subjects() == {put.nuid: 4}
    assert await bucket.purge_chunks(put.nuid) == 4


async def test_an_object_whose_meta_is_broken_can_be_deleted_and_put_again(bucket: Bucket, stock: Stock):
    stock.publish_meta(bucket.name, "a", b"{")
    with pytest.raises(BadMetaError, match="delete it"):
        await bucket.info("a")
    with pytest.raises(RevisionError):
        await bucket.delete("a", expected_revision=99_999)
    deleted = await bucket.delete("a")
    await bucket.put_bytes("a", b"1", expected_revision=deleted.revision)

    assert await bucket.get_bytes("a") == b"1"


async def test_a_delete_deletes_what_a_faster_writer_has_put_and_purges_that(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    await bucket.put_bytes("a", b"1")
    raced = race_once(monkeypatch, bucket, lambda: bucket.put_bytes("a", MANY))
    deleted = await bucket.delete("a")

    assert raced() == 1
    assert deleted.chunks == 4
    assert await bucket.chunk_subjects() == {}


# -- chunks


async def test_chunks_are_counted_listed_over_pages_and_purged_up_to_a_sequence(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    put = [await bucket.put_bytes(f"n{number}", MANY) for number in range(3)]
    assert await bucket.chunk_count(put[0].nuid) == 4
    assert await bucket.chunk_count("nothing") == 0
    assert await bucket.chunk_subjects() == {info.nuid: 4 for info in put}

    real = chunks._subjects

    async def one_to_a_page(at: Bucket, pattern: str, *, offset: int) -> tuple[dict[str, int], int]:
        found, total = await real(at, pattern, offset=0)
        return dict(sorted(found.items())[offset : offset + 1]), total

    monkeypatch.setattr(chunks, "_subjects", one_to_a_page)
    assert await bucket.chunk_subjects() == {info.nuid: 4 for info in put}
    monkeypatch.undo()

    last = await bucket.last_chunk(put[1].nuid)
    assert last is not None
    assert last.data == MANY[3 * 131072 :]
    assert last.time_ns > 0
    assert await bucket.last_chunk("nothing") is None
    assert await bucket.purge_chunks(put[1].nuid, up_to=last.revision - 1) == 3
    assert await bucket.chunk_count(put[1].nuid) == 1
    assert await bucket.purge_chunks("nothing") == 0
    assert await bucket.chunk_count(put[2].nuid) == 4


@pytest.mark.parametrize("nuid", [">", "*", "", "a.b"])
async def test_a_purge_by_a_pattern_is_refused(bucket: Bucket, nuid: str):
    put = await bucket.put_bytes("a", b"1")
    for attempt in (bucket.purge_chunks(nuid), bucket.chunk_count(nuid)):
        with pytest.raises(BadMetaError):
            await attempt

    assert await bucket.chunk_count(put.nuid) == 1


# -- outcomes


@pytest.fixture
async def silent(buckets: Buckets, stock: Stock, bucket_name: str) -> Bucket:
    """A bucket whose stream gives no acks: each commit times out, whatever became of it."""
    stock.create(bucket_name)
    bucket = await buckets.bind(bucket_name)
    await buckets.connection.api(f"STREAM.UPDATE.{bucket.stream}", {**bucket.config, "no_ack": True})
    return bucket


async def test_a_commit_without_an_answer_is_a_success_when_the_leader_has_it(silent: Bucket):
    done = await commit(silent, link_to_nothing(silent, "a"), expected_revision=0, timeout=0.5)

    assert done.revision == (await silent.info("a")).revision
    assert done.time_ns > 0


async def test_a_commit_without_an_answer_that_the_leader_does_not_have_is_unknown(silent: Bucket):
    first = await commit(silent, link_to_nothing(silent, "a"), expected_revision=0, timeout=0.5)
    for name, revision in (("a", 0), ("b", 9999)):
        with pytest.raises(UnknownOutcomeError):
            await commit(silent, link_to_nothing(silent, name), expected_revision=revision, timeout=0.5)

    assert (await silent.info("a")).nuid == first.nuid


async def test_an_ack_of_another_stream_is_never_taken_for_ours(bucket: Bucket):
    other = f"OTHER_{bucket.name}"
    bucket.stream, stream = other, bucket.stream
    with pytest.raises(BucketError, match="two domains"):
        await commit(bucket, link_to_nothing(bucket, "a"))
    bucket.stream = stream

    assert (await newest(bucket, meta_subject(bucket.name, "a"))).revision > 0


async def test_a_commit_while_disconnected_is_a_definite_refusal(fresh_server: NatsServer):
    async with await Connection.open(Endpoint([fresh_server.url]), name="test") as connection:
        bucket = await Buckets(connection).create("b")
        await asyncio.to_thread(fresh_server.kill)
        await until(lambda: not connection.connected)
        with pytest.raises(NotSentError) as caught:
            await commit(bucket, link_to_nothing(bucket, "a"))
        assert refused(caught.value)


def race_once(monkeypatch: pytest.MonkeyPatch, bucket: Bucket, other: Any) -> Any:
    """Another writer comes between our next read of a meta and our write. Returns how often that has happened."""
    real = newest
    times = 0

    async def read_then_race(*args: Any, **kwargs: Any) -> Any:
        nonlocal times
        found = await real(*args, **kwargs)
        if not times:
            times += 1
            await other()
        return found

    monkeypatch.setattr("agent.objectstore.objects.newest", read_then_race)
    return lambda: times
