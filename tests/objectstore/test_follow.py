"""Following: everything once, in order, live at once; nothing silently missed when something breaks."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable

import pytest

from agent.errors import BucketNotFoundError, BucketReplacedError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Endpoint, Mirror
from agent.objectstore.follow import Batch, Follower, follow
from agent.objectstore.gaps import FIXED
from agent.objectstore.metamessage import MetaMessage
from tests.objectstore.waiting import until
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock


async def until_caught_up(follower: Follower) -> list[Batch]:
    batches = []
    async with asyncio.timeout(30):
        async for batch in follower:
            batches.append(batch)
            if batch.caught_up:
                return batches
    raise AssertionError("it ended")


def names(batches: list[Batch]) -> list[str]:
    return [message.name for batch in batches for message in batch.metas]


async def next_meta(follower: Follower) -> MetaMessage:
    async with asyncio.timeout(20):
        while True:
            batch = await anext(follower)
            assert not batch.caught_up
            if batch.metas:
                assert len(batch.metas) == 1
                return batch.metas[0]


async def test_an_empty_bucket_is_caught_up_at_once(bucket: Bucket):
    async with follow(bucket) as follower:
        assert await anext(follower) == Batch([], True, 0)


async def test_the_newest_meta_of_each_name_comes_first_and_then_every_change(bucket: Bucket):
    for name in ("a", "b", "a", "c"):
        await bucket.put(name, name.encode())
    await bucket.delete("b")
    async with follow(bucket) as follower:
        batches = await until_caught_up(follower)
        assert names(batches) == ["a", "c", "b"]
        messages = [message for batch in batches for message in batch.metas]
        assert [message.info is not None and message.info.deleted for message in messages] == [False, False, True]

        info = await bucket.put("d", b"d")
        message = await next_meta(follower)
        assert (message.name, message.revision) == ("d", info.revision)
        assert message.info is not None
        assert message.info.nuid == info.nuid
        assert message.time_ns == message.info.time_ns == (await bucket.info("d")).time_ns


async def test_a_cursor_continues_where_it_stood(bucket: Bucket):
    await bucket.put("a", b"a")
    async with follow(bucket) as follower:
        cursor = (await until_caught_up(follower))[-1].last_seq
        created = follower.created
    async with follow(bucket, after=cursor, created=created) as follower:
        assert await anext(follower) == Batch([], True, cursor)
    await bucket.put("b", b"b")
    await bucket.put("a", b"changed")
    async with follow(bucket, after=cursor, created=created) as follower:
        assert names(await until_caught_up(follower)) == ["b", "a"]


async def test_a_cursor_before_chunks_without_metas_is_caught_up_too(bucket: Bucket, stock: Stock):
    info = await bucket.put("a", b"a")
    stock.publish_chunk(bucket.name, "orphan", b"x")
    async with follow(bucket, after=info.revision) as follower:
        assert await anext(follower) == Batch([], True, info.revision + 1)


async def test_thousands_of_metas_come_in_batches_each_name_once(bucket: Bucket):
    expected = {f"dir/{number}" for number in range(2_500)}
    await asyncio.gather(*(bucket.put(name, b"") for name in expected))
    async with follow(bucket) as follower:
        batches = await until_caught_up(follower)

    assert sorted(names(batches)) == sorted(expected)
    assert all(len(batch.metas) <= 1000 for batch in batches)
    revisions = [message.revision for batch in batches for message in batch.metas]
    assert revisions == sorted(set(revisions))
    assert [batch.caught_up for batch in batches].count(True) == 1


async def test_metas_that_change_while_catching_up_are_given_in_their_newest_version(bucket: Bucket):
    await asyncio.gather(*(bucket.put(f"n{number}", b"1") for number in range(1_500)))
    newest: dict[str, int] = {}
    done = asyncio.Event()

    async def change() -> None:
        for number in range(0, 1_500, 50):
            newest[f"n{number}"] = (await bucket.put(f"n{number}", b"2", purge_old=False)).revision
        done.set()

    async with follow(bucket) as follower:
        changing = asyncio.create_task(change())
        seen: dict[str, int] = {}
        caught_up = 0
        async with asyncio.timeout(30):
            async for batch in follower:
                seen.update((message.name, message.revision) for message in batch.metas)
                caught_up += batch.caught_up
                if caught_up and done.is_set() and all(seen.get(name) == revision for name, revision in newest.items()):
                    break
        await changing
    assert len(seen) == 1_500
    assert caught_up == 1


async def test_large_metas_do_not_stop_it(bucket: Bucket, stock: Stock):
    for number in range(40):
        stock.put_raw(bucket.name, f"n{number}", b"x", description="d" * 900_000)
    async with follow(bucket) as follower:
        batches = await until_caught_up(follower)
    assert sorted(names(batches)) == sorted(f"n{number}" for number in range(40))


async def test_broken_metas_are_told_and_the_others_come(bucket: Bucket, stock: Stock):
    await bucket.put("a", b"a")
    for number, payload in enumerate((b"", b"{", b"[]", b'{"name": "other"}', b"\xff\xfe")):
        stock.publish_meta(bucket.name, f"bad{number}", payload)
    stock._publish(f"$O.{bucket.name}.M.not-base64!", b"{}", None)
    await bucket.put("z", b"z")
    async with follow(bucket) as follower:
        batches = await until_caught_up(follower)

    messages = [message for batch in batches for message in batch.metas]
    assert [message.name for message in messages] == ["a", *(f"bad{number}" for number in range(5)), "", "z"]
    assert [message.error is not None for message in messages] == [False, *[True] * 6, False]
    assert [message.info is None for message in messages] == [False, *[True] * 6, False]


async def test_closing_leaves_no_consumer(bucket: Bucket, any_server: NatsServer):
    follower = follow(bucket)
    await until_caught_up(follower)
    assert consumers_of(any_server, bucket)
    await follower.aclose()
    await until(lambda: not consumers_of(any_server, bucket))
    with pytest.raises(StopAsyncIteration):
        await anext(follower)


async def test_a_cancelled_wait_loses_nothing(bucket: Bucket):
    async with follow(bucket) as follower:
        await until_caught_up(follower)
        for number in range(20):
            waiting = asyncio.ensure_future(anext(follower))
            await asyncio.sleep(0.001 * number)
            waiting.cancel()
            try:
                batch = await waiting
                assert batch.metas
                continue
            except asyncio.CancelledError:
                pass
            info = await bucket.put("a", b"%d" % number)
            assert (await next_meta(follower)).revision == info.revision


async def test_a_deleted_consumer_is_made_again(bucket: Bucket, any_server: NatsServer):
    async with follow(bucket, heartbeat=0.5) as follower:
        await until_caught_up(follower)
        waiting = asyncio.create_task(next_meta(follower))
        await until(lambda: bool(consumers_of(any_server, bucket)))
        for _, consumer in consumers_of(any_server, bucket):
            await bucket.connection.api(f"CONSUMER.DELETE.{bucket.stream}.{consumer}")
        await bucket.put("a", b"a")
        assert (await waiting).name == "a"
        # On a server that leaves messages out it needn't be made for this one: it is found by reading.
        assert follower.restarts >= 1 or any_server.version < FIXED


@pytest.mark.parametrize("kill", [True, False], ids=["kill", "stop"])
async def test_a_restarted_server_is_followed_on(make_server: Callable[..., NatsServer], bucket_name: str, kill: bool):
    server = make_server()
    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
        await bucket.put("a", b"a")
        async with follow(bucket) as follower:
            await until_caught_up(follower)
            for name in ("b", "c"):
                before = connection.reconnects
                server.restart(kill=kill)
                waiting = asyncio.create_task(next_meta(follower))
                await until(functools.partial(_has_reconnected, connection, before))
                await bucket.put(name, b"x")
                assert (await waiting).name == name


def _has_reconnected(connection: Connection, before: int) -> bool:
    return connection.reconnects > before


async def test_a_server_killed_while_catching_up_gives_every_name(
    make_server: Callable[..., NatsServer], bucket_name: str
):
    server = make_server()
    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        bucket = (await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)).bucket
        expected = {f"n{number}" for number in range(3_000)}
        await asyncio.gather(*(bucket.put(name, b"") for name in expected))
        seen: list[str] = []
        async with follow(bucket) as follower, asyncio.timeout(40):
            async for batch in follower:
                if not seen:
                    server.restart(kill=True)
                seen += [message.name for message in batch.metas]
                if batch.caught_up:
                    break
        assert sorted(seen) == sorted(expected)


async def test_what_happens_while_the_network_is_away_comes_afterwards(any_server: NatsServer, bucket: Bucket):
    with Proxy(any_server.port) as proxy:
        async with await Connection.open(Endpoint([proxy.url]), name="test") as connection:
            there = await Buckets(connection).bind(bucket.name)
            async with follow(there) as follower:
                await until_caught_up(follower)
                proxy.cut()
                info = await bucket.put("a", b"a")
                waiting = asyncio.create_task(next_meta(follower))
                await asyncio.sleep(0.3)
                proxy.resume()
                assert (await waiting).revision == info.revision


async def test_a_silent_network_is_noticed_by_the_missing_heartbeat(any_server: NatsServer, bucket: Bucket):
    with Proxy(any_server.port) as proxy:
        async with await Connection.open(Endpoint([proxy.url]), name="test") as connection:
            there = await Buckets(connection).bind(bucket.name)
            async with follow(there, heartbeat=0.5) as follower:
                await until_caught_up(follower)
                waiting = asyncio.create_task(next_meta(follower))
                proxy.hold()
                await until(lambda: follower.restarts > 0)
                proxy.resume()
                info = await bucket.put("a", b"a")
                assert (await waiting).revision == info.revision


async def test_a_deleted_bucket_is_told(bucket: Bucket, buckets: Buckets):
    async with follow(bucket, heartbeat=0.5) as follower:
        await until_caught_up(follower)
        waiting = asyncio.create_task(next_meta(follower))
        await asyncio.sleep(0.1)
        await buckets.delete(bucket.name)
        with pytest.raises(BucketNotFoundError):
            await waiting


async def test_a_bucket_that_was_made_again_is_told(bucket: Bucket, buckets: Buckets):
    await bucket.put("a", b"a")
    async with follow(bucket, heartbeat=0.5) as follower:
        await until_caught_up(follower)
        waiting = asyncio.create_task(next_meta(follower))
        await asyncio.sleep(0.1)
        await buckets.delete(bucket.name)
        await buckets.create(bucket.name, BucketSpec())
        with pytest.raises(BucketReplacedError, match="made again"):
            await waiting


async def test_a_cursor_of_another_stream_is_refused(bucket: Bucket):
    info = await bucket.put("a", b"a")
    with pytest.raises(BucketReplacedError, match="made again"):
        await anext(follow(bucket, created="2020-01-01T00:00:00Z"))
    with pytest.raises(BucketReplacedError, match="before what was read"):
        await anext(follow(bucket, after=info.revision + 10))


async def test_a_mirror_is_followed(bucket: Bucket, buckets: Buckets, any_server: NatsServer):
    """A mirror has no subjects of its own; the stock client can't watch it (PROTOCOL 2)."""
    if any_server.version < (2, 10, 0):
        pytest.skip("a mirror under another name needs 2.10")
    mirror, _ = await buckets.ensure(f"{bucket.name}-copy", BucketSpec(mirror=Mirror(bucket.name)), may_create=True)
    async with follow(mirror) as follower:
        await until_caught_up(follower)
        info = await bucket.put("a", os.urandom(300_000))
        message = await next_meta(follower)
        assert (message.name, message.revision) == ("a", info.revision)
        assert message.info is not None
        assert message.info.bucket == mirror.name


async def test_metas_that_are_written_at_once_are_all_given(bucket: Bucket):
    """nats-server up to 2.9.11 leaves out of a consumer what stands before another name's rollup (nats-server#3838)."""
    given: dict[str, int] = {}
    written: dict[str, int] = {}
    revisions: list[int] = []

    async def read(follower: Follower) -> None:
        async for batch in follower:
            given.update((meta.name, meta.revision) for meta in batch.metas)
            revisions.extend(meta.revision for meta in batch.metas)

    async with follow(bucket) as follower:
        await until_caught_up(follower)
        reading = asyncio.create_task(read(follower), name="reading")
        try:
            for turn in range(30):
                together = ("same", f"new {turn}", f"other {turn}")
                infos = await asyncio.gather(*(bucket.put(name, b"%d" % turn) for name in together))
                written.update((info.name, info.revision) for info in infos)
                await asyncio.sleep(0.01)
            await until(lambda: given == written)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
    assert revisions == sorted(set(revisions))


async def test_a_write_while_catching_up_hides_nothing(bucket: Bucket):
    """The same, with hundreds that the consumer has not delivered when it is moved on."""
    first = await bucket.put("first", b"")
    expected = {f"n{number}" for number in range(2_500)}
    await asyncio.gather(*(bucket.put(name, b"x") for name in expected))
    async with follow(bucket, after=first.revision) as follower:
        batches = [await anext(follower)]  # two thousand have been asked for, and no more until this is read on
        await asyncio.sleep(0.5)
        await bucket.put("last", b"x")
        batches += await until_caught_up(follower)

    assert sorted({*names(batches)} - {"last"}) == sorted(expected)
    revisions = [message.revision for batch in batches for message in batch.metas]
    assert revisions == sorted(set(revisions))
    assert [batch.caught_up for batch in batches].count(True) == 1


def consumers_of(server: NatsServer, bucket: Bucket) -> set[tuple[str, str]]:
    return {consumer for consumer in server.consumers() if consumer[0] == bucket.stream}


async def test_one_name_can_be_followed_alone(bucket: Bucket):
    for name in ("channel", "other", "channel"):
        await bucket.put(name, name.encode())
    async with bucket.follow(name="channel") as follower:
        batches = await until_caught_up(follower)
        assert names(batches) == ["channel"]

        await bucket.put("another", b"x")
        await bucket.put("other", b"y")
        info = await bucket.put("channel", b"new")
        assert (await next_meta(follower)).revision == info.revision
        await bucket.delete("channel")
        message = await next_meta(follower)
        assert message.info is not None and message.info.deleted


async def test_a_name_that_nobody_has_written_yet_can_be_followed(bucket: Bucket):
    await bucket.put("other", b"x")
    async with bucket.follow(name="channel") as follower:
        assert names(await until_caught_up(follower)) == []
        info = await bucket.put("channel", b"new")
        assert (await next_meta(follower)).revision == info.revision
