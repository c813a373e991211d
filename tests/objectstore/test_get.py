"""Getting: every byte as the meta promises, or an error that names what happened; never a wait without an end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import (
    ChunksError,
    DigestError,
    LinkError,
    ObjectNotFoundError,
    RevisionError,
    StoreUnavailableError,
)
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Endpoint
from agent.objectstore.get import Reader
from tests.objectstore.waiting import until
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock


@pytest.mark.parametrize("size", [0, 1, 131072, 131073, 1_000_003])
async def test_what_the_stock_client_puts_is_got(bucket: Bucket, stock: Stock, size: int):
    data = os.urandom(size)
    stock.put(bucket.name, "a", data)

    assert await bucket.get_bytes("a") == data


async def test_ragged_chunks_are_read_as_they_are(bucket: Bucket, stock: Stock):
    """The Go client stores one message for each read of its source (PROTOCOL 1)."""
    pieces = [os.urandom(size) for size in (1, 70_000, 3, 131_072, 9) * 60]
    nuid = put_chunks(stock, bucket.name, pieces)
    stock.publish_meta(bucket.name, "a", meta(bucket.name, "a", nuid, pieces))

    async with bucket.get("a") as reader:
        blocks = [block async for block in reader]
    assert blocks == pieces


async def test_chunks_between_those_of_others_are_read_in_order(bucket: Bucket):
    sources = {f"o{number}": os.urandom(2_500_000) for number in range(6)}
    await asyncio.gather(*(bucket.put(name, data, chunk_size=10_000) for name, data in sources.items()))

    for name, data in sources.items():
        assert await bucket.get_bytes(name) == data


async def test_an_object_that_is_not_there_is_not_found(bucket: Bucket):
    for name in ("never", "deleted"):
        if name == "deleted":
            await bucket.put(name, b"x")
            await bucket.delete(name)
        with pytest.raises(ObjectNotFoundError):
            async with bucket.get(name):
                pass
    with pytest.raises(ObjectNotFoundError):
        async with bucket.get(await bucket.info("deleted", show_deleted=True)):
            pass


@pytest.mark.parametrize("chunks", [1, 2, 5])
async def test_bytes_that_were_changed_are_found_out(bucket: Bucket, stock: Stock, chunks: int):
    pieces = [bytes([number]) * 100 for number in range(chunks)]
    nuid = put_chunks(stock, bucket.name, [*pieces[:-1], b"?" * 100])
    stock.publish_meta(bucket.name, "a", meta(bucket.name, "a", nuid, pieces))

    with pytest.raises(DigestError):
        await bucket.get_bytes("a")


@pytest.mark.parametrize("keep", [0, 1, 2])
async def test_missing_chunks_are_an_error_and_not_a_wait(bucket: Bucket, stock: Stock, keep: int):
    pieces = [bytes([number]) * 1000 for number in range(3)]
    nuid = put_chunks(stock, bucket.name, pieces[:keep])
    stock.publish_meta(bucket.name, "a", meta(bucket.name, "a", nuid, pieces))

    async with asyncio.timeout(10):
        with pytest.raises(ChunksError, match=f"has {keep} chunks"):
            await bucket.get_bytes("a")


async def test_the_missing_chunk_of_a_small_object_is_an_error(bucket: Bucket, stock: Stock):
    info = await bucket.put("a", b"small")
    stock.purge(bucket.name, info.nuid)

    with pytest.raises(ChunksError):
        await bucket.get_bytes("a")


@pytest.mark.parametrize(
    "lie",
    [
        {"size": 299},
        {"size": 301},
        {"size": 1 << 60},
        {"chunks": 2},
        {"chunks": 1},
        {"chunks": 4},
        {"chunks": 300},
        {"size": 1 << 62, "chunks": 1 << 31},
        {"size": 5, "chunks": 1},
        {"options": {"max_chunk_size": 1 << 31}, "size": 299},
        {"options": {"max_chunk_size": 1}, "size": 299},
    ],
    ids=str,
)
async def test_a_meta_that_lies_is_told(bucket: Bucket, stock: Stock, lie: dict[str, object]):
    pieces = [b"a" * 100, b"b" * 100, b"c" * 100]
    nuid = put_chunks(stock, bucket.name, pieces)
    stock.publish_meta(bucket.name, "a", meta(bucket.name, "a", nuid, pieces) | lie)

    with pytest.raises((ChunksError, DigestError)):
        await bucket.get_bytes("a")


@pytest.mark.parametrize("chunk_size", [1, 1 << 31])
async def test_a_wrong_chunk_size_in_the_meta_does_no_harm(bucket: Bucket, stock: Stock, chunk_size: int):
    pieces = [os.urandom(100_000) for _ in range(50)]
    nuid = put_chunks(stock, bucket.name, pieces)
    document = meta(bucket.name, "a", nuid, pieces) | {"options": {"max_chunk_size": chunk_size}}
    stock.publish_meta(bucket.name, "a", document)

    assert await bucket.get_bytes("a") == b"".join(pieces)


async def test_an_object_without_a_digest_is_checked_by_size_and_count(bucket: Bucket, stock: Stock):
    pieces = [b"a" * 100, b"b" * 100]
    nuid = put_chunks(stock, bucket.name, pieces)
    document = meta(bucket.name, "a", nuid, pieces)
    del document["digest"]
    stock.publish_meta(bucket.name, "a", document)

    assert await bucket.get_bytes("a") == b"".join(pieces)


async def test_an_object_that_is_replaced_while_it_is_read_is_told(bucket: Bucket):
    await bucket.put("a", os.urandom(40 << 20))
    with pytest.raises(RevisionError, match="replaced"):
        async with bucket.get("a") as reader:
            async for _ in reader.groups():
                if (await bucket.info("a")).nuid == reader.info.nuid:
                    await bucket.put("a", b"new")


async def test_an_object_that_is_deleted_while_it_is_read_is_told(bucket: Bucket):
    await bucket.put("a", os.urandom(40 << 20))
    deleted = False
    with pytest.raises(ObjectNotFoundError):
        async with bucket.get("a") as reader:
            async for _ in reader.groups():
                if not deleted:
                    await bucket.delete("a")
                    deleted = True


async def test_a_version_whose_chunks_are_kept_is_read_to_its_end(bucket: Bucket):
    data = os.urandom(20 << 20)
    await bucket.put("a", data)
    parts: list[bytes] = []
    async with bucket.get("a") as reader:
        async for group in reader.groups():
            if not parts:
                await bucket.put("a", b"new", purge_old=False)
            parts += group
    assert b"".join(parts) == data


async def test_links_are_followed_unless_not_wanted(bucket: Bucket):
    info = await bucket.put("a", b"content")
    await bucket.add_link("link", info)

    assert await bucket.get_bytes("link") == b"content"
    async with bucket.get("link") as reader:
        assert reader.info.name == "a"
    with pytest.raises(LinkError):
        async with bucket.get("link", follow_links=False):
            pass


async def test_a_reader_without_verification_still_counts(bucket: Bucket, stock: Stock):
    pieces = [b"a" * 100, b"b" * 100]
    nuid = put_chunks(stock, bucket.name, [b"a" * 100, b"?" * 100])
    stock.publish_meta(bucket.name, "a", meta(bucket.name, "a", nuid, pieces))
    async with bucket.get("a", verify=False) as reader:
        assert await reader.read() == b"a" * 100 + b"?" * 100


async def test_a_slow_reader_is_not_flooded(bucket: Bucket):
    data = os.urandom(48 << 20)
    await bucket.put("a", data)
    publisher = bucket.connection.publisher
    digest = hashlib.sha256()
    client = bucket.connection._client
    assert client is not None
    async with bucket.get("a") as reader:
        first = True
        async for group in reader.groups():
            if first:
                await asyncio.sleep(1.0)
                first = False
                received = client.stats["in_bytes"]
                await asyncio.sleep(0.5)
                assert client.stats["in_bytes"] == received
            for block in group:
                digest.update(block)
    assert digest.digest() == hashlib.sha256(data).digest()
    assert publisher.receive_budget.free == publisher.receive_budget.size


async def test_breaking_off_gives_everything_back(bucket: Bucket, any_server: NatsServer):
    await bucket.put("a", os.urandom(20 << 20))
    for _ in range(3):
        async with bucket.get("a") as reader:
            async for _ in reader:
                break
    publisher = bucket.connection.publisher
    assert publisher.receive_budget.free == publisher.receive_budget.size
    await until(lambda: not consumers_of(any_server, bucket), 60)  # one whose deletion was lost: 30 s


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_restarted_server_does_not_damage_a_get(
    make_server: Callable[..., NatsServer], bucket_name: str, how: str
):
    server = make_server()
    data = os.urandom(64 << 20)
    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
        await bucket.put("a", data)
        parts: list[bytes] = []
        async with bucket.get("a") as reader:
            async for group in reader.groups():
                if not parts:
                    server.restart(kill=how == "kill")
                parts += group
        assert b"".join(parts) == data


async def test_cut_connections_do_not_damage_a_get(any_server: NatsServer, bucket: Bucket):
    data = os.urandom(48 << 20)
    await bucket.put("a", data)
    with Proxy(any_server.port) as proxy:
        async with await Connection.open(Endpoint([proxy.url]), name="test") as connection:
            there = await Buckets(connection).bind(bucket.name)
            parts: list[bytes] = []
            cuts = 0
            async with there.get("a") as reader:
                async for group in reader.groups():
                    parts += group
                    if cuts < 3 and sum(map(len, parts)) > (10 << 20) * (cuts + 1):
                        cuts += 1
                        proxy.cut()
                        asyncio.get_running_loop().call_later(0.2, proxy.resume)
            assert cuts == 3
            assert b"".join(parts) == data


async def test_a_network_that_swallows_everything_ends_a_get(any_server: NatsServer, bucket: Bucket):
    await bucket.put("a", os.urandom(30 << 20))
    with Proxy(any_server.port) as proxy:
        async with await Connection.open(Endpoint([proxy.url]), name="test") as connection:
            there = await Buckets(connection).bind(bucket.name)
            with pytest.raises(StoreUnavailableError):
                async with Reader(there, "a", idle=0.5, patience=2.0) as reader:
                    async for _ in reader.groups():
                        proxy.hold()
            proxy.resume()


async def test_a_direct_get_that_finds_nothing_is_not_believed(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    """Mirrors of any name and lagging replicas answer direct gets too: here, an empty bucket does."""
    small, large = await bucket.put("small", b"small"), os.urandom(3 << 20)
    await bucket.put("large", large)
    other = f"{bucket.name}-other"
    await Buckets(bucket.connection).create(other, BucketSpec())
    monkeypatch.setattr(bucket.connection, "direct_subject", lambda stream: f"$JS.API.DIRECT.GET.OBJ_{other}")

    assert await bucket.get_bytes(small) == b"small"
    assert await bucket.get_bytes("large") == large


async def test_100_concurrent_downloads_leave_no_consumers(bucket: Bucket, any_server: NatsServer):
    data = os.urandom(1 << 20)
    await bucket.put("a", data)

    async def get(number: int) -> bytes:
        async with asyncio.timeout(0.05 if number % 4 == 0 else None):
            return await bucket.get_bytes("a")

    results = await asyncio.gather(*(get(number) for number in range(100)), return_exceptions=True)
    assert sum(result == data for result in results) >= 75
    assert all(result == data or isinstance(result, TimeoutError) for result in results)
    await until(lambda: not consumers_of(any_server, bucket), 60)  # one whose deletion was lost: 30 s


async def test_get_file_is_whole_or_absent(bucket: Bucket, stock: Stock, tmp_path: Path):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    await bucket.put("a", os.urandom(500_000))
    await bucket.get_file("a", target)
    assert target.read_bytes() == await bucket.get_bytes("a")

    pieces = [b"a" * 100, b"b" * 100]
    nuid = put_chunks(stock, bucket.name, [b"a" * 100, b"?" * 100])
    stock.publish_meta(bucket.name, "a", meta(bucket.name, "a", nuid, pieces))
    before = target.read_bytes()
    with pytest.raises(DigestError):
        await bucket.get_file("a", target)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


async def test_bytes_strings_and_files_go_up_and_down(bucket: Bucket, tmp_path: Path):
    (tmp_path / "f").write_bytes(b"file")
    await bucket.put_bytes("b", b"bytes")
    await bucket.put_string("s", "ünï")
    info = await bucket.put_file(tmp_path / "f", "f", metadata={"k": "v"})

    assert await bucket.get_bytes("b") == b"bytes"
    assert await bucket.get_string("s") == "ünï"
    assert (await bucket.get_file("f", tmp_path / "g")).nuid == info.nuid
    assert (tmp_path / "g").read_bytes() == b"file"
    assert (await bucket.info("f")).metadata == {"k": "v"}


def put_chunks(stock: Stock, bucket: str, pieces: list[bytes]) -> str:
    nuid = os.urandom(11).hex()

    async def publish() -> None:
        for piece in pieces:
            await stock.js.publish(f"$O.{bucket}.C.{nuid}", piece)

    stock.wait(publish())
    return nuid


def meta(bucket: str, name: str, nuid: str, pieces: list[bytes]) -> dict[str, object]:
    data = b"".join(pieces)
    return {
        "name": name,
        "bucket": bucket,
        "nuid": nuid,
        "size": len(data),
        "chunks": len(pieces),
        "digest": "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode(),
        "mtime": "0001-01-01T00:00:00Z",
        "options": {"max_chunk_size": 131072},
    }


def consumers_of(server: NatsServer, bucket: Bucket) -> set[tuple[str, str]]:
    return {consumer for consumer in server.consumers() if consumer[0] == bucket.stream}
