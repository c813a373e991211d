"""Listing and counting: whole, whatever is in the bucket, and nothing stays behind on the server."""

from __future__ import annotations

import asyncio

import pytest

from agent.objectstore import Bucket, MetaMessage
from tests.objectstore.waiting import until
from tests.support.server import NatsServer
from tests.support.stock import Stock


async def test_an_empty_bucket_has_an_empty_list(bucket: Bucket):
    assert await bucket.list() == []
    assert await bucket.list(show_deleted=True) == []
    assert await bucket.names_count() == 0


async def test_a_list_has_the_newest_of_each_name_in_the_order_of_revisions(bucket: Bucket):
    for name in ("a", "b", "c"):
        await bucket.put_bytes(name, b"1")
    await bucket.put_bytes("a", b"22")
    deleted = await bucket.delete("b")
    listed = await bucket.list()

    assert [(info.name, info.size) for info in listed] == [("c", 1), ("a", 2)]
    assert listed == [await bucket.info("c"), await bucket.info("a")]
    assert [(info.name, info.revision) for info in await bucket.list(show_deleted=True)][-1] == ("b", deleted.revision)
    assert await bucket.names_count() == 3


async def test_metas_are_counted_without_looking_for_the_newest_of_each_name(bucket: Bucket, stock: Stock):
    for name in ("a", "b"):
        await bucket.put_bytes(name, b"1")
    await bucket.put_bytes("a", b"22")
    await bucket.delete("b")
    assert await bucket.metas_count() == await bucket.names_count() == 2
    stock.publish_meta(bucket.name, "a", b"{}", rollup=False)

    assert (await bucket.metas_count(), await bucket.names_count()) == (3, 2)


async def test_who_has_followed_to_the_newest_meta_is_told_so_whatever_chunks_came_behind_it(
    bucket: Bucket, stock: Stock
):
    assert not await bucket.has_newer(0)
    await bucket.put_bytes("a", b"1")
    deleted = await bucket.delete("a", purge=False)
    stock.publish_chunk(bucket.name, "orphan", b"1")

    assert await bucket.has_newer(deleted.revision - 1)
    assert not await bucket.has_newer(deleted.revision)
    assert not await bucket.has_newer(deleted.revision + 1000)


async def test_a_bucket_with_nothing_but_markers_is_listed(bucket: Bucket):
    await bucket.put_bytes("a", b"1")
    await bucket.delete("a")

    assert await bucket.list() == []
    assert [info.deleted for info in await bucket.list(show_deleted=True)] == [True]


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"name":"other"}', b'{"name":"z","headers":{"A":"b"}}'])
async def test_a_bad_meta_is_reported_and_never_stops_the_list(bucket: Bucket, stock: Stock, broken: bytes):
    await bucket.put_bytes("a", b"1")
    revision = stock.publish_meta(bucket.name, "z", broken)
    bad: list[MetaMessage] = []
    listed = await bucket.list(on_bad=bad.append)

    assert [info.name for info in listed] == ["a"]
    assert [(message.name, message.revision) for message in bad] == [("z", revision)]
    assert await bucket.names_count() == 2


async def test_thousands_of_names_are_listed_while_others_write(bucket: Bucket, stock: Stock):
    async def put(number: int) -> None:
        await bucket.put_bytes(f"n{number}", b"1")

    for start in range(0, 1500, 250):
        await asyncio.gather(*(put(number) for number in range(start, start + 250)))
    listing = asyncio.create_task(bucket.list())
    await asyncio.gather(*(bucket.delete(f"n{number}") for number in range(50)))
    names = {info.name for info in await listing}

    assert {f"n{number}" for number in range(50, 1500)} <= names
    assert await bucket.names_count() == 1500


async def test_no_consumer_stays_behind_not_even_of_a_cancelled_listing(bucket: Bucket, any_server: NatsServer):
    for number in range(20):
        await bucket.put_bytes(f"n{number}", b"1")
    await bucket.list()
    await bucket.names_count()
    for pause in (0, 0.0005, 0.001, 0.002, 0.005):
        for work in (bucket.list(), bucket.names_count()):
            task = asyncio.ensure_future(work)
            await asyncio.sleep(pause)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def none_is_left() -> bool:
        return (await bucket.connection.api(f"STREAM.INFO.{bucket.stream}"))["state"]["consumer_count"] == 0

    # A cancelled creation and its deletion may overtake each other in the server: then the threshold ends it.
    await until(none_is_left, seconds=45)
    assert await none_is_left()
