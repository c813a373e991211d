"""Where the chunks of an object come from: three feeds, one interface.

    DirectFeed    direct gets in batches (servers from 2.11), for some MiB: no consumer; the next batches are asked for
                  while the present one arrives, on a long line many (`line`). Where they begin is a guess, that the
                  object's chunks lie side by side in the stream as they do when nobody else wrote meanwhile; a wrong
                  guess costs repeated batches, never a byte
    PullFeed      an ephemeral pull consumer: works on every server, also without direct gets
    (one chunk)   one direct get, see get.py

A feed gives what has arrived, in stream order, and None when the server says that there is no more. It raises
StoreUnavailableError when nothing comes any more; the reader then finds out why and goes on from where it stood, with a
new feed. All that a feed has asked for and not yet given is bounded: one mebibyte for nothing, more from the
connection's receive budget as far as it goes. They are asked again only when the reader comes for more.
"""

from __future__ import annotations

import json
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from agent.errors import StoreUnavailableError
from agent.objectstore.answers import RawMessage, status_of
from agent.objectstore.consumer import Consumer, Signal, left_of_pull, place_of
from agent.objectstore.line import Line

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

Chunk = tuple[int, bytes]
"""Stream sequence and data."""

FREE = 1 << 20
MOST = 8 << 20
_MOST_MESSAGES = 1000
_PULL_EXPIRES = 30.0
_HEADERS = 512  # what the server counts beside the data of a message


def ahead_of(had: int) -> int:
    """The size of a request of a reader that has had so many bytes; two are under way at a time.

    An eighth of them: so what a reader that is killed has asked for in vain is at most a quarter of what it had (half
    on a long line), and a download that is resumed again and again costs little more than one that isn't (beyond the
    first mebibytes).
    """
    return min(MOST, max(FREE, had // 8))


class Feed(Protocol):
    total: int | None
    """How many chunks the server has from the feed's start on; None before it has told."""

    async def next(self) -> list[Chunk] | None:
        """What has arrived; None at the end. Raises StoreUnavailableError."""
        ...

    async def close(self) -> None: ...


class _Batch:
    """One direct-get request and what came for it. It is the handler of its token."""

    __slots__ = ("_line", "_signal", "asked", "bytes", "came", "cost", "count", "done", "first", "got", "items", "last",
                 "lost", "size", "start", "token", "total")  # fmt: skip

    def __init__(self, start: int, count: int, *, size: int, cost: int, signal: Signal, line: Line) -> None:
        self.start = start
        self.count = count
        self.size = size
        self.cost = cost
        self._signal = signal
        self._line = line
        self.asked = self.came = monotonic()
        self.token = ""
        self.items: list[Chunk] = []
        self.bytes = 0
        self.got = 0
        self.first = 0
        self.last = 0
        self.total: int | None = None
        self.done = False
        self.lost = ""

    def __call__(self, message: RawMessage | None) -> None:
        self._signal.set()
        if message is None:
            self.lost = "the connection was lost"
            return
        status = status_of(message)
        if status:
            self.done = True
            if status not in (204, 404):  # the end of the batch, nothing there
                self.lost = f"the server answered with status {status}"
            return
        headers = message.headers or {}
        try:
            seq, pending = int(headers["Nats-Sequence"]), int(headers["Nats-Num-Pending"])
        except (KeyError, ValueError):
            self.lost = "the server doesn't do batched direct gets"
            return
        self.came = monotonic()
        if self.total is None:
            self.first = seq
            self.total = pending + 1
            self._line.answered(self.asked, self.came)
        self.last = seq
        self.got += 1
        self.bytes += len(message.data)
        self.items.append((seq, message.data))

    @property
    def behind(self) -> int:
        """Where the next batch begins, if the object's chunks lie side by side."""
        return (self.first or self.start) + self.count

    @property
    def side_by_side(self) -> bool:
        return self.last == self.first + self.got - 1


class DirectFeed:
    def __init__(self, bucket: Bucket, subject: str, *, after: int, chunk_size: int, idle: float) -> None:
        self._publisher = bucket.connection.publisher
        self._request = bucket.connection.direct_subject(bucket.stream)
        self._subject = subject
        self._chunk_size = max(1, chunk_size)
        self._idle = idle
        self._next = after + 1
        self._had = 0
        self._size = FREE
        self._signal = Signal()
        self._line = Line()
        self._batches: deque[_Batch] = deque()  # the first is read, the others are asked for ahead
        self.total: int | None = None

    async def next(self) -> list[Chunk] | None:
        while True:
            if not self._batches:
                self._ask(self._next, size=max(self._size, FREE), cost=0)
            batch = self._batches[0]
            if batch.items:
                if self.total is None:
                    self.total = batch.total
                self._look_ahead(batch)
                items, batch.items = batch.items, []
                return items
            if batch.lost:
                raise StoreUnavailableError(f"can't read {self._subject}: {batch.lost}")
            if batch.done:
                if self._finish(batch):
                    return None
                continue
            if not await self._signal.wait(self._idle):
                raise StoreUnavailableError(f"nothing has come from {self._subject} for {self._idle:g} s")

    async def close(self) -> None:
        while self._batches:
            self._drop(self._batches.pop())

    def _ask(self, start: int, *, size: int, cost: int) -> None:
        """Request a batch of `size` bytes, `cost` of them from the budget."""
        count = max(1, min(_MOST_MESSAGES, size // self._chunk_size))
        batch = _Batch(start, count, size=size, cost=cost, signal=self._signal, line=self._line)
        batch.token = self._publisher.open(batch)
        body = {"seq": start, "next_by_subj": self._subject, "batch": count, "max_bytes": size + _HEADERS * count}
        try:
            self._publisher.post(batch.token, self._request, json.dumps(body).encode())
        except BaseException:
            self._drop(batch)
            raise
        self._batches.append(batch)

    def _look_ahead(self, batch: _Batch) -> None:
        """Ask for what comes behind, while the batch arrives."""
        if batch.total is None or batch.lost or not batch.side_by_side:
            return  # other writers' messages lie between: where the next batch begins can't be guessed
        end = batch.first + batch.total
        most = self._line.ahead(self._had + batch.bytes)
        while (start := self._batches[-1].behind) < end:
            under_way = sum(max(0, each.size - each.bytes) for each in self._batches)
            if len(self._batches) > 1 and under_way + self._size > most:
                return
            if not self._publisher.receive_budget.take(self._size):
                return
            self._ask(start, size=self._size, cost=self._size)

    def _finish(self, batch: _Batch) -> bool:
        """The batch is used up: on to the next; True when it was the last."""
        self._line.ended(batch.bytes, batch.came)
        self._drop(self._batches.popleft())
        if self.total is None:
            self.total = batch.total or 0
        self._had += batch.bytes
        self._size = ahead_of(self._had)
        over = not batch.got or batch.total is None or batch.got >= batch.total
        self._next = batch.last + 1
        if over or (self._batches and self._batches[0].start != self._next):
            while self._batches:
                self._drop(self._batches.pop())
        if not over:
            self._chunk_size = max(1, batch.bytes // batch.got)  # ragged chunks: as they are, not as the meta says
        return over

    def _drop(self, batch: _Batch) -> None:
        self._publisher.close_token(batch.token)
        self._publisher.receive_budget.release(batch.cost)
        batch.cost = 0


class PullFeed:
    def __init__(self, bucket: Bucket, subject: str, *, after: int, chunk_size: int, idle: float) -> None:
        self._publisher = bucket.connection.publisher
        self._subject = subject
        self._chunk_size = max(1, chunk_size)
        self._idle = idle
        self._after = after
        self._signal = Signal()
        self._consumer = Consumer(bucket, subject)
        self._token = ""
        self._items: list[Chunk] = []
        self._wanted = 0
        self._arrived = 0
        self._bytes = 0
        self._fruitful = False  # a message has come since we asked last
        self._fruitless = False
        self._lost = ""
        self._size = FREE
        self._cost = MOST - FREE if self._publisher.receive_budget.take(MOST - FREE) else 0
        self._line = Line()
        self._asked = 0.0  # when, while nothing was under way; 0: the answer has come
        self._came = 0.0
        self._measured = 0
        self.total: int | None = None

    async def next(self) -> list[Chunk] | None:
        if self.total is None:
            self.total = await self._consumer.create(start_seq=self._after + 1)
            self._token = self._publisher.open(self._receive, token=self._consumer.name)
        while not self._items:
            if self._arrived >= self.total:
                return None
            if self._lost:
                raise StoreUnavailableError(f"can't read {self._subject}: {self._lost}")
            self._ask(self.total)
            if not await self._signal.wait(self._idle):
                raise StoreUnavailableError(f"nothing has come from {self._subject} for {self._idle:g} s")
        items, self._items = self._items, []
        if not self._lost:
            self._ask(self.total)
        return items

    async def close(self) -> None:
        self._publisher.close_token(self._token)
        self._publisher.receive_budget.release(self._cost)
        self._cost = 0
        await self._consumer.delete()

    def _ask(self, total: int) -> None:
        """Keep two requests in flight: the next is sent when half of what was asked for is here."""
        count = max(1, min(_MOST_MESSAGES, self._size // self._chunk_size))
        left = total - self._arrived - self._wanted
        if left <= 0 or self._wanted > count // 2:
            return
        if self._fruitless:  # a message is larger than what we asked for
            count = 1
        count = min(count, left)
        if not self._wanted:
            self._asked = monotonic()
        self._wanted += count
        self._fruitful = False
        max_bytes = 0 if self._fruitless else self._size + _HEADERS * count
        self._consumer.pull(self._token, batch=count, max_bytes=max_bytes, expires=_PULL_EXPIRES)
        self._grow()

    def _grow(self) -> None:
        self._line.ended(self._bytes - self._measured, self._came)
        self._measured = self._bytes
        size = max(ahead_of(self._bytes), self._line.ahead(self._bytes))
        more = size - FREE - self._cost
        if more > 0 and self._publisher.receive_budget.take(more):
            self._cost += more
        self._size = min(FREE + self._cost, size)

    def _receive(self, message: RawMessage | None) -> None:
        self._signal.set()
        if message is None:
            self._lost = "the connection was lost"
            return
        status = status_of(message)
        if not status:
            place = place_of(message.reply)
            if place is None:
                self._lost = "a delivered message has no place"
                return
            self._items.append((place.seq, message.data))
            self._came = monotonic()
            if self._asked:
                self._line.answered(self._asked, self._came)
                self._asked = 0.0
            self._arrived += 1
            self._wanted -= 1
            self._bytes += len(message.data)
            self._chunk_size = max(1, self._bytes // self._arrived)
            self._fruitful, self._fruitless = True, False
        elif status in (404, 408, 409) and not (self._fruitless and left_of_pull(message)):
            left = left_of_pull(message)
            self._wanted = max(0, self._wanted - left) if left is not None else 0
            self._fruitless = left != 0 and not self._fruitful
        else:
            self._lost = f"the server answered with status {status}"
