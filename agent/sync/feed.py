"""One follower for each bucket and agent, shared by the mappings on that bucket (DESIGN section 6).

A `Feed` follows the bucket's metas from the smallest cursor of its subscribers and hands every batch to each of them,
one after the other, waiting for each: so a slow mapping slows the follower and memory stays bounded. A subscriber
that joins later makes the feed start again from the smallest cursor; the others skip what they have (by revision).

Time-outs, reconnects and a server that is away are waited out here, with back-off. What can't heal by waiting (the
bucket is gone, re-created, or not allowed) ends the feed, and every subscriber is told. A subscriber that fails ends
alone: what it raises is its own affair, and the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agent.errors import JetsyncError, StoreError
from agent.objectstore import Batch, Bucket
from agent.observe.logging import get_logger
from agent.sync.retry import Backoff

Deliver = Callable[[Batch], Awaitable[None]]
Lost = Callable[[JetsyncError], None]


class EndedError(Exception):
    """The subscriber takes no more batches: its session has ended."""


@dataclass(eq=False, slots=True)
class Subscription:
    """`cursor` = everything up to this stream sequence has been delivered."""

    cursor: int
    created: str | None
    deliver: Deliver
    lost: Lost


class Feed:
    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._subscriptions: list[Subscription] = []
        self._task: asyncio.Task[None] | None = None
        self._handing_to: Subscription | None = None
        self._lock = asyncio.Lock()  # one at a time makes and ends the task

    async def subscribe(self, *, cursor: int, created: str | None, deliver: Deliver, lost: Lost) -> Subscription:
        """Deliver every batch after `cursor` (0 = everything), until `unsubscribe`."""
        subscription = Subscription(cursor, created, deliver, lost)
        async with self._lock:
            self._subscriptions.append(subscription)
            await self._restart()
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        async with self._lock:
            self._drop(subscription)
            if not self._subscriptions:
                await self._stop()
            elif subscription is self._handing_to:
                await self._restart()  # the others don't wait for one that has left

    async def close(self) -> None:
        async with self._lock:
            await self._stop()

    async def _restart(self) -> None:
        await self._stop()
        self._task = asyncio.create_task(self._run(), name=f"feed {self.bucket.name}")

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _drop(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def _run(self) -> None:
        backoff = Backoff()
        while self._subscriptions:
            try:
                await self._follow(backoff)
            except JetsyncError as error:
                if not error.transient:
                    self._end(error)
                    return
                await asyncio.sleep(backoff.next())
            except Exception as error:  # noqa: BLE001 - a feed that dies in silence would look like a quiet bucket
                get_logger().exception("feed_crashed", bucket=self.bucket.name)
                self._end(StoreError(f"following bucket {self.bucket.name!r} failed: {error!r}"))
                return

    async def _follow(self, backoff: Backoff) -> None:
        first = min(self._subscriptions, key=lambda subscription: subscription.cursor)
        async with self.bucket.follow(after=first.cursor, created=first.created) as batches:
            async for batch in batches:
                backoff.reset()
                for subscription in list(self._subscriptions):
                    await self._hand_to(subscription, batch)
                if not self._subscriptions:
                    return

    async def _hand_to(self, subscription: Subscription, batch: Batch) -> None:
        self._handing_to = subscription
        try:
            await subscription.deliver(batch)
        except (EndedError, JetsyncError):
            self._drop(subscription)  # its session ends with that error, or has ended
        else:
            subscription.cursor = max(subscription.cursor, batch.last_seq)
        finally:
            self._handing_to = None

    def _end(self, error: JetsyncError) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.lost(error)
