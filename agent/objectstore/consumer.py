"""Pull consumers: made for one reader, asked for bounded amounts, always deleted.

A consumer that is left behind counts against the server's limit (a thousand downloads of a stock client reach it,
PROTOCOL 8). So each has a name of ours, which can be deleted even when the answer to its creation was lost; deleting
runs to its end when the reader is cancelled; and where all of that fails the server drops it after 30 s without use.

Consumers are created with the stream named, so they work on mirrors, which have no subjects (PROTOCOL 2 "watch").
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.errors import JetsyncError
from agent.objectstore.answers import RawMessage
from agent.objectstore.subjects import new_nuid

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

INACTIVE = 30_000_000_000
_SECOND = 1_000_000_000
_CREATE_TIMEOUT = 10.0
_DELETE_TIMEOUT = 3.0
# To find the newest message of each of a million names took a server of one core 4 s, and on a busy machine 17 s.
_NEWEST_TIMEOUT = 60.0


@dataclass(slots=True)
class Place:
    """Where a delivered message stands. pending: how many more the consumer has after it."""

    seq: int
    consumer_seq: int
    time_ns: int
    pending: int


def place_of(reply: str) -> Place | None:
    """From the ack subject: `$JS.ACK.<stream>...` with 9 tokens, or with domain and account 11 or 12. None: no such."""
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7
    if len(tokens) not in (9, 11, 12) or tokens[0] != "$JS" or tokens[1] != "ACK":
        return None
    try:
        return Place(int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 2]), int(tokens[first + 3]))
    except ValueError:
        return None


class Signal:
    """Wakes the one task that waits; set from nats-py's read loop."""

    __slots__ = ("_future", "_set")

    def __init__(self) -> None:
        self._future: asyncio.Future[bool] | None = None
        self._set = False

    def set(self) -> None:
        self._set = True
        if self._future is not None and not self._future.done():
            self._future.set_result(True)

    async def wait(self, timeout: float) -> bool:
        """Until set() was called since the last wait; False after `timeout` seconds."""
        if not self._set:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            timer = loop.call_later(timeout, _expire, self._future)
            try:
                await self._future
            finally:
                timer.cancel()
                self._future = None
        was_set, self._set = self._set, False
        return was_set


def _expire(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


class Consumer:
    """An ephemeral pull consumer in memory, without acks."""

    def __init__(self, bucket: Bucket, filter_subject: str) -> None:
        self._bucket = bucket
        self._filter = filter_subject
        self._created = False
        self.name = f"jetsync-{new_nuid()}"

    async def create(self, *, start_seq: int = 0, last_per_subject: bool = False, headers_only: bool = False) -> int:
        """The number of messages that it has for us. start_seq: 0 = from the first. Raises BucketNotFoundError, ..."""
        config: dict[str, Any] = {
            "name": self.name,
            "filter_subject": self._filter,
            "ack_policy": "none",
            "replay_policy": "instant",
            "deliver_policy": "all",
            "inactive_threshold": INACTIVE,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if start_seq > 1:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start_seq}
        elif last_per_subject:
            config["deliver_policy"] = "last_per_subject"
        if headers_only:
            config["headers_only"] = True
        self._created = True
        answer = await self._bucket.connection.api(
            f"CONSUMER.CREATE.{self._bucket.stream}.{self.name}",
            {"stream_name": self._bucket.stream, "config": config},
            what=f"read bucket {self._bucket.name!r}",
            timeout=_NEWEST_TIMEOUT if last_per_subject else _CREATE_TIMEOUT,
        )
        return int(answer.get("num_pending", 0))

    async def progress(self) -> tuple[int, int]:
        """The consumer sequence that it has delivered last, and how many messages it still has to deliver.

        Raises ConsumerNotFoundError, ...
        """
        answer = await self._bucket.connection.api(f"CONSUMER.INFO.{self._bucket.stream}.{self.name}")
        delivered = answer.get("delivered") or {}
        return int(delivered.get("consumer_seq", 0)), int(answer.get("num_pending", 0))

    def pull(self, token: str, *, batch: int, max_bytes: int = 0, expires: float, heartbeat: float = 0.0) -> None:
        """Ask for `batch` messages on the publisher's token. Raises StoreUnavailableError when not connected."""
        body: dict[str, int] = {"batch": batch, "expires": int(expires * _SECOND)}
        if max_bytes:
            body["max_bytes"] = max_bytes
        if heartbeat:
            body["idle_heartbeat"] = int(heartbeat * _SECOND)
        connection = self._bucket.connection
        subject = connection.api_subject(f"CONSUMER.MSG.NEXT.{self._bucket.stream}.{self.name}")
        connection.publisher.post(token, subject, json.dumps(body).encode())

    async def delete(self) -> None:
        """Gone, as far as we can reach the server. Raises nothing."""
        if not self._created:
            return
        self._created = False
        connection = self._bucket.connection
        try:
            await connection.api(f"CONSUMER.DELETE.{self._bucket.stream}.{self.name}", timeout=_DELETE_TIMEOUT)
        except JetsyncError:
            pass  # not there any more, or not reachable: the server drops it by itself


def left_of_pull(message: RawMessage) -> int | None:
    """How many messages of its request a status message says will not come; None when it doesn't say."""
    text = (message.headers or {}).get("Nats-Pending-Messages", "")
    return int(text) if text.isdigit() else None
