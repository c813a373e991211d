"""Following a bucket: every change of a meta message, from a cursor on, in the stream's order, for ever.

    follow(bucket)                      the newest meta of each name, then changes
    follow(bucket, after=cursor, ...)   what changed since then
    follow(bucket, name=...)            the same, of one object only

Batches of up to a thousand metas while catching up, and whatever has arrived, at once, afterwards. `caught_up` is on
the batch with which everything that was there at the start has been given: it comes exactly once, also for an empty
bucket or a cursor at the end, then on an empty batch.

Nothing here runs in the background: the consumer is watched while somebody waits for the next batch, so a follower
that nobody reads costs nothing and leaks nothing. What can go wrong with a consumer (PROTOCOL 2 "watch", traps 7 and 8:
gaps, lost heartbeats, a restarted server, a deleted bucket, one that was made anew) is answered in one way: look at the
stream, then make a new consumer behind the last message that we have. Looking at the stream means: it exists, it was
created when we think it was, and it hasn't gone back behind our cursor; otherwise BucketNotFoundError or
BucketReplacedError. That is also done every half minute of waiting, since a consumer that is gone stays silent.
What old servers' consumers leave out without a sign is read from the stream before a batch is given: see `gaps`.

Sequences rise strictly over all batches, so a meta is always newer than any earlier one of its name. What isn't told
by any message (purged metas, renames by other clients, expiry) needs a listing now and then (PROTOCOL 3c).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agent.errors import BucketNotFoundError, BucketReplacedError, StoreError, StoreUnavailableError
from agent.objectstore import gaps
from agent.objectstore.answers import RawMessage, status_of
from agent.objectstore.consumer import Consumer, Place, Signal, left_of_pull, place_of
from agent.objectstore.metamessage import MetaMessage
from agent.objectstore.put import uninterrupted
from agent.objectstore.subjects import all_metas, meta_subject

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

BATCH = 1000
_BATCH_BYTES = 8 << 20
HEARTBEAT = 5.0
CHECK = 30.0
_PULL_EXPIRES = 30.0
_MISSED = 2.2  # heartbeats
PATIENCE = 2.0
"""Seconds without a message, while messages are pending, after which a consumer counts as stuck."""


@dataclass(frozen=True, slots=True)
class Batch:
    """last_seq: the cursor that continues behind this batch."""

    metas: list[MetaMessage]
    caught_up: bool
    last_seq: int


class Follower(AsyncIterator[Batch]):
    """Iterate, and close in the end (`async with`, or aclose()). A cancelled wait loses nothing."""

    def __init__(
        self,
        bucket: Bucket,
        *,
        name: str | None = None,
        after: int = 0,
        created: str | None = None,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._bucket = bucket
        self._subject = all_metas(bucket.name) if name is None else meta_subject(bucket.name, name)
        self._publisher = bucket.connection.publisher
        self._last = after
        self._created = created
        self._heartbeat = heartbeat
        self._signal = Signal()
        self._consumer: Consumer | None = None
        self._token = ""
        self._items: list[tuple[Place, RawMessage]] = []
        self._wanted = 0
        self._consumer_seq = 0
        self._target = 0
        self._caught_up = False
        self._broken = ""
        self._newest_only = False
        self._taken: Batch | None = None  # not given yet: it may have gaps
        self._given = after
        self._listed = 0  # up to here a "last_per_subject" consumer has delivered all
        self._fruitful = False  # a message has come since we asked last
        self._fruitless = False
        self._heard = 0.0
        self._fed = 0.0
        self._patience = PATIENCE
        self._checked = 0.0
        self._closed = False
        self.restarts = 0
        """How often a new consumer had to be made: for metrics."""

    @property
    def created(self) -> str | None:
        """The identity of the stream that is followed; None before the first batch."""
        return self._created

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """The next batch; waits while the server is away.

        Raises BucketNotFoundError, BucketReplacedError, NotAllowedError.
        """
        if self._closed:
            raise StopAsyncIteration
        while True:
            if self._taken is None:
                self._taken = await self._next()
            if gaps.possible(self._bucket) and not await self._fill(self._taken):
                continue
            batch, self._taken = self._taken, None
            self._given = batch.last_seq
            if batch.metas or batch.caught_up:
                return batch

    async def aclose(self) -> None:
        """Delete the consumer. Runs to its end also when cancelled."""
        self._closed = True
        await uninterrupted(self._drop())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # batches

    async def _next(self) -> Batch:
        """What the consumer has delivered; where it may leave something out, also that it has nothing, now and then."""
        while True:
            if self._items:
                batch = self._take()
                if batch is not None:
                    return batch
            if self._broken and (refusal := self._publisher.refused(self._token)) is not None:
                raise refusal
            if self._consumer is None or self._broken:
                await self._start()
                if not self._caught_up and self._target <= self._last:
                    return self._nothing_more()
            try:
                self._ask()
            except StoreUnavailableError as error:
                self._broken = error.message
                continue
            arrived = await self._signal.wait(self._heartbeat if self._caught_up else min(self._heartbeat, 1.0))
            if self._items or self._broken:
                continue
            if not await self._in_order(arrived):
                continue
            if self._caught_up:
                if gaps.possible(self._bucket):
                    return Batch([], False, self._last)
            elif await self._drained():
                return self._nothing_more()

    def _take(self) -> Batch | None:
        metas: list[MetaMessage] = []
        caught_up = False
        taken, self._items = self._items[:BATCH], self._items[BATCH:]
        for place, message in taken:
            if place.consumer_seq != self._consumer_seq + 1:
                self._broken = "a message of the consumer was lost"
                self._items = []
                break
            self._consumer_seq = place.consumer_seq
            if place.seq <= self._last:
                continue
            self._last = place.seq
            metas.append(self._meta(message.subject, message.data, place.seq, place.time_ns))
            if not self._caught_up and (place.pending == 0 or place.seq >= self._target):
                self._caught_up = caught_up = True
        if not metas:
            return None
        if caught_up and not self._items:
            self._last = max(self._last, self._target)
        return Batch(metas, caught_up, self._last)

    def _meta(self, subject: str, data: bytes, revision: int, time_ns: int) -> MetaMessage:
        return MetaMessage.undecoded(self._bucket.name, subject, data, revision, time_ns)

    def _nothing_more(self) -> Batch:
        """All that was there at the start has been given, and the last of it was no meta, or was purged meanwhile."""
        self._caught_up = True
        self._last = max(self._last, self._target)
        return Batch([], True, self._last)

    async def _fill(self, taken: Batch) -> bool:
        """Put into the batch that was taken what the server has left out. False: the stream couldn't be read."""
        given = [meta.revision for meta in taken.metas]
        last = taken.last_seq if given or taken.caught_up else None
        try:
            found = await gaps.left_out(self._bucket, self._subject, max(self._given, self._listed), given, last)
            if found:
                await self._look_at_stream()  # another stream of that name may have answered
        except (StoreUnavailableError, BucketNotFoundError):
            await self._start()
            return False
        if found:
            metas = [*taken.metas, *(self._meta(one.subject, one.data, one.revision, one.time_ns) for one in found)]
            metas.sort(key=lambda meta: meta.revision)
            whole = Batch(metas, taken.caught_up, max(taken.last_seq, metas[-1].revision))
            self._last = max(self._last, whole.last_seq)
            self._taken = whole if len(found) < gaps.ENOUGH else self._cut(whole, found[-1].revision)
        return True

    def _cut(self, batch: Batch, last: int) -> Batch:
        """What the batch has up to the sequence `last`. A new consumer goes on behind that."""
        self._last, self._items, self._broken = last, [], "the server left out many messages"
        self._caught_up = self._caught_up and not batch.caught_up
        return Batch([meta for meta in batch.metas if meta.revision <= last], False, last)

    # the consumer

    def _ask(self) -> None:
        """Keep a request with the server: two while catching up, so that it never waits for us."""
        assert self._consumer is not None
        while self._wanted < (1 if self._caught_up else BATCH + 1):
            batch, max_bytes = (1, 0) if self._fruitless else (BATCH, _BATCH_BYTES)
            self._consumer.pull(
                self._token, batch=batch, max_bytes=max_bytes, expires=_PULL_EXPIRES, heartbeat=self._heartbeat
            )
            self._wanted += batch
            self._fruitful = False
            if self._fruitless:
                return

    def _receive(self, message: RawMessage | None) -> None:
        self._signal.set()
        if message is None:
            self._broken = "the connection was lost"
        if message is None or self._broken:
            return
        self._heard = monotonic()
        status = status_of(message)
        if not status:
            place = place_of(message.reply)
            if place is None:
                self._broken = "a delivered message has no place"
                return
            self._items.append((place, message))
            self._fed, self._patience = self._heard, PATIENCE
            self._wanted = max(0, self._wanted - 1)
            self._fruitful, self._fruitless = True, False
        elif status == 100:
            pass  # the heartbeat
        elif status in (404, 408):  # the request's time is over
            left = left_of_pull(message)
            self._wanted = max(0, self._wanted - left) if left is not None else 0
        elif status == 409 and (left := left_of_pull(message)) and self._newest_only:
            # Servers 2.9 to 2.15 lose a message here: the one that was over a request's max_bytes, when the consumer
            # is "last_per_subject" and no other request waits. Nothing behind it may be taken.
            self._broken = "a request reached its max_bytes"
        elif status == 409 and left is not None and not (left and self._fruitless):
            # The end of a request with max_bytes. One that brought nothing has met a message larger than that, which
            # is asked for alone then; a consumer that is gone answers in the same way, but also the second time.
            self._wanted = max(0, self._wanted - left)
            self._fruitless = left > 0 and not self._fruitful
        else:
            self._broken = f"the server answered with status {status}"

    async def _in_order(self, arrived: bool) -> bool:
        """Nothing to give: is everything in order?"""
        now = monotonic()
        if not arrived and now - self._heard > self._heartbeat * _MISSED:
            self._broken = "no heartbeat"
        elif now - self._checked > CHECK:
            try:
                await self._look_at_stream()
            except StoreUnavailableError as error:
                self._broken = error.message
        return not self._broken

    async def _drained(self) -> bool:
        """Whether the consumer has nothing more, and all that it has delivered has come."""
        assert self._consumer is not None
        try:
            delivered, pending = await self._consumer.progress()
            if self._items or delivered != self._consumer_seq:
                return False
            if pending and monotonic() - self._fed > self._patience:
                # A server bug: a last_per_subject consumer whose first messages were superseded before they were
                # asked for may never deliver anything. A new one does; a server that is only slow gets more time.
                self._broken = "the consumer is stuck"
                self._patience = min(30.0, self._patience * 2)
            return pending == 0
        except StoreUnavailableError as error:
            self._broken = error.message
        except StoreError:
            self._broken = "the consumer is gone"
        return False

    async def _start(self) -> None:
        """Make a consumer behind the last message, as soon as the server lets us."""
        pause = 0.05
        if self._consumer is not None:
            self.restarts += 1
        while True:
            await uninterrupted(self._drop())
            try:
                if await self._bucket.connection.wait_connected(CHECK):
                    await self._create()
                    return
            except StoreUnavailableError:
                pass  # the caller sees that we aren't connected; we go on trying
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _create(self) -> None:
        last_seq = await self._look_at_stream()
        consumer = Consumer(self._bucket, self._subject)
        self._consumer = consumer
        self._newest_only = not self._last and not self.restarts
        self._listed = last_seq if self._newest_only else min(self._listed, self._last)
        start_seq = 0 if self._newest_only else self._last + 1
        pending = await consumer.create(start_seq=start_seq, last_per_subject=self._newest_only)
        if not self._caught_up:
            self._target = last_seq if pending else self._last
            if not pending:
                self._last = self._target = max(self._last, last_seq)
        self._consumer_seq = self._wanted = 0
        self._items = []
        self._fruitless = False
        self._token = self._publisher.open(self._receive, token=consumer.name)
        self._broken = ""
        self._heard = self._fed = monotonic()

    async def _look_at_stream(self) -> int:
        """The stream's last sequence. Raises BucketNotFoundError, BucketReplacedError."""
        try:
            info = await self._stream_info()
        except BucketNotFoundError:
            await asyncio.sleep(0.5)  # a server that has just started may not have it yet
            info = await self._stream_info()
        self._checked = monotonic()
        created, last_seq = str(info.get("created", "")), int(info.get("state", {}).get("last_seq", 0))
        if self._created is None:
            self._created = created
        if created != self._created:
            raise BucketReplacedError(
                f"bucket {self._bucket.name!r} was deleted and made again ({created}, before: {self._created})",
                remedy="approve it as a first contact",
            )
        if last_seq < self._last:
            raise BucketReplacedError(
                f"bucket {self._bucket.name!r} ends at {last_seq}, before what was read from it ({self._last})",
                remedy="it was restored from a backup: approve it as a first contact",
            )
        return last_seq

    async def _stream_info(self) -> dict[str, Any]:
        return await self._bucket.connection.api(
            f"STREAM.INFO.{self._bucket.stream}", what=f"follow bucket {self._bucket.name!r}"
        )

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._publisher.close_token(self._token)
        self._items = []
        if consumer is not None and self._publisher.connected:
            await consumer.delete()


def follow(
    bucket: Bucket,
    *,
    name: str | None = None,
    after: int = 0,
    created: str | None = None,
    heartbeat: float = HEARTBEAT,
) -> Follower:
    """Every change of the bucket's metas behind the sequence `after`; 0: first the newest meta of each name.

    name: of this object only; the server sends nothing of the others.
    created: the identity that the stream must have (`Bucket.created` when the cursor was kept); None takes what is
    there. The Follower raises BucketReplacedError when it has another, or ends before `after`; BucketNotFoundError.
    """
    return Follower(bucket, name=name, after=after, created=created, heartbeat=heartbeat)
