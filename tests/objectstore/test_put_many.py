"""Putting many small objects at once: each has the outcome that `put` would have given it, and leaves as little."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.errors import (
    JetsyncError,
    NotAllowedError,
    ObjectError,
    ObjectNameError,
    RevisionError,
    SealedError,
    StoreFullError,
    StoreUnavailableError,
    UnknownOutcomeError,
)
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Endpoint, SmallObject, new_nuid
from agent.objectstore.put_many import _Lot
from agent.objectstore.volley import Message, Volley
from agent.objectstore.window import ChunkWindow
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock

CHUNK = 131072


def small(
    name: str, data: bytes, *, revision: int = 0, nuid: str = "", metadata: dict[str, str] | None = None
) -> SmallObject:
    return SmallObject(name, data, hashlib.sha256(data).digest(), nuid or new_nuid(), revision, metadata or {})


def many(count: int, *, size: int = 100) -> list[SmallObject]:
    return [small(f"d/{number}", os.urandom(size)) for number in range(count)]


@asynccontextmanager
async def bucket_on(url: str, name: str) -> AsyncIterator[Bucket]:
    async with await Connection.open(Endpoint([url]), name="test") as connection:
        yield (await Buckets(connection).ensure(name, BucketSpec(), may_create=True)).bucket


def assert_whole(items: Sequence[SmallObject], results: Sequence[int | JetsyncError], stock: Stock, name: str) -> None:
    """What was told to be stored is stored whole; and nothing is stored that no name stands for, or may stand for."""
    metas, chunks = stock.metas(name), stock.chunks(name)
    unknown = set()
    for item, result in zip(items, results, strict=True):
        if isinstance(result, int):
            assert metas[item.name].revision == result
            assert metas[item.name].payload["nuid"] == item.nuid
        elif isinstance(result, StoreUnavailableError):
            unknown.add(item.nuid)
    named = {meta.payload["nuid"]: meta.payload["chunks"] for meta in metas.values() if meta.payload["chunks"]}
    assert {nuid: count for nuid, count in chunks.items() if nuid not in unknown} == {
        nuid: count for nuid, count in named.items() if nuid not in unknown
    }


async def test_what_is_put_is_what_the_stock_client_gets(bucket: Bucket, stock: Stock):
    items = [small(f"ü {size}", os.urandom(size)) for size in (0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK)]
    results = await bucket.put_many(items)

    assert stock.contents(bucket.name) == {item.name: item.data for item in items}
    assert_whole(items, results, stock, bucket.name)
    assert stock.chunks(bucket.name) == {item.nuid: -(-len(item.data) // CHUNK) for item in items if item.data}


async def test_the_metas_are_those_that_put_writes(bucket: Bucket, stock: Stock):
    texts = {"jetsync.mode": "644", 'a"\\\n\x00ü': '"\u2028\\', "empty": ""}
    many_, one = small("many", b"x", metadata=texts), small("one", b"x")
    await bucket.put_many([many_])
    await bucket.put("one", b"x", nuid=one.nuid, metadata=texts, description="")
    metas = stock.metas(bucket.name)
    stored = [metas["many"].payload, metas["one"].payload]

    assert list(stored[0]) == list(stored[1])
    different = {key for key in stored[0] if stored[0][key] != stored[1][key]}
    assert different == {"name", "nuid"}


async def test_each_object_has_an_outcome_of_its_own(bucket: Bucket, stock: Stock):
    there = await bucket.put("there", b"old", purge_old=False)
    items = [
        small("new", b"1"),
        small("there", b"2", revision=there.revision),
        small("there", b"3"),
        small("", b"4"),
        small("bad nuid", b"5", nuid="a.b"),
        small("other", b"6", revision=there.revision),
        small("last", b"7"),
    ]
    results = await bucket.put_many(items)

    assert [type(result) for result in results] == [
        int, int, RevisionError, ObjectNameError, ObjectError, RevisionError, int,
    ]  # fmt: skip
    assert isinstance(results[2], RevisionError)
    assert results[2].actual == results[1]
    assert stock.contents(bucket.name) == {"new": b"1", "there": b"2", "last": b"7"}
    assert set(stock.chunks(bucket.name)) == {there.nuid, items[0].nuid, items[1].nuid, items[6].nuid}


async def test_a_full_bucket_says_so_for_each_that_finds_no_room(buckets: Buckets, bucket_name: str, stock: Stock):
    bucket = await buckets.create(bucket_name, BucketSpec(max_bytes=300_000))
    items = many(8, size=60_000)
    results = await bucket.put_many(items)

    assert any(isinstance(result, int) for result in results)
    assert any(isinstance(result, StoreFullError) for result in results)
    assert_whole(items, results, stock, bucket.name)


async def test_a_bucket_that_was_sealed_meanwhile_takes_nothing(bucket: Bucket, buckets: Buckets, stock: Stock):
    await (await buckets.bind(bucket.name)).seal()
    results = await bucket.put_many(many(3))

    assert [type(result) for result in results] == [SealedError] * 3
    assert stock.metas(bucket.name) == {}


async def test_a_missing_permission_is_told_soon(make_server: Callable[..., NatsServer], bucket_name: str):
    server = make_server(
        config_extra="""
        accounts { A { jetstream: enabled, users: [
            {user: all, password: p},
            {user: reader, password: p, permissions: {publish: {deny: "$O.>"}}} ] } }"""
    )
    async with await Connection.open(
        Endpoint([server.url], user="all"), name="t", user="all", password="p"
    ) as connection:
        await Buckets(connection).create(bucket_name, BucketSpec())
    async with await Connection.open(Endpoint([server.url]), name="t", user="reader", password="p") as connection:
        bucket = await Buckets(connection).bind(bucket_name)
        async with asyncio.timeout(5):
            results = await bucket.put_many(many(3))
    assert [type(result) for result in results] == [NotAllowedError] * 3


async def test_cancelling_at_every_turn_of_the_loop_leaves_no_orphans(bucket: Bucket, stock: Stock):
    for turns in [*range(12), *range(12, 60, 4)]:
        items = [small(f"{turns}/{number}", secrets.token_bytes(10)) for number in range(4)]
        task = asyncio.create_task(bucket.put_many(items))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
    metas = stock.metas(bucket.name)

    assert stock.chunks(bucket.name) == {meta.payload["nuid"]: 1 for meta in metas.values()}
    assert bucket.connection.publisher.budget.free == bucket.connection.publisher.budget.size


async def test_a_cancelled_lot_waits_for_its_metas_first(bucket: Bucket, stock: Stock, monkeypatch: pytest.MonkeyPatch):
    items = many(5)
    send_metas = _Lot._send_metas

    async def then_cancel(lot: _Lot, stored: list[int]) -> Volley | None:
        volley = await send_metas(lot, stored)
        task.cancel()
        return volley

    monkeypatch.setattr(_Lot, "_send_metas", then_cancel)
    task = asyncio.create_task(bucket.put_many(items))
    with pytest.raises(asyncio.CancelledError):
        await task

    assert stock.contents(bucket.name) == {item.name: item.data for item in items}


async def test_connections_cut_in_between_do_not_damage_anything(nats_server: NatsServer, bucket_name: str):
    items = many(300, size=5000)
    with Proxy(nats_server.port) as proxy:
        async with bucket_on(proxy.url, bucket_name) as bucket:

            async def cut() -> None:
                for _ in range(4):
                    await asyncio.sleep(0.02)
                    proxy.cut()
                    await asyncio.sleep(0.2)
                    proxy.resume()
                    await asyncio.sleep(0.6)

            proxy.throttle(2_000_000)
            cutting = asyncio.create_task(cut())
            results = []
            for at in range(0, len(items), 100):
                results += await bucket.put_many(items[at : at + 100])
            await cutting
            assert bucket.connection.reconnects
    with Stock(nats_server.url) as stock:
        assert_whole(items, results, stock, bucket_name)
        assert sum(isinstance(result, int) for result in results) > 0
        contents = {item.name: item.data for item in items}
        assert stock.contents(bucket_name).items() <= contents.items()


async def test_chunks_that_the_server_drops_are_sent_again(
    make_server: Callable[..., NatsServer], bucket_name: str, monkeypatch: pytest.MonkeyPatch
):
    """A queue of 4 messages for 200 in a hurry: 429 for many (PROTOCOL 3g)."""
    doubts: list[str] = []
    recover = ChunkWindow._recover

    async def noted(self: ChunkWindow, cause: StoreUnavailableError) -> None:
        doubts.append(cause.message)
        await recover(self, cause)

    monkeypatch.setattr(ChunkWindow, "_recover", noted)
    server = make_server()
    server.stop()
    store = server.store_dir / "jetstream"
    server.jetstream = False
    server.config_extra = f'jetstream {{ store_dir: "{store}", max_buffered_size: 1M, max_buffered_msgs: 4 }}'
    server.start()
    items = many(200, size=20_000)
    async with bucket_on(server.url, bucket_name) as bucket:
        results = await bucket.put_many(items)
        stored = [item for item, result in zip(items, results, strict=True) if isinstance(result, int)]
        assert all(isinstance(result, int | StoreUnavailableError) for result in results)
        with Stock(server.url) as stock:
            assert_whole(items, results, stock, bucket_name)
            assert stock.contents(bucket_name) == {item.name: item.data for item in stored}
    assert any("10167" in cause for cause in doubts)


async def test_metas_of_unknown_outcome_are_not_purged(
    make_server: Callable[..., NatsServer], bucket_name: str, monkeypatch: pytest.MonkeyPatch
):
    server = make_server()
    items = many(3)
    send_metas = _Lot._send_metas

    def restart() -> None:
        server.kill()
        server.start()

    async def into_the_void(lot: _Lot, stored: list[int]) -> Volley | None:
        server.pause()
        asyncio.get_running_loop().call_later(0.3, restart)
        return await send_metas(lot, stored)

    async with bucket_on(server.url, bucket_name) as bucket:
        monkeypatch.setattr(_Lot, "_send_metas", into_the_void)
        results = await bucket.put_many(items)

        assert [type(result) for result in results] == [UnknownOutcomeError] * 3
        assert [await bucket.chunk_count(item.nuid) for item in items] == [1, 1, 1]
        assert await bucket.list() == []


async def test_metas_whose_answers_were_lost_are_found_where_they_are(
    nats_server: NatsServer, bucket_name: str, monkeypatch: pytest.MonkeyPatch
):
    items = many(3)
    with Proxy(nats_server.port) as proxy:
        async with bucket_on(proxy.url, bucket_name) as bucket:
            publisher = bucket.connection.publisher
            send_many = publisher.send_many

            def nothing(_message: object) -> None:
                pass

            def lose_the_answers(messages: Sequence[Message], **options: Any) -> Volley:
                volley = send_many(messages, **options)
                if ".M." in messages[0][0]:
                    real, publisher.set_result = publisher.set_result, nothing  # type: ignore[assignment, method-assign]

                    def cut() -> None:
                        proxy.cut()
                        publisher.set_result = real  # type: ignore[method-assign]
                        asyncio.get_running_loop().call_later(0.1, proxy.resume)

                    asyncio.get_running_loop().call_later(0.3, cut)
                return volley

            monkeypatch.setattr(publisher, "send_many", lose_the_answers)
            results = await bucket.put_many(items)
    with Stock(nats_server.url) as stock:
        assert all(isinstance(result, int) for result in results)
        assert_whole(items, results, stock, bucket_name)


async def test_a_lot_that_is_too_much_at_once_is_sent_in_parts(bucket: Bucket, stock: Stock):
    publisher = bucket.connection.publisher
    publisher.window = 10_000
    items = many(40, size=1000)
    results = await bucket.put_many(items)

    assert_whole(items, results, stock, bucket.name)
    assert all(isinstance(result, int) for result in results)
    assert publisher.window > 10_000  # it went well
    assert publisher.budget.free == publisher.budget.size
