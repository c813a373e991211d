"""The chunks of one upload on their way: many in flight, each ack seen, order proven.

A chunk message has no index: its place in the object is its place in the stream. One connection keeps the order of what
it sends, so in the normal case there is nothing to do but to compare: acks must come with rising sequences. Whatever
else happens to a chunk (a time-out, a lost connection, 429 or 503 from the server) is a doubt, after which nothing may
be assumed: it may be stored or not, and others behind it may be (PROTOCOL 6, trap 12). Then we

    stop sending; wait for the connection; send a fence, a message that the stream must refuse, through the same
    queue as the chunks: when its answer is here, everything before it has been stored or dropped;
    delete what is stored behind the last chunk that is proven, newest first, and check the count of what is left;
    send again from there: chunks are kept until they are acked.

The count of stored chunks is checked once more at the end of an upload that had a doubt, or that went on where an
earlier one had stopped (`go_on`): something of that one may have come in late. Its ids are the same, so the server
refuses one of two chunks that are the same; what it calls a duplicate is a doubt. When what is stored can't be
explained, the upload is abandoned: AbandonedError, and the nuid with it.

The window starts small and doubles while the socket is idle and we still wait, so it fits the delay of the line. When
the server says that it is too much (429), the limit for all uploads on this connection is lowered; each upload without
a doubt raises it a little.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from agent.errors import BucketError, ObjectNotFoundError, StoreUnavailableError
from agent.objectstore import chunks
from agent.objectstore.answers import Ack, header_block
from agent.objectstore.prefix import Prefix
from agent.objectstore.publish import SEND_BUDGET, Pending
from agent.objectstore.source import Block
from agent.objectstore.subjects import chunk_subject

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

FIRST_WINDOW = 2 << 20
LAST_WINDOW = 32 << 20
LEAST_WINDOW = 128 << 10
MOST_CHUNKS = 512
RECOVERY = 30.0
"""Seconds that a doubt may last: the server is restarted, the network comes back."""
_TRIES = 5
_RACE_PAUSE = 0.25
_FENCE = header_block({"Nats-Expected-Stream": "-"})


class AbandonedError(StoreUnavailableError):
    """What is stored of the upload is not what was sent, and can't be mended. Nothing is visible; begin again."""


class SpoiledError(AbandonedError):
    """What is stored under the nuid will never be what was sent: nothing can go on with it."""


class _Sent:
    __slots__ = ("data", "pending")

    def __init__(self, data: Block, pending: Pending | None) -> None:
        self.data = data
        self.pending = pending


class ChunkWindow:
    """Sends the chunks of one nuid. `chunks` and `size` count what is stored for certain."""

    def __init__(
        self, bucket: Bucket, nuid: str, *, ids: bool, on_progress: Callable[[int], None] | None = None
    ) -> None:
        self._bucket = bucket
        self._publisher = bucket.connection.publisher
        self._nuid = nuid
        self._subject = chunk_subject(bucket.name, nuid)
        self._ids = ids
        self._on_progress = on_progress
        self._flight: deque[_Sent] = deque()
        self._bytes = 0
        self._limit = FIRST_WINDOW
        self._last_seq = 0
        self._doubts = 0
        self._doubts_in_a_row = 0
        self._goes_on = ""
        self.chunks = 0
        self.size = 0
        self.sent_anything = False

    def go_on(self, prefix: Prefix) -> None:
        """So much is stored already; add() what comes behind it."""
        self.chunks, self.size, self._last_seq = prefix.chunks, prefix.size, prefix.seq
        self._goes_on = secrets.token_hex(4)  # chunks that are sent again need ids that no earlier attempt has used
        self.sent_anything = True

    async def clear(self, doubt: StoreUnavailableError) -> None:
        """Begin after an attempt under this nuid that came into doubt: nothing of it stays. Raises AbandonedError."""
        self.sent_anything = True
        await self._recover(doubt)

    async def add(self, data: Block) -> None:
        """Send the next chunk; waits while the window is full. Raises the server's refusal, AbandonedError."""
        flight = self._flight
        while flight and (pending := flight[0].pending) is not None and pending.done:
            await self._reap()
        while flight and self._full(len(data)):
            if self._publisher.unsent == 0 and self._limit < LAST_WINDOW and len(flight) < MOST_CHUNKS:
                self._limit *= 2
                continue
            await self._reap()
        self._bytes += len(data)
        sent = _Sent(data, None)
        flight.append(sent)
        try:
            await self._send(sent, self.chunks + len(flight) - 1)
        except StoreUnavailableError as error:
            await self._recover(error)

    async def finish(self) -> None:
        """Return when every chunk is stored, in order. Raises as add()."""
        while self._flight:
            await self._reap()
        if self._doubts or self._goes_on:
            await self._check_count()
        elif self._publisher.window < SEND_BUDGET:
            self._publisher.window = min(SEND_BUDGET, self._publisher.window * 9 // 8)

    async def fence(self) -> None:
        """Return when the stream has dealt with everything sent before. Raises StoreUnavailableError."""
        pending = self._publisher.send(self._subject, b"", _FENCE, timeout=5.0, patient=False)
        try:
            await pending.wait()
        finally:
            pending.forget()
            self.forget()

    def forget(self) -> None:
        """Wait for no more acks."""
        for sent in self._flight:
            if sent.pending is not None:
                sent.pending.forget()

    def _full(self, more: int) -> bool:
        limit = min(self._limit, self._publisher.window)
        return self._bytes + more > limit or len(self._flight) >= MOST_CHUNKS

    async def _send(self, sent: _Sent, index: int) -> None:
        self.sent_anything = True
        headers = b""
        if self._ids:
            # The server remembers an id that it has deleted since: a chunk that is sent again needs a new one.
            again = f":{self._goes_on}{self._doubts}" if self._doubts else ""
            headers = header_block({"Nats-Msg-Id": f"{self._nuid}:{index}{again}"})
        sent.pending = await self._publisher.send_chunk(self._subject, sent.data, headers)

    async def _reap(self) -> None:
        """Wait for the oldest ack."""
        oldest = self._flight[0]
        assert oldest.pending is not None
        try:
            ack = await oldest.pending.ack()
        except StoreUnavailableError as error:
            await self._recover(error)
            return
        if not self._in_order(ack):
            await self._recover(AbandonedError(f"the chunks of {self._nuid} were stored out of order"))
            return
        self._stored(oldest, ack)

    def _in_order(self, ack: Ack) -> bool:
        if ack.stream != self._bucket.stream:
            raise BucketError(
                f"a chunk for bucket {self._bucket.name!r} was stored in stream {ack.stream!r}",
                remedy="buckets of one name in two domains of one account get each other's writes: use two names",
            )
        return ack.seq > self._last_seq and not ack.duplicate

    def _stored(self, sent: _Sent, ack: Ack) -> None:
        self._flight.popleft()
        self._last_seq = ack.seq
        self._bytes -= len(sent.data)
        self.chunks += 1
        self.size += len(sent.data)
        self._doubts_in_a_row = 0
        if self._on_progress is not None:
            self._on_progress(self.size)

    # doubts

    async def _recover(self, cause: StoreUnavailableError) -> None:
        """Bring what is stored back to what is proven, and send the rest again. Raises AbandonedError."""
        while True:
            self._doubts += 1
            self._doubts_in_a_row += 1
            if self._doubts_in_a_row > _TRIES:
                raise AbandonedError(f"an upload to {self._bucket.name!r} can't go on: {cause.message}") from cause
            self._limit = max(LEAST_WINDOW, self._limit // 4)
            if self._publisher.connected:
                # Still connected, and yet not stored: the server is overloaded. Go slower, on all transfers.
                self._publisher.window = max(LEAST_WINDOW, min(self._publisher.window, LAST_WINDOW) // 2)
            await self._settle(cause)
            try:
                await self._rewind()
                for place, sent in enumerate(list(self._flight)):
                    await self._send(sent, self.chunks + place)
                return
            except AbandonedError:
                raise
            except StoreUnavailableError as error:
                cause = error

    async def _settle(self, cause: StoreUnavailableError) -> None:
        """Connected, and everything that we sent has been stored or dropped."""
        deadline = monotonic() + RECOVERY
        lost = not self._publisher.connected
        pause = 0.05
        while True:
            try:
                if await self._bucket.connection.wait_connected(max(0.0, deadline - monotonic())):
                    await self.fence()
                    if not lost:
                        return
                    # RACE: the server may still be reading what the lost connection had brought; worst outcome: a
                    # chunk comes in after the rewind, the count is wrong at the end, and the upload is abandoned.
                    await asyncio.sleep(_RACE_PAUSE)
                    await self.fence()
                    return
            except StoreUnavailableError as error:
                cause, lost = error, lost or not self._publisher.connected
            if monotonic() > deadline:
                raise AbandonedError(f"an upload to {self._bucket.name!r} can't go on: {cause.message}") from cause
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)

    async def _rewind(self) -> None:
        await self._take_proven()
        connection, stream = self._bucket.connection, self._bucket.stream
        while True:
            try:
                answer = await connection.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": self._subject})
                seq = int(answer["message"]["seq"])
            except ObjectNotFoundError:
                seq = 0
            if seq <= self._last_seq:
                break  # smaller: 2.9 loses sight of a subject's last message when those behind it are deleted
            await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
        await self._check_count()

    async def _take_proven(self) -> None:
        """Count the chunks at the front whose acks came after all."""
        while self._flight:
            oldest = self._flight[0]
            if oldest.pending is None or not oldest.pending.done:
                return
            try:
                ack = await oldest.pending.ack()
            except StoreUnavailableError:
                return
            if not self._in_order(ack):
                return
            self._stored(oldest, ack)

    async def _check_count(self) -> None:
        count = await chunks.count(self._bucket, self._nuid)
        if count != self.chunks:
            raise SpoiledError(f"{count} chunks of {self._nuid} are stored, not {self.chunks}")
