"""One feed for several subscribers: whatever becomes of one of them, the others get every meta."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.config.model import Nats
from agent.errors import JetsyncError, StateError
from agent.objectstore import Batch, Bucket, Buckets, BucketSpec, Connection
from agent.sync.feed import Feed


@pytest.fixture
async def bucket(nats_url: str, bucket_name: str) -> AsyncIterator[Bucket]:
    async with await Connection.open(Nats(servers=(nats_url,)), name="test") as connection:
        yield await Buckets(connection).create(bucket_name, BucketSpec())


class Subscriber:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.caught_up = asyncio.Event()
        self.got = asyncio.Event()
        self.told = asyncio.Event()
        self.error: JetsyncError | None = None

    async def deliver(self, batch: Batch) -> None:
        self.names += [message.name for message in batch.metas]
        if batch.caught_up:
            self.caught_up.set()
        if batch.metas:
            self.got.set()

    def lost(self, error: JetsyncError) -> None:
        self.error = error
        self.told.set()


async def test_a_subscriber_that_never_takes_its_batch_and_leaves_lets_the_others_go_on(bucket: Bucket):
    feed, other, reached = Feed(bucket), Subscriber(), asyncio.Event()

    async def stuck(_batch: Batch) -> None:
        reached.set()
        await asyncio.Event().wait()

    leaving = await feed.subscribe(cursor=0, created=bucket.created, deliver=stuck, lost=lambda _: None)
    await feed.subscribe(cursor=0, created=bucket.created, deliver=other.deliver, lost=other.lost)
    try:
        async with asyncio.timeout(20):
            await reached.wait()
            await feed.unsubscribe(leaving)
            await bucket.put("name", b"1")
            await other.got.wait()
        assert other.names == ["name"]
    finally:
        await feed.close()


async def test_a_subscriber_that_fails_is_dropped_and_the_others_go_on(bucket: Bucket):
    feed, other = Feed(bucket), Subscriber()

    async def failing(_batch: Batch) -> None:
        raise StateError("the state can't be written")

    await feed.subscribe(cursor=0, created=bucket.created, deliver=failing, lost=lambda _: None)
    await feed.subscribe(cursor=0, created=bucket.created, deliver=other.deliver, lost=other.lost)
    try:
        async with asyncio.timeout(20):
            await other.caught_up.wait()
            await bucket.put("name", b"1")
            await other.got.wait()
        assert other.error is None
    finally:
        await feed.close()


async def test_subscribers_that_come_at_once_share_one_follower(bucket: Bucket):
    feed, subscribers = Feed(bucket), [Subscriber() for _ in range(4)]
    try:
        async with asyncio.timeout(20):
            await asyncio.gather(
                *(
                    feed.subscribe(cursor=0, created=bucket.created, deliver=one.deliver, lost=one.lost)
                    for one in subscribers
                )
            )
            await asyncio.gather(*(one.caught_up.wait() for one in subscribers))
            await bucket.put("name", b"1")
            await asyncio.gather(*(one.got.wait() for one in subscribers))
        assert [one.names for one in subscribers] == [["name"]] * 4
        assert sum(task.get_name().startswith("feed ") for task in asyncio.all_tasks()) == 1
    finally:
        await feed.close()


async def test_a_deleted_bucket_ends_the_feed_and_everybody_is_told(bucket: Bucket):
    feed, subscribers = Feed(bucket), [Subscriber() for _ in range(2)]
    for one in subscribers:
        await feed.subscribe(cursor=0, created="another stream", deliver=one.deliver, lost=one.lost)
    async with asyncio.timeout(20):
        await asyncio.gather(*(one.told.wait() for one in subscribers))
    await feed.close()
