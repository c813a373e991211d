"""All chunks of a bucket, page by page; what the chunks of a nuid are; a purge that takes no more than was seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.config.model import Nats
from agent.errors import BadMetaError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, new_nuid
from agent.objectstore import chunks as module
from agent.objectstore.orphans import ChunkPages, Orphan, measure, purge, server_time_ns
from agent.objectstore.subjects import chunk_subject
from tests.support.server import NatsServer


@pytest.fixture
async def bucket(any_server: NatsServer, bucket_name: str) -> AsyncIterator[Bucket]:
    async with await Connection.open(Nats(servers=(any_server.url,)), name="test") as connection:
        yield await Buckets(connection).create(bucket_name, BucketSpec())


async def chunks(bucket: Bucket, *data: bytes) -> str:
    nuid = new_nuid()
    for one in data:
        await bucket.connection.request(chunk_subject(bucket.name, nuid), one)
    return nuid


async def all_pages(pages: ChunkPages) -> list[dict[str, int]]:
    found = []
    while (page := await pages.next()) is not None:
        found.append(page)
    return found


async def test_chunks_are_counted_measured_and_dated_by_the_server(bucket: Bucket):
    nuid = await chunks(bucket, b"x" * 1000, b"x" * 1000, b"x" * 7)
    alone = await chunks(bucket, b"y" * 5)

    assert await all_pages(ChunkPages(bucket)) == [{nuid: 3, alone: 1}]
    found = await measure(bucket, nuid, 3)
    assert found is not None
    assert (found.nuid, found.chunks, found.bytes) == (nuid, 3, 2007)
    assert abs(found.last_time_ns - time.time_ns()) < 60 * 10**9
    assert found.last_time_ns <= await server_time_ns(bucket)
    one = await measure(bucket, alone, 1)
    assert one is not None
    assert one.bytes == 5


async def test_an_empty_bucket_has_no_pages(bucket: Bucket):
    assert await all_pages(ChunkPages(bucket)) == []
    assert await measure(bucket, new_nuid(), 1) is None


async def test_a_purge_leaves_what_came_after_the_look_and_every_other_nuid(bucket: Bucket):
    nuid = await chunks(bucket, b"1", b"2")
    other = await chunks(bucket, b"other")
    found = await measure(bucket, nuid, 2)
    assert found is not None
    await bucket.connection.request(chunk_subject(bucket.name, nuid), b"late")

    assert await purge(bucket, found) == 2
    assert await bucket.chunk_subjects() == {nuid: 1, other: 1}


@pytest.mark.parametrize("nuid", [">", "*", "a.>", "a b", "", "a.b"])
async def test_what_is_no_nuid_is_never_a_purge_filter(bucket: Bucket, nuid: str):
    await chunks(bucket, b"1")

    with pytest.raises(BadMetaError):
        await purge(bucket, Orphan(nuid, 1, 1, 1 << 40, 0))
    with pytest.raises(BadMetaError):
        await measure(bucket, nuid, 1)
    assert sum((await bucket.chunk_subjects()).values()) == 1


async def test_pages_go_on_behind_what_was_purged(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    """As a server with pages of ten would tell them."""
    nuids = {await chunks(bucket, b"x") for _ in range(35)}
    whole = module.page

    async def page(bucket: Bucket, *, offset: int) -> tuple[dict[str, int], int]:
        found, total = await whole(bucket, offset=0)
        return {nuid: found[nuid] for nuid in sorted(found)[offset : offset + 10]}, total

    monkeypatch.setattr(module, "page", page)
    pages = ChunkPages(bucket)
    met: list[str] = []
    while (found := await pages.next()) is not None:
        met += found
        gone = list(found)[::2]
        orphans = [await measure(bucket, nuid, 1) for nuid in gone]
        await asyncio.gather(*(purge(bucket, orphan) for orphan in orphans if orphan is not None))
        pages.purged(len(gone))

    assert len(met) == 35
    assert set(met) == nuids


async def test_more_nuids_than_a_page_of_the_server_has(fresh_server: NatsServer):
    """The server tells 100,000 subjects at a time."""
    async with await Connection.open(Nats(servers=(fresh_server.url,)), name="test") as connection:
        bucket = await Buckets(connection).create("many", BucketSpec(storage="memory"))
        nuids = [new_nuid() for _ in range(100_500)]
        requests: list[Any] = []
        for nuid in nuids:
            requests.append(bucket.connection.request(chunk_subject("many", nuid), b"x"))
            if len(requests) == 1000:
                await asyncio.gather(*requests)
                requests = []
        await asyncio.gather(*requests)

        pages = await all_pages(ChunkPages(bucket))

        assert [len(page) for page in pages] == [100_000, 500]
        assert {nuid for page in pages for nuid in page} == set(nuids)
