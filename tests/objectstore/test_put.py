"""Putting: exact chunks, one visible whole or nothing, and what is left behind after each way to fail."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.errors import (
    ChunksError,
    DigestError,
    NotAllowedError,
    ObjectNotFoundError,
    RevisionError,
    SealedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    UnknownOutcomeError,
)
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Endpoint
from agent.objectstore.window import ChunkWindow
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock

CHUNK = 131072


async def stream(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block
        await asyncio.sleep(0)


@pytest.fixture
def doubts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why uploads had to look at what is stored: a test of that must see that it happened."""
    causes: list[str] = []
    recover = ChunkWindow._recover

    async def noted(self: ChunkWindow, cause: StoreUnavailableError) -> None:
        causes.append(cause.message)
        await recover(self, cause)

    monkeypatch.setattr(ChunkWindow, "_recover", noted)
    return causes


async def chunk_sizes(bucket: Bucket, nuid: str) -> list[int]:
    sizes: list[int] = []
    seq = 1
    while True:
        body = {"next_by_subj": f"$O.{bucket.name}.C.{nuid}", "seq": seq}
        answer = await bucket.connection.api_answer(f"STREAM.MSG.GET.{bucket.stream}", body)
        if "error" in answer:
            return sizes
        message = answer["message"]
        data = message.get("data", "")
        sizes.append(len(data) * 3 // 4 - data.count("="))
        seq = message["seq"] + 1


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 1_000_003])
async def test_what_is_put_is_what_the_stock_client_gets(bucket: Bucket, stock: Stock, size: int):
    data = os.urandom(size)
    info = await bucket.put("dir/ü file", data)

    assert stock.get(bucket.name, "dir/ü file") == data
    assert (info.size, info.chunks) == (size, -(-size // CHUNK))
    assert info.digest == hashlib.sha256(data).digest()
    assert (await bucket.info("dir/ü file")).revision == info.revision
    assert stock.chunks(bucket.name) == ({info.nuid: info.chunks} if size else {})


@pytest.mark.parametrize(
    "blocks",
    [[1] * 40, [10, 0, 30], [40], [7, 33], [9, 1, 30], [25, 15], [1, 38, 1]],
    ids=str,
)
async def test_blocks_of_any_size_become_exact_chunks(bucket: Bucket, stock: Stock, blocks: list[int]):
    data = os.urandom(sum(blocks))
    pieces = [data[sum(blocks[:i]) : sum(blocks[: i + 1])] for i in range(len(blocks))]
    info = await bucket.put("a", stream(*pieces), chunk_size=10)

    assert await chunk_sizes(bucket, info.nuid) == [10] * (sum(blocks) // 10)
    assert stock.get(bucket.name, "a") == data


async def test_files_paths_and_buffers_are_read_from_where_they_stand(bucket: Bucket, tmp_path: Path):
    data = os.urandom(3_000_001)
    path = tmp_path / "f"
    path.write_bytes(data)
    await bucket.put("path", path)
    with path.open("rb") as file:
        file.seek(5)
        await bucket.put("file", file)
        assert not file.closed
    await bucket.put("bytesio", io.BytesIO(data))
    await bucket.put("view", memoryview(bytearray(data)))
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb") as end:
        end.write(b"through a pipe")
        end.close()
        await bucket.put("pipe", pipe)

    assert await bucket.get_bytes("path") == data
    assert await bucket.get_bytes("file") == data[5:]
    assert await bucket.get_bytes("bytesio") == data
    assert await bucket.get_bytes("view") == data
    assert await bucket.get_bytes("pipe") == b"through a pipe"


async def test_64_mib_go_up_and_come_down(bucket: Bucket, stock: Stock, tmp_path: Path):
    path = tmp_path / "big"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(64):
            file.write(number.to_bytes(4) + block[4:])
    told: list[int] = []
    info = await bucket.put("big", path, on_progress=told.append)

    assert told == sorted(told)
    assert told[-1] == info.size == 64 << 20
    assert stock.chunks(bucket.name) == {info.nuid: info.chunks}
    await bucket.get_file("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


async def test_the_chunks_of_large_objects_tell_their_place(bucket: Bucket):
    info = await bucket.put("big", bytes(9 << 20))
    answer = await bucket.connection.api(
        f"STREAM.MSG.GET.{bucket.stream}", {"last_by_subj": f"$O.{bucket.name}.C.{info.nuid}"}
    )
    headers = base64.b64decode(answer["message"]["hdrs"]).decode()
    assert f"Nats-Msg-Id: {info.nuid}:{info.chunks - 1}\r\n" in headers


@pytest.mark.parametrize("given", [b"12345", b"1234567"])
async def test_a_source_of_another_size_than_told_leaves_nothing(bucket: Bucket, stock: Stock, given: bytes):
    with pytest.raises(ChunksError, match=r"of 6|its 6"):
        await bucket.put("a", stream(given), size=6, chunk_size=2)

    assert stock.metas(bucket.name) == {}
    assert stock.chunks(bucket.name) == {}


@pytest.mark.parametrize("source", [b"changed", b"changed" * 50_000])
async def test_a_source_of_another_digest_than_promised_leaves_nothing(bucket: Bucket, stock: Stock, source: bytes):
    with pytest.raises(DigestError):
        await bucket.put("a", source, digest=hashlib.sha256(b"as it was").digest())

    assert (stock.metas(bucket.name), stock.chunks(bucket.name)) == ({}, {})


async def test_a_source_that_fails_leaves_nothing(bucket: Bucket, stock: Stock):
    async def failing() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        raise OSError("the disk is on fire")

    with pytest.raises(OSError, match="on fire"):
        await bucket.put("a", failing())

    assert (stock.metas(bucket.name), stock.chunks(bucket.name)) == ({}, {})


async def test_exactly_one_of_many_writers_with_the_same_precondition_wins(bucket: Bucket, stock: Stock):
    first = await bucket.put("a", b"first", expected_revision=0)
    results = await asyncio.gather(
        *(bucket.put("a", b"%d" % n, expected_revision=first.revision) for n in range(20)), return_exceptions=True
    )
    winners = [result for result in results if not isinstance(result, BaseException)]

    assert len(winners) == 1
    assert all(isinstance(result, RevisionError) for result in results if result is not winners[0])
    assert (await bucket.info("a")).nuid == winners[0].nuid
    assert stock.chunks(bucket.name) == {winners[0].nuid: 1}


async def test_a_refused_write_tells_the_revision_that_is_there(bucket: Bucket):
    first = await bucket.put("a", b"first")
    for wrong in (0, first.revision + 7):
        with pytest.raises(RevisionError) as caught:
            await bucket.put("a", b"second", expected_revision=wrong)
        assert caught.value.actual == first.revision


async def test_the_old_chunks_go_unless_the_caller_wants_to_do_it(bucket: Bucket, stock: Stock):
    old = await bucket.put("a", b"old")
    new = await bucket.put("a", b"new", expected_revision=old.revision, purge_old=False)
    assert stock.chunks(bucket.name) == {old.nuid: 1, new.nuid: 1}

    last = await bucket.put("a", b"last")
    assert stock.chunks(bucket.name) == {old.nuid: 1, last.nuid: 1}


async def test_everything_about_the_object_is_in_its_meta(bucket: Bucket):
    await bucket.put("a", b"x", description="d", headers={"H": ["1", "2"]}, metadata={"jetsync.mode": "755"})
    info = await bucket.info("a")

    assert (info.description, info.headers, info.metadata) == ("d", {"H": ["1", "2"]}, {"jetsync.mode": "755"})
    assert info.max_chunk_size == CHUNK


async def test_chunk_sizes_that_the_server_does_not_take_are_refused_at_once(bucket: Bucket, stock: Stock):
    for size in (0, 1 << 20):
        with pytest.raises(StoreError, match="chunk size"):
            await bucket.put("a", b"x", chunk_size=size)
    assert stock.chunks(bucket.name) == {}


async def test_a_full_bucket_says_so_and_keeps_no_part(buckets: Buckets, bucket_name: str, stock: Stock):
    bucket = await buckets.create(bucket_name, BucketSpec(max_bytes=1 << 20))
    with pytest.raises(StoreFullError):
        await bucket.put("a", bytes(4 << 20))

    assert stock.chunks(bucket.name) == {}
    await bucket.put("a", b"small")


async def test_a_sealed_bucket_takes_nothing(buckets: Buckets, bucket_name: str):
    bucket = await buckets.create(bucket_name, BucketSpec())
    await bucket.seal()
    with pytest.raises(SealedError):
        await bucket.put("a", b"x")


async def test_a_bucket_that_was_sealed_meanwhile_takes_nothing(bucket: Bucket, buckets: Buckets, stock: Stock):
    await (await buckets.bind(bucket.name)).seal()
    with pytest.raises(SealedError):
        await bucket.put("a", bytes(500_000))
    assert stock.metas(bucket.name) == {}


@pytest.mark.parametrize("moment", [0.0, 0.002, 0.01, 0.03, 0.06])
async def test_a_cancelled_put_becomes_visible_or_leaves_nothing(bucket: Bucket, stock: Stock, moment: float):
    task = asyncio.create_task(bucket.put("a", bytes(16 << 20)))
    await asyncio.sleep(moment)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    else:
        assert "a" in stock.metas(bucket.name)  # it was faster
    assert_whole_or_nothing(bucket, stock)


async def test_cancelling_small_puts_at_every_turn_of_the_loop_leaves_no_orphans(bucket: Bucket, stock: Stock):
    for turns in range(40):
        task = asyncio.create_task(bucket.put("a", b"x%d" % turns, purge_old=False))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
    # Each version that became visible keeps its chunk (purge_old=False); what is cancelled otherwise keeps none.
    metas = stock.metas(bucket.name)
    nuids = stock.chunks(bucket.name)
    if metas:
        assert metas["a"].payload["nuid"] in nuids
        assert len(nuids) <= metas["a"].revision // 2
    else:
        assert nuids == {}


async def test_a_put_that_waits_for_its_meta_is_finished_before_the_cancellation(
    make_server: Callable[..., NatsServer], bucket_name: str
):
    server = make_server()
    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
        task = asyncio.create_task(bucket.put("a", chunk_then(server.pause), chunk_size=1000))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done()
        server.resume()
        with pytest.raises(asyncio.CancelledError):
            await task
        with Stock(server.url) as stock:
            assert_whole_or_nothing(bucket, stock)


async def chunk_then(act: Callable[[], None]) -> AsyncIterator[bytes]:
    """One chunk that is stored, then something happens before the meta."""
    yield bytes(1000)
    await asyncio.sleep(0.2)
    act()
    await asyncio.sleep(0.1)


async def test_a_lost_server_and_its_return_do_not_damage_a_put(
    make_server: Callable[..., NatsServer], bucket_name: str, doubts: list[str]
):
    server = make_server()
    data = os.urandom(24 << 20)

    async def with_an_accident() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 300_000):
            if start == 300_000 * 30:
                server.kill()
                asyncio.get_running_loop().call_later(0.5, server.start)
            yield data[start : start + 300_000]

    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
        info = await bucket.put("a", with_an_accident())
        with Stock(server.url) as stock:
            assert stock.chunks(bucket.name) == {info.nuid: info.chunks}
        assert await bucket.get_bytes("a") == data
    assert doubts


async def test_connections_cut_in_mid_put_do_not_damage_it(
    nats_server: NatsServer, bucket_name: str, doubts: list[str]
):
    data = os.urandom(12 << 20)
    with Proxy(nats_server.port) as proxy:

        async def with_accidents() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 100_000):
                if start in (1_000_000, 5_000_000, 11_000_000):
                    proxy.cut()
                    asyncio.get_running_loop().call_later(0.3, proxy.resume)
                yield data[start : start + 100_000]
                await asyncio.sleep(0.001)

        async with await Connection.open(Endpoint([proxy.url]), name="test") as connection:
            bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
            info = await bucket.put("a", with_accidents())
            assert await bucket.get_bytes("a") == data
    with Stock(nats_server.url) as stock:
        assert stock.get(bucket_name, "a") == data
        assert stock.chunks(bucket_name) == {info.nuid: info.chunks}
    assert len(doubts) >= 3


async def test_a_server_that_drops_chunks_gets_them_again_in_order(
    make_server: Callable[..., NatsServer], bucket_name: str, doubts: list[str]
):
    """A queue of 1 MB for 16 MB in a hurry: 429 for some chunks, while later ones are stored (PROTOCOL 3g)."""
    server = make_server()
    server.stop()
    server.config_extra = ""
    store = server.store_dir / "jetstream"
    server.jetstream = False
    server.config_extra = f'jetstream {{ store_dir: "{store}", max_buffered_size: 1M, max_buffered_msgs: 4 }}'
    server.start()
    data = os.urandom(16 << 20)
    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
        await bucket.put("a", stream(data))
        assert await bucket.get_bytes("a") == data
    assert any("10167" in cause for cause in doubts)


async def test_a_meta_of_unknown_outcome_is_not_purged(make_server: Callable[..., NatsServer], bucket_name: str):
    server = make_server()
    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
        task = asyncio.create_task(bucket.put("a", chunk_then(server.pause), chunk_size=1000, nuid="n1"))
        await asyncio.sleep(0.6)
        server.kill()  # paused: the meta was sent, and nobody has read it
        server.start()
        with pytest.raises(UnknownOutcomeError):
            await task
        assert await bucket.chunk_count("n1") == 1
        with pytest.raises(ObjectNotFoundError):
            await bucket.info("a")


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
            with pytest.raises(NotAllowedError):
                await bucket.put("a", b"x")


async def test_racing_with_a_stock_client_loses_no_write_silently(bucket: Bucket, stock: Stock):
    """Whoever uses the precondition knows when it lost; what it was told is stored is what it overwrote or was seen."""
    revision, won, lost = 0, 0, 0
    for number in range(30):
        theirs = asyncio.to_thread(stock.put, bucket.name, "a", b"theirs %d" % number)
        ours = bucket.put("a", b"ours %d" % number, expected_revision=revision)
        results = await asyncio.gather(theirs, ours, return_exceptions=True)
        assert results[0] is None
        if isinstance(results[1], BaseException):
            assert isinstance(results[1], RevisionError)
            lost += 1
        else:
            won += 1
        now = await bucket.info("a")
        revision = now.revision
        content = await bucket.get_bytes(now)
        assert content in (b"theirs %d" % number, b"ours %d" % number)
        if isinstance(results[1], BaseException):
            assert content == b"theirs %d" % number
    assert won + lost == 30


async def test_many_transfers_share_one_bounded_budget(bucket: Bucket):
    publisher = bucket.connection.publisher
    least = publisher.budget.size
    data = os.urandom(3 << 20)

    async def watch() -> None:
        nonlocal least
        while True:
            least = min(least, publisher.budget.free)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(bucket.put(f"o{number}", data) for number in range(20)))
    watching.cancel()

    assert 0 <= least < publisher.budget.size
    assert publisher.budget.free == publisher.budget.size


def assert_whole_or_nothing(bucket: Bucket, stock: Stock) -> None:
    metas = stock.metas(bucket.name)
    if not metas:
        assert stock.chunks(bucket.name) == {}
    else:
        payload = metas["a"].payload
        assert stock.chunks(bucket.name) == {payload["nuid"]: payload["chunks"]}
