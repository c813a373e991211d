"""What an interrupted upload has stored: is it the beginning of the object, whole and in order, so that it can go on?

The chunks of an upload that may go on carry `Nats-Msg-Id: <nuid>:<index>` (with a suffix where one was sent again). A
consumer that delivers headers only tells index and size of every chunk that is stored, in stream order: 2,000 small
messages for a gibibyte. Only when the indexes are 0, 1, 2 ... without a gap or a repetition, and all sizes are the same
but that of an object's last chunk, is what is stored a beginning. (The count and the last index alone, DESIGN 6, don't
tell a lost chunk together with a repeated one.) Anything else can't be gone on with: it is for the caller's journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.errors import StoreUnavailableError
from agent.objectstore import chunks
from agent.objectstore.answers import RawMessage, status_of
from agent.objectstore.consumer import Consumer, Signal, place_of
from agent.objectstore.subjects import chunk_subject

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

MESSAGE_ID = "Nats-Msg-Id"
SIZE = "Nats-Msg-Size"
_BATCH = 1000
_EXPIRES = 30.0
_IDLE = 8.0


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of an object, as stored: `chunks` of `chunk_size` bytes each (but an object's last may be smaller),
    `size` bytes in all, the last at stream sequence `seq`. All zero when nothing is stored."""

    chunks: int = 0
    size: int = 0
    chunk_size: int = 0
    seq: int = 0


async def stored_prefix(bucket: Bucket, nuid: str, *, size: int) -> Prefix | None:
    """What is stored under the nuid of an object of `size` bytes; None when that isn't its beginning.

    Raises StoreUnavailableError, ...
    """
    if not await chunks.count(bucket, nuid):
        return Prefix()
    walk = _Walk(nuid)
    await walk.run(bucket)
    return walk.prefix(size)


class _Walk:
    def __init__(self, nuid: str) -> None:
        self._nuid = nuid
        self._signal = Signal()
        self._lost = ""
        self._sizes: list[int] = []
        self._last = 0
        self._in_order = True

    async def run(self, bucket: Bucket) -> None:
        consumer = Consumer(bucket, chunk_subject(bucket.name, self._nuid))
        publisher = bucket.connection.publisher
        token = ""
        try:
            total = await consumer.create(headers_only=True)
            token = publisher.open(self._receive, token=consumer.name)
            asked = 0
            while len(self._sizes) < total and not self._lost:
                if asked <= len(self._sizes):
                    asked += _BATCH
                    consumer.pull(token, batch=_BATCH, expires=_EXPIRES)
                if not await self._signal.wait(_IDLE):
                    self._lost = f"nothing has come for {_IDLE:g} s"
        finally:
            publisher.close_token(token)
            await consumer.delete()
        if self._lost:
            raise StoreUnavailableError(f"can't see what is stored under {self._nuid}: {self._lost}")

    def _receive(self, message: RawMessage | None) -> None:
        self._signal.set()
        place = place_of(message.reply) if message is not None else None
        if message is None or status_of(message) or place is None:
            self._lost = "the connection was lost" if message is None else "the server ended the delivery"
            return
        headers = message.headers or {}
        index = headers.get(MESSAGE_ID, "").removeprefix(f"{self._nuid}:").partition(":")[0]
        size = headers.get(SIZE, "")
        self._in_order = self._in_order and index == str(len(self._sizes)) and size.isdigit()
        self._sizes.append(int(size) if size.isdigit() else 0)
        self._last = place.seq

    def prefix(self, size: int) -> Prefix | None:
        sizes = self._sizes
        if not sizes or not self._in_order or not sizes[0]:
            return None
        total, whole = sum(sizes), sizes[0]
        regular = all(each == whole for each in sizes[:-1])
        complete = total == size and sizes[-1] <= whole
        if not regular or total > size or not (complete or sizes[-1] == whole):
            return None
        return Prefix(len(sizes), total, whole, self._last)
