"""Uploads and downloads that go on: what is stored is believed only when it is the object's beginning."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from agent.errors import RevisionError, StoreUnavailableError
from agent.objectstore import Bucket, ObjectInfo, Position, Prefix, SpoiledError, new_nuid
from agent.objectstore.answers import header_block
from agent.objectstore.subjects import chunk_subject
from tests.support.stock import Stock

CHUNK = 64 << 10
CONTENT = os.urandom(9 << 20)  # over 8 MiB: its chunks have ids


async def store(bucket: Bucket, nuid: str, *indexes: int, size: int = CHUNK) -> None:
    for index in indexes:
        headers = header_block({"Nats-Msg-Id": f"{nuid}:{index}"})
        await bucket.connection.publisher.publish(
            chunk_subject(bucket.name, nuid), CONTENT[index * CHUNK : index * CHUNK + size], headers
        )


async def interrupted(bucket: Bucket, nuid: str, *, after: int) -> None:
    """An upload that is broken off when its source has given so many bytes."""

    async def source() -> AsyncIterator[bytes]:
        yield CONTENT[:after]
        await asyncio.sleep(0.5)  # what was sent is acked
        raise StoreUnavailableError("the server has gone")

    with pytest.raises(StoreUnavailableError):
        await bucket.put("name", source(), nuid=nuid, size=len(CONTENT), chunk_size=CHUNK, keep=True)


async def go_on(bucket: Bucket, nuid: str, *, expected_revision: int = 0) -> ObjectInfo:
    prefix = await bucket.stored_prefix(nuid, size=len(CONTENT))
    assert prefix is not None
    return await bucket.put(
        "name",
        CONTENT,
        nuid=nuid,
        size=len(CONTENT),
        chunk_size=CHUNK,
        expected_revision=expected_revision,
        keep=True,
        resume=prefix,
    )


async def test_an_interrupted_upload_goes_on_behind_what_is_stored(bucket: Bucket, stock: Stock) -> None:
    nuid = new_nuid()
    await interrupted(bucket, nuid, after=50 * CHUNK + 100)
    prefix = await bucket.stored_prefix(nuid, size=len(CONTENT))
    assert prefix is not None
    assert (prefix.chunks, prefix.size, prefix.chunk_size) == (50, 50 * CHUNK, CHUNK)
    before = (await bucket.status()).last_seq

    info = await go_on(bucket, nuid)

    assert (await bucket.status()).last_seq - before == len(CONTENT) // CHUNK - 50 + 1
    assert await bucket.get_bytes("name") == CONTENT
    assert await bucket.chunk_count(nuid) == info.chunks == len(CONTENT) // CHUNK
    assert stock.get(bucket.name, "name") == CONTENT
    assert not [consumer for consumer in stock.api(f"CONSUMER.LIST.OBJ_{bucket.name}")["consumers"]
                if "deliver_subject" not in consumer["config"]]  # fmt: skip


@pytest.mark.parametrize(
    "indexes",
    [(0, 1, 3), (1, 2), (0, 1, 1, 3), (0, 2, 1), (0, 0)],
    ids=["a gap", "no first", "one lost and one twice", "out of order", "twice"],
)
async def test_chunks_that_are_no_beginning_are_not_gone_on_with(bucket: Bucket, indexes: tuple[int, ...]) -> None:
    nuid = new_nuid()
    for number, index in enumerate(indexes):
        headers = header_block({"Nats-Msg-Id": f"{nuid}:{index}:{number}"})
        await bucket.connection.publisher.publish(chunk_subject(bucket.name, nuid), bytes(CHUNK), headers)

    assert await bucket.stored_prefix(nuid, size=len(CONTENT)) is None


async def test_sizes_must_be_those_of_one_cut(bucket: Bucket) -> None:
    ragged, without_ids, whole = new_nuid(), new_nuid(), new_nuid()
    await store(bucket, ragged, 0)
    await store(bucket, ragged, 1, size=10)
    await store(bucket, ragged, 2)
    await bucket.connection.publisher.publish(chunk_subject(bucket.name, without_ids), bytes(CHUNK))
    await store(bucket, whole, 0)
    await store(bucket, whole, 1, size=10)

    assert await bucket.stored_prefix(ragged, size=len(CONTENT)) is None
    assert await bucket.stored_prefix(without_ids, size=len(CONTENT)) is None
    assert await bucket.stored_prefix(whole, size=len(CONTENT)) is None
    prefix = await bucket.stored_prefix(whole, size=CHUNK + 10)
    assert prefix is not None
    assert prefix.size == CHUNK + 10
    assert await bucket.stored_prefix(new_nuid(), size=10) == Prefix()


async def test_a_chunk_that_comes_in_late_does_not_get_into_the_object(bucket: Bucket) -> None:
    nuid = new_nuid()
    await store(bucket, nuid, *range(20))
    prefix = await bucket.stored_prefix(nuid, size=len(CONTENT))
    assert prefix is not None
    await store(bucket, nuid, 20, 21)  # of the lost connection

    try:
        info = await bucket.put(
            "name", CONTENT, nuid=nuid, size=len(CONTENT), expected_revision=0, keep=True, resume=prefix
        )
    except SpoiledError:  # 2.9 loses sight of a subject's last message when those behind it are deleted
        assert bucket.server_version < (2, 10)
        info = await bucket.put("name", CONTENT, expected_revision=0)

    assert await bucket.get_bytes("name") == CONTENT
    assert await bucket.chunk_count(info.nuid) == info.chunks


async def test_an_earlier_attempt_that_had_succeeded_is_found_and_nothing_is_purged(bucket: Bucket) -> None:
    nuid = new_nuid()
    first = await bucket.put("name", CONTENT, nuid=nuid, chunk_size=CHUNK, expected_revision=0, keep=True)

    again = await go_on(bucket, nuid)

    assert again.revision == first.revision
    assert await bucket.get_bytes("name") == CONTENT


async def test_a_refusal_of_an_upload_that_went_on_purges_nothing(bucket: Bucket) -> None:
    nuid = new_nuid()
    await interrupted(bucket, nuid, after=50 * CHUNK)
    theirs = await bucket.put("name", b"theirs")

    with pytest.raises(RevisionError):
        await go_on(bucket, nuid)

    assert (await bucket.info("name")).revision == theirs.revision
    assert await bucket.chunk_count(nuid) == len(CONTENT) // CHUNK  # the journal's, who asks the metas first


async def test_the_first_attempt_of_an_upload_cleans_up_after_a_refusal(bucket: Bucket) -> None:
    nuid = new_nuid()
    await bucket.put("name", b"theirs")
    with pytest.raises(RevisionError):
        await bucket.put("name", CONTENT, nuid=nuid, expected_revision=0, keep=True)
    assert await bucket.chunk_count(nuid) == 0


async def test_a_cancelled_upload_stays_when_it_may_go_on(bucket: Bucket) -> None:
    nuid = new_nuid()
    sent = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield CONTENT[: 20 * CHUNK]
        sent.set()
        await asyncio.sleep(60)

    upload = asyncio.create_task(
        bucket.put("name", source(), nuid=nuid, size=len(CONTENT), chunk_size=CHUNK, expected_revision=0, keep=True)
    )
    await sent.wait()
    await asyncio.sleep(0.3)
    upload.cancel()
    await asyncio.wait([upload])

    await go_on(bucket, nuid)
    assert await bucket.get_bytes("name") == CONTENT


async def test_a_reader_goes_on_where_another_stood(bucket: Bucket) -> None:
    info = await bucket.put("name", CONTENT, chunk_size=CHUNK)
    await bucket.put("another", b"written in between")
    head = b""
    async with bucket.get(info) as reader, aclosing(reader.groups()) as groups:  # type: ignore[type-var]
        head = b"".join(await anext(groups))
        position = reader.position
    assert position.size == len(head)

    async with bucket.get(info, start=position) as reader:
        rest = await reader.read()

    assert head + rest == CONTENT


async def test_a_position_at_the_end_brings_nothing_more(bucket: Bucket) -> None:
    info = await bucket.put("name", CONTENT, chunk_size=CHUNK)
    last = await bucket.last_chunk(info.nuid)
    assert last is not None
    async with bucket.get(info, start=Position(info.chunks, info.size, last.revision)) as reader:
        assert await reader.read() == b""
    assert await bucket.get_bytes("name") == CONTENT
