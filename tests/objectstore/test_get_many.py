"""Getting many small objects at once: each has the outcome that a reader would have given it."""

from __future__ import annotations

import asyncio
import os

import pytest

from agent.errors import ChunksError, ObjectNotFoundError, RevisionError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Endpoint, ObjectInfo
from agent.objectstore.get import Reader
from agent.objectstore.volley import Volley
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock

CHUNK = 131072


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is read alone."""
    names: list[str] = []
    enter = Reader.__aenter__

    async def entered(reader: Reader) -> Reader:
        await enter(reader)
        names.append(reader.info.name)
        return reader

    monkeypatch.setattr(Reader, "__aenter__", entered)
    return names


async def put_some(bucket: Bucket, count: int) -> tuple[list[ObjectInfo], list[bytes]]:
    contents = [os.urandom(100 + number) for number in range(count)]
    infos = [await bucket.put(f"o{number}", data) for number, data in enumerate(contents)]
    return infos, contents


async def test_contents_of_all_sizes_come_in_order(bucket: Bucket, stock: Stock, readers: list[str]):
    sizes = (3 * CHUNK, 0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1)
    contents = [os.urandom(size) for size in sizes]
    for data in contents:
        stock.put(bucket.name, f"ü {len(data)}", data)
    infos = [await bucket.info(f"ü {size}") for size in sizes]

    assert await bucket.get_many(infos) == contents
    assert sorted(readers) == [f"ü {CHUNK + 1}", f"ü {3 * CHUNK}"]
    assert await bucket.get_many([]) == []


async def test_many_are_got_without_a_reader(bucket: Bucket, readers: list[str]):
    infos, contents = await put_some(bucket, 300)

    assert await bucket.get_many(infos) == contents
    assert readers == []


async def test_what_has_become_of_each_is_told(bucket: Bucket, stock: Stock):
    infos, contents = await put_some(bucket, 5)
    await bucket.delete("o1")
    await bucket.put("o2", b"new")
    stock.purge(bucket.name, infos[3].nuid)

    kept, deleted, replaced, damaged, other = await bucket.get_many(infos)

    assert [kept, other] == [contents[0], contents[4]]
    assert isinstance(deleted, ObjectNotFoundError)
    assert isinstance(replaced, RevisionError)
    assert isinstance(damaged, ChunksError)


async def test_a_chunk_of_another_size_than_the_meta_says_is_damage(bucket: Bucket):
    info = await bucket.put("a", b"content")
    longer, shorter = (
        ObjectInfo(bucket.name, "a", info.nuid, size, 1, info.digest, revision=info.revision) for size in (6, 8)
    )

    for result in await bucket.get_many([longer, shorter]):
        assert isinstance(result, ChunksError)


async def test_direct_gets_that_find_nothing_are_not_believed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, readers: list[str]
):
    """Mirrors of any name and lagging replicas answer direct gets too: here, an empty bucket does."""
    infos, contents = await put_some(bucket, 20)
    other = f"{bucket.name}-other"
    await Buckets(bucket.connection).create(other, BucketSpec())
    monkeypatch.setattr(bucket.connection, "direct_subject", lambda _: f"$JS.API.DIRECT.GET.OBJ_{other}")

    assert await bucket.get_many(infos) == contents
    assert len(readers) == 20


async def test_a_bucket_without_direct_gets_is_read_object_by_object(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, readers: list[str]
):
    infos, contents = await put_some(bucket, 20)
    monkeypatch.setattr(Bucket, "direct", False)

    assert await bucket.get_many(infos) == contents
    assert len(readers) == 20


async def test_a_connection_that_is_cut_damages_nothing(
    any_server: NatsServer, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, readers: list[str]
):
    infos, contents = await put_some(bucket, 50)
    with Proxy(any_server.port) as proxy:
        async with await Connection.open(Endpoint([proxy.url]), name="test") as connection:
            there = await Buckets(connection).bind(bucket.name)
            wait = Volley.wait

            async def cut(volley: Volley) -> object:
                proxy.cut()
                asyncio.get_running_loop().call_later(0.2, proxy.resume)
                return await wait(volley)

            monkeypatch.setattr(Volley, "wait", cut)
            assert await there.get_many(infos) == contents
    assert readers


async def test_a_lot_can_be_cancelled_while_it_is_waited_for(any_server: NatsServer, bucket: Bucket):
    infos, contents = await put_some(bucket, 10)
    with Proxy(any_server.port) as proxy:
        async with await Connection.open(Endpoint([proxy.url]), name="test") as connection:
            there = await Buckets(connection).bind(bucket.name)
            proxy.hold()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await there.get_many(infos)
            proxy.resume()
            assert await there.get_many(infos) == contents
