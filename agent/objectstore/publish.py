"""Everything that is sent to the server and answered by it: publishes with acks, requests, streams of answers.

One inbox subscription per connection serves them all. A message that wants an answer carries the reply subject
`<inbox>.<token>`; the token finds its `Pending` in a dict. nats-py hands each message of a `future=` subscription to
`set_result` of that object, so the object here is a sink that dispatches: no queue, no task, no slow-consumer drops,
about a third of the cost of a callback subscription. What keeps memory bounded is that each answer was asked for: acks
by the byte budget (`budget.py`), batches by their readers. Messages that are sent and waited for together share one
`Volley` (`volley.py`).

Sending appends to nats-py's own list of pending commands and kicks its flusher once per round of the loop. Its
`publish()` isn't used: it copies each payload twice, and when the list is full it waits in a place that swallows
CancelledError.

What an error means is exact, since the rules for purging depend on it (PROTOCOL 6, trap 13): UnknownOutcomeError says
that a publish was sent and no answer came (time-out, disconnect); any other error of a publish says that the server did
not store it. When the connection is lost, everything that waits fails at once, and commands not yet written are thrown
away: nats-py would send them after the reconnect, long after their writers were told that they failed.

Time-outs are kept by one timer for all. A publish is given up when nothing at all has been heard for its time-out, or
at six times that: on a slow link the last ack of a full window comes late, but others come before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from agent.errors import JetsyncError, NotAllowedError, StoreError, StoreUnavailableError, UnknownOutcomeError
from agent.objectstore.answers import Ack, Answer, RawMessage, answer_of, consumer_of, header_block, parse_ack
from agent.objectstore.budget import ByteBudget
from agent.objectstore.errors_map import NotSentError
from agent.objectstore.subjects import permission_for
from agent.objectstore.volley import Message, Volley

__all__ = ["Ack", "Answer", "Pending", "Publisher", "answer_of", "header_block"]

SEND_BUDGET = 48 << 20
"""Bytes of chunks that may be sent and not yet acked, over all transfers of one connection. The server's own queue for
a stream is 128 MiB or 100,000 messages (PROTOCOL 3g)."""

RECEIVE_BUDGET = 32 << 20
"""Bytes that readers may ask for ahead of what they have consumed, over all downloads of one connection."""

PUBLISH_TIMEOUT = 10.0
_PATIENCE = 6
_SWEEP = 0.25
MESSAGE_COST = 512  # what a small message costs beside its payload, in the budget
_CRLF = b"\r\n"
_COPY_BELOW = 16384  # smaller payloads are cheaper copied into one command than written as three pieces


class Pending:
    """A message that was sent and waits for its answer. It may be awaited again after a cancellation."""

    __slots__ = ("_error", "_future", "_message", "_patient", "_publisher", "_sent", "_timeout", "_token", "_weight",
                 "subject")  # fmt: skip

    def __init__(
        self, publisher: Publisher, token: str, subject: str, *, timeout: float, patient: bool, weight: int
    ) -> None:
        self._publisher = publisher
        self._token = token
        self.subject = subject
        self._sent = monotonic()
        self._timeout = timeout
        self._patient = patient
        self._weight = weight
        self._message: RawMessage | None = None
        self._error: JetsyncError | None = None
        self._future: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        return self._message is not None or self._error is not None

    async def wait(self) -> RawMessage:
        """The raw answer. Raises UnknownOutcomeError or NotAllowedError when there will be none."""
        while self._message is None:
            if self._error is not None:
                raise self._error
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._future
            finally:
                self._future = None
        return self._message

    async def ack(self) -> Ack:
        """The parsed ack. Raises what the server refused it with, UnknownOutcomeError, or NotAllowedError."""
        return parse_ack(await self.wait(), self.subject)

    def forget(self) -> None:
        """Nobody waits any more."""
        self._publisher._forget(self)  # noqa: SLF001 - one mechanism in two classes

    # what the publisher calls

    def settle(self, _token: str, message: RawMessage | None, error: JetsyncError | None) -> None:
        self._message, self._error = message, error
        if self._weight:
            self._publisher.budget.release(self._weight)
            self._weight = 0
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def subject_of(self, _token: str) -> str:
        return self.subject

    def overdue(self, now: float, heard: float) -> bool:
        if not self._patient:
            return now - self._sent > self._timeout
        return now - max(self._sent, heard) > self._timeout or now - self._sent > self._timeout * _PATIENCE


class Publisher:
    """See the module's story. Made by Connection, which tells it what happens: subscribe() for each new client of
    nats-py, use() when it is connected, connection_lost(), error(), close()."""

    def __init__(self, inbox: str) -> None:
        self._client: Any = None
        self.budget = ByteBudget(SEND_BUDGET)
        self.receive_budget = ByteBudget(RECEIVE_BUDGET)
        self.window = SEND_BUDGET
        """Upper bound of one transfer's window in bytes: halved when the server says that it is too much."""
        self._waiting: dict[str, Pending | Volley | Callable[[RawMessage | None], None]] = {}
        self._posted: dict[str, str | NotAllowedError] = {}  # token -> subject of its requests, or why there is none
        self._inbox = inbox
        self._skip = len(inbox) + 1
        self._count = 0
        self._heard = monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._refused: NotAllowedError | None = None
        self._closed = False

    async def subscribe(self, client: Any) -> None:
        """Subscribe the inbox on a new client. nats-py repeats the subscription after each reconnect."""
        await client.subscribe(f"{self._inbox}.*", future=self)

    def use(self, client: Any) -> None:
        """This client is connected now: what is sent goes through it."""
        self._client = client
        self._refused = None

    @property
    def connected(self) -> bool:
        return self._client is not None and bool(self._client.is_connected) and not self._closed

    @property
    def max_payload(self) -> int:
        return int(self._client.max_payload) if self._client is not None else 1 << 20

    @property
    def unsent(self) -> int:
        """Bytes that wait in this process to be written to the socket."""
        client = self._client
        if client is None:
            return 0
        writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - a WebSocket has none
        return int(client.pending_data_size) + (writer.transport.get_write_buffer_size() if writer is not None else 0)

    # sending

    def send(
        self,
        subject: str,
        payload: bytes | memoryview = b"",
        headers: bytes = b"",
        *,
        timeout: float = PUBLISH_TIMEOUT,
        weight: int = 0,
        patient: bool = True,
    ) -> Pending:
        """Put a message on the wire; its answer is the Pending's. `headers` as from header_block().

        weight: bytes of `budget` that the caller has acquired, released when the answer is here or will never be.
        Raises StoreUnavailableError or NotAllowedError when the message was not sent, and then has released the weight.
        """
        self._count += 1
        token = str(self._count)
        pending = Pending(self, token, subject, timeout=timeout, patient=patient, weight=weight)
        try:
            self._write(subject, f"{self._inbox}.{token}", payload, headers)
        except JetsyncError:
            pending.settle(token, None, None)
            raise
        self._waiting[token] = pending
        if self._timer is None:
            self._arm()
        return pending

    def send_many(self, messages: Sequence[Message], *, timeout: float = PUBLISH_TIMEOUT, weight: int = 0) -> Volley:
        """Put messages on the wire in one piece; the Volley has their answers. Otherwise as `send`: none was sent when
        this raises, also when one of them is too large for the server."""
        first = self._count + 1
        self._count += len(messages)
        try:
            self._write_many(first, messages)
        except JetsyncError:
            self.budget.release(weight)
            raise
        volley = Volley(
            [subject for subject, _, _ in messages], first, timeout=timeout, done=lambda: self.budget.release(weight)
        )
        self._waiting.update((str(number), volley) for number in range(first, first + len(messages)))
        if self._timer is None:
            self._arm()
        return volley

    async def send_chunk(self, subject: str, payload: bytes | memoryview, headers: bytes = b"") -> Pending:
        """Send within the byte budget of the connection: waits while too much is in flight."""
        weight = len(payload) + MESSAGE_COST
        if not self.budget.take(weight):
            await self.budget.acquire(weight)
        return self.send(subject, payload, headers, weight=weight)

    async def publish(
        self, subject: str, payload: bytes = b"", headers: bytes = b"", *, timeout: float = PUBLISH_TIMEOUT
    ) -> Ack:
        """Publish, and wait for the ack. Raises as Pending.ack()."""
        pending = self.send(subject, payload, headers, timeout=timeout)
        try:
            return await pending.ack()
        finally:
            pending.forget()

    async def request(
        self, subject: str, payload: bytes = b"", headers: bytes = b"", *, timeout: float = 5.0
    ) -> Answer:
        """Ask, and wait for one answer.

        Raises StoreUnavailableError (time-out, disconnect; NotSentError when nobody was there), NotAllowedError.
        """
        pending = self.send(subject, payload, headers, timeout=timeout, patient=False)
        try:
            message = await pending.wait()
        except UnknownOutcomeError as error:
            raise StoreUnavailableError(error.message, remedy=error.remedy) from error
        finally:
            pending.forget()
        answer = answer_of(message)
        if answer.status == 503 and not answer.data:
            raise NotSentError(f"nobody answers on {subject!r}", remedy="is JetStream enabled for this account?")
        return answer

    def open(self, handler: Callable[[RawMessage | None], None], *, token: str = "") -> str:
        """A token for many answers: `handler` is called with each, and with None when the connection is lost.

        For a pull consumer `token` must be its name: the messages that it delivers keep the subject that they
        have in the stream, and only their reply (`$JS.ACK.<stream>.<consumer>...`) tells whom they are for.
        It is called inside nats-py's read loop: it must not raise and should only store. close_token() ends it.
        """
        if not token:
            self._count += 1
            token = str(self._count)
        self._waiting[token] = handler
        return token

    def post(self, token: str, subject: str, payload: bytes) -> None:
        """Send a request whose answers go to the handler of `token`. Raises StoreUnavailableError, NotAllowedError."""
        self._posted[token] = subject
        self._write(subject, f"{self._inbox}.{token}", payload, b"")

    def close_token(self, token: str) -> None:
        self._waiting.pop(token, None)
        self._posted.pop(token, None)

    def refused(self, token: str) -> NotAllowedError | None:
        """Why the server takes no requests of this token, which is asked for before it is closed."""
        refusal = self._posted.get(token)
        return refusal if isinstance(refusal, NotAllowedError) else None

    def _write(self, subject: str, reply: str, payload: bytes | memoryview, headers: bytes) -> None:
        client = self._connected_client()
        size = len(payload)
        total = size + len(headers)
        if total > client.max_payload:
            raise _too_large(subject, total, client.max_payload)
        if headers:
            head = f"HPUB {subject} {reply} {len(headers)} {total}\r\n".encode() + headers
        else:
            head = f"PUB {subject} {reply} {size}\r\n".encode()
        if size < _COPY_BELOW:
            self._append(b"".join((head, payload, _CRLF)))
        else:
            self._append(head, payload, _CRLF)

    def _write_many(self, first: int, messages: Sequence[Message]) -> None:
        """`first`: the reply token of the first, as a number."""
        most = self._connected_client().max_payload
        reply = f"{self._inbox}."
        pieces: list[bytes] = []
        for number, (subject, payload, headers) in enumerate(messages, first):
            size = len(payload)
            total = size + len(headers)
            if total > most:
                raise _too_large(subject, total, most)
            if headers:
                head = f"HPUB {subject} {reply}{number} {len(headers)} {total}\r\n"
                pieces += (head.encode(), headers, payload, _CRLF)
            else:
                pieces += (f"PUB {subject} {reply}{number} {size}\r\n".encode(), payload, _CRLF)
        self._append(b"".join(pieces))

    def _connected_client(self) -> Any:
        """Raises NotAllowedError, NotSentError."""
        if self._refused is not None:
            raise self._refused
        if not self.connected:
            raise NotSentError("not connected to the server")
        return self._client

    def _append(self, *pieces: bytes | memoryview) -> None:
        """To nats-py's own list; see the module's story for why not publish(). A test fails when its fields change."""
        client = self._client
        client._pending += pieces  # noqa: SLF001
        client._pending_data_size += sum(map(len, pieces))  # noqa: SLF001
        if client._flush_queue.empty():  # noqa: SLF001
            client._flush_queue.put_nowait(asyncio.get_running_loop().create_future())  # noqa: SLF001

    # receiving: nats-py treats this object as the future of the inbox subscription

    def cancelled(self) -> bool:
        return False

    def set_result(self, message: RawMessage) -> None:
        subject = message.subject
        token = subject[self._skip :] if subject.startswith(self._inbox) else consumer_of(message.reply)
        waiting = self._waiting.get(token)
        if waiting is None:
            return
        self._heard = monotonic()
        if isinstance(waiting, Pending | Volley):
            del self._waiting[token]
            waiting.settle(token, message, None)
        else:
            waiting(message)

    def _forget(self, pending: Pending) -> None:
        if self._waiting.pop(pending._token, None) is not None:  # noqa: SLF001
            pending.settle(pending._token, None, StoreUnavailableError("nobody waits for the answer any more"))  # noqa: SLF001

    # when no answer will come

    def connection_lost(self) -> None:
        """Everything that waits fails now, and what isn't written yet never will be."""
        if self._client is not None:
            self._client._pending = []  # noqa: SLF001 - subscriptions are repeated by nats-py itself
            self._client._pending_data_size = 0  # noqa: SLF001
            self._client = None
        self._fail(lambda subject: UnknownOutcomeError(f"the connection was lost before {subject!r} was answered"))

    def error(self, problem: Exception) -> None:
        """An error that the server reports by itself: a permission that is missing is told to whoever waits for it."""
        text = str(problem).lower()
        if "permissions violation" not in text:
            return
        quoted = text.partition('"')[2].partition('"')[0]
        if "subscription" in text:
            if quoted.startswith(self._inbox.lower()):
                self._refused = NotAllowedError(
                    f"this user may not subscribe to its inbox {self._inbox}.*",
                    remedy="allow subscriptions to _INBOX.> for this user",
                )
                self._fail(lambda _: self._refused)
            return
        # nats-py tells the subject in lower case: ours is the one to show, since permissions mind the case.
        self._fail(lambda subject: _refusal(subject) if subject.lower() == quoted else None)
        for token, subject in self._posted.items():
            handler = self._waiting.get(token)
            if not isinstance(subject, str) or subject.lower() != quoted:
                continue
            if handler is not None and not isinstance(handler, Pending | Volley):
                self._posted[token] = _refusal(subject)
                handler(None)

    def close(self) -> None:
        self._closed = True
        self._fail(lambda subject: UnknownOutcomeError(f"the connection was closed before {subject!r} was answered"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error_for: Callable[[str], JetsyncError | None]) -> None:
        """Have those fail that wait for an answer to a subject with an error; who listens is told of the end."""
        everything = not self.connected or self._refused is not None
        for token, waiting in list(self._waiting.items()):
            if isinstance(waiting, Pending | Volley):
                error = error_for(waiting.subject_of(token))
                if error is not None:
                    del self._waiting[token]
                    waiting.settle(token, None, error)
            elif everything:
                waiting(None)

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = monotonic() + _SWEEP
        self._timer = loop.call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        self._timer = None
        if not any(isinstance(waiting, Pending | Volley) for waiting in self._waiting.values()):
            return
        # The loop stood still (a suspended machine, a long computation): answers may be here, only not read yet.
        if now - self._due < 1.0:
            for token, waiting in list(self._waiting.items()):
                if isinstance(waiting, Pending | Volley) and waiting.overdue(now, self._heard):
                    del self._waiting[token]
                    subject = waiting.subject_of(token)
                    waiting.settle(token, None, UnknownOutcomeError(f"the server did not answer {subject!r} in time"))
        self._arm()


def _too_large(subject: str, size: int, most: int) -> StoreError:
    return StoreError(f"a message of {size} bytes on {subject!r} is over the server's max_payload of {most}")


def _refusal(subject: str) -> NotAllowedError:
    return NotAllowedError(
        f"this user may not publish to {permission_for(subject)}",
        remedy="add the subject to the user's publish permissions",
    )
