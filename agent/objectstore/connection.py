"""One connection to NATS, which outlives nats-py's client, and whose requests never hang.

    open      tries the servers until the time-out, then says why not: unreachable, not let in, JetStream off
    after     reconnects for ever. nats-py gives up for good on some server errors (expired credentials, a control
              line that is too long) and can get stuck; a supervising task then makes a new client in its place
    requests  go through the `publisher` (see publish.py), which fails them at once when the connection is lost or when
              the server refuses their subject: it is told here
    writes    while disconnected nothing is queued: a request fails with NotSentError, which promises that it has had no
              effect. What was on its way when the connection broke has an unknown outcome (StoreUnavailableError)

A dead peer is noticed after 10 to 15 seconds (a ping every 5 s, two may be outstanding). Callbacks of nats-py never
print. JetStream API subjects carry the domain; `$O.` subjects never do (PROTOCOL 2 "JS domain").
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from agent.errors import ConnectError, JetsyncError, NotAllowedError, StoreError, StoreUnavailableError
from agent.objectstore.client import JetsyncClient, RefusedError
from agent.objectstore.credentials import Access, display_url, read_secrets, tls_context
from agent.objectstore.errors_map import NotSentError, error_of
from agent.objectstore.natspy import errors
from agent.objectstore.publish import Answer, Publisher, header_block
from agent.objectstore.subjects import new_nuid

__all__ = ["Answer", "Connection"]

PING_INTERVAL = 5.0
MAX_PINGS = 2
RECONNECT_WAIT = 0.5
LOOK_UP = 10.0
LOOK_DOWN = 1.0
"""Seconds between two looks at the client, should it not have told. While it is connected it does tell, so they are
rare: each one takes an idle agent out of its sleep."""
_ELSEWHERE = 1.0
REPLACE_AFTER = 60.0
"""A client that hasn't come back for so long is replaced: it re-reads the TLS files, and can't be stuck."""
MAX_SUBJECT = 3000
"""Subject, reply and sizes must fit into the server's control line of 4096 bytes, or it closes the connection."""

PENDING_SIZE = 128 << 20
"""nats-py's send buffer. Larger than the publisher's budget: when it is full, nats-py swallows cancellations."""

_UNSENDABLE = re.compile(r"[\s\x00]")
_AUTHORIZATION = ("authorization", "authentication")


class Connection:
    """Use `open`. All methods belong to the event loop that opened it."""

    def __init__(self, access: Access, *, name: str, servers: Sequence[str], user: str | None, password: str | None):
        self._access = access
        self._name = name
        self._servers = list(servers)
        self._user = user
        self._password = password
        self._client: JetsyncClient | None = None
        self.publisher = Publisher(f"_INBOX.{new_nuid()}")
        """What all messages go through; it outlives nats-py's client, as this connection does."""
        self._up = False
        self._down_since = 0.0
        self._closing = False
        self._wake = asyncio.Event()
        self._stale = False
        self._supervisor: asyncio.Task[None] | None = None
        self._watchers: list[Callable[[bool], None]] = []
        self._refusals = 0
        self._not_let_in = ""
        self._definite: asyncio.Event | None = None
        self._reconnected = asyncio.Event()
        self._version = (0, 0, 0)
        self.domain: str | None = access.domain or None
        self.reconnects = 0
        self.last_error = ""
        """What went wrong last with the connection, for people; "" when nothing did."""

    @classmethod
    async def open(
        cls,
        access: Access,
        *,
        name: str,
        timeout: float = 10.0,
        servers: Sequence[str] | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> Self:
        """Connect, and check that JetStream answers. `timeout`: seconds for all of it.

        `servers`, `user` and `password` stand in for those of `access` (the embedded server's).

        Raises ConnectError: nobody answers, TLS fails, or JetStream doesn't answer. NotAllowedError: the server doesn't
        let us in, a secret's file can't be read, JetStream is off, or its domain isn't there.
        """
        connection = cls(access, name=name, servers=servers or access.servers, user=user, password=password)
        deadline = time.monotonic() + timeout
        read_secrets(access, user=user, password=password)  # a missing file should be told at once, and by its name
        await connection._connect_first(timeout)
        connection._supervisor = asyncio.create_task(connection._supervise(), name="nats-supervisor")
        try:
            await connection._check_jetstream(deadline)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._up

    @property
    def server_version(self) -> tuple[int, int, int]:
        """Of the server at the other end. The one that has the stream may be another: see Bucket.server_version."""
        return self._version

    @property
    def max_payload(self) -> int:
        """Largest message in bytes, headers included, as this server has told."""
        return int(self._client.max_payload) if self._client else 1 << 20

    @property
    def url(self) -> str:
        """The servers as they may be shown: without secrets."""
        return ", ".join(display_url(server) for server in self._servers)

    def on_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call back with True or False when the connection comes or goes. Returns the function that ends it."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback) if callback in self._watchers else None

    async def wait_connected(self, timeout: float) -> bool:
        """Wait until connected, `timeout` seconds at most; whether it is."""
        if not self._up:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._reconnected.wait()
        return self._up

    async def rtt(self) -> float:
        """Seconds for a round trip. Raises StoreUnavailableError."""
        client = self._client
        if client is None or not self._up:
            raise self._not_connected()
        try:
            return float(await client.rtt(5))
        except errors.Error as error:
            raise StoreUnavailableError(f"no answer from {self.url}: {error}") from error

    def use(self, access: Access) -> None:
        """Connect anew, with other servers or other ways to log in. What is under way has an unknown outcome, as with
        any lost connection. The domain stays."""
        self._access = access
        self._servers = list(access.servers)
        self._not_let_in = ""
        self._stale = True
        self._wake.set()

    async def close(self) -> None:
        """Close for good. What still waits for an answer fails with StoreUnavailableError."""
        if self._closing:
            return
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        self.publisher.close()
        await self._drop(self._client)
        self._set_up(False)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> Answer:
        """Send a request, and wait for its answer, `timeout` seconds at most.

        Raises NotSentError when it reached nobody (not connected, no responders), StoreUnavailableError on a time-out
        or when the connection is lost meanwhile (it may or may not have been carried out), NotAllowedError when the
        server refuses the subject, StoreError when the message is too long for the server.
        """
        if not self._up:
            raise self._not_connected()
        if len(subject) > MAX_SUBJECT or _UNSENDABLE.search(subject):
            raise StoreError(f"{subject[:60]!r}... ({len(subject)} characters) can't be a subject")
        return await self.publisher.request(
            subject, payload, header_block(headers) if headers else b"", timeout=timeout
        )

    async def api(
        self, verb: str, body: Mapping[str, Any] | None = None, *, what: str = "", timeout: float = 5.0
    ) -> dict[str, Any]:
        """A JetStream API request: `$JS.API.<verb>`, or the domain's. `what`: the request in words, for the error.

        Raises what `errors_map` makes of the server's error, and what `request` raises.
        """
        answer = await self.api_answer(verb, body, timeout=timeout)
        error = answer.get("error")
        if isinstance(error, dict):
            raise error_of(error, what=what or verb)
        return answer

    async def api_answer(
        self, verb: str, body: Mapping[str, Any] | None = None, *, timeout: float = 5.0
    ) -> dict[str, Any]:
        """As `api`, but a server's error is left in the answer, under "error"."""
        payload = json.dumps(body, ensure_ascii=False).encode() if body is not None else b""
        message = await self.request(self.api_subject(verb), payload, timeout=timeout)
        try:
            answer = json.loads(message.data)
        except ValueError as error:
            raise StoreError(f"the answer to {verb} is not JSON") from error
        if not isinstance(answer, dict):
            raise StoreError(f"the answer to {verb} is not a JSON object")
        return answer

    def api_subject(self, verb: str) -> str:
        return f"$JS.{self.domain}.API.{verb}" if self.domain else f"$JS.API.{verb}"

    def direct_subject(self, stream: str) -> str:
        """Where to ask for direct gets of a stream."""
        return self.api_subject(f"DIRECT.GET.{stream}")

    # -- connecting -------------------------------------------------------------------------------------------------

    async def _connect_first(self, timeout: float) -> None:
        self._definite = asyncio.Event()
        connecting = asyncio.create_task(self._new_client(), name="nats-connect")
        refused = asyncio.create_task(self._definite.wait(), name="nats-refused")
        try:
            await asyncio.wait({connecting, refused}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise self._connect_error(timeout)
            try:
                self._adopt(connecting.result())
            except (errors.Error, OSError, ValueError) as error:
                raise ConnectError(f"can't connect to {self.url}: {error}") from error
        finally:
            self._definite = None
            for task in (connecting, refused):
                if not task.done():
                    task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    def _connect_error(self, timeout: float) -> ConnectError:
        if self._not_let_in:
            return NotAllowedError(
                f"{self.url} does not let us in: {self._not_let_in}",
                remedy="check user, password, token or credentials",
            )
        return ConnectError(
            f"can't connect to {self.url} within {timeout:g} s: {self.last_error or 'no answer'}",
            remedy="check that the server runs, its address, and the firewall",
        )

    async def _new_client(self) -> JetsyncClient:
        """A connected client with the inbox subscribed. Tries for ever: the caller gives up; then it leaves nothing."""
        client = JetsyncClient(
            lambda: read_secrets(self._access, user=self._user, password=self._password), troubled=self._wake.set
        )

        async def on_error(error: Exception) -> None:
            self._on_error(error)

        async def on_disconnected() -> None:
            if client is self._client:
                self._set_up(False)

        async def on_reconnected() -> None:
            if client is self._client:
                self._adopt(client)

        async def on_closed() -> None:
            if client is self._client:
                self._set_up(False)

        try:
            await client.connect(
                servers=self._servers,
                name=self._name,
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                closed_cb=on_closed,
                connect_timeout=5,
                reconnect_time_wait=RECONNECT_WAIT * (1 + random.random()),  # type: ignore[arg-type]  # float is fine
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL,  # type: ignore[arg-type]
                max_outstanding_pings=MAX_PINGS,
                tls=tls_context(self._access),
                pending_size=PENDING_SIZE,
            )
            await self.publisher.subscribe(client)
        except BaseException:
            await self._drop(client)
            raise
        return client

    def _adopt(self, client: JetsyncClient) -> None:
        self._client = client
        self.publisher.use(client)
        self._version = parse_version(client.server_version_text)
        self._set_up(True)

    async def _supervise(self) -> None:
        """Replace a client that has closed itself, or that hasn't come back for long."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_UP if self._up else LOOK_DOWN):
                    await self._wake.wait()
            self._wake.clear()
            client = self._client
            if client is None:
                continue
            if self._up:
                if client.is_connected and not self._stale:
                    continue
                self._set_up(False)  # nats-py has noticed, but may wait minutes for a dead peer before it tells
                client.abort()
            if self._stale or client.is_closed or time.monotonic() - self._down_since > REPLACE_AFTER:
                await self._drop(client)
                self._client = None
                await self._replace()

    async def _replace(self) -> None:
        while True:
            self._stale = False
            try:
                client = await self._replacement()
            except (TimeoutError, errors.Error, OSError, ValueError, JetsyncError) as error:
                self.last_error = str(error) or self.last_error
                await asyncio.sleep(RECONNECT_WAIT * (1 + random.random()))
                continue
            self._adopt(client)
            return

    async def _replacement(self) -> JetsyncClient:
        """A new client, within REPLACE_AFTER; given up when `use` says that it has to be another one."""
        making = asyncio.create_task(self._new_client(), name="nats-replacement")
        deadline = time.monotonic() + REPLACE_AFTER
        try:
            while not making.done() and not self._stale and time.monotonic() < deadline:
                await asyncio.wait([making], timeout=0.5)
            if making.done():
                return making.result()
            raise TimeoutError
        finally:
            while not making.done():  # repeated: Python 3.11's wait_for, which nats-py uses, can swallow a cancellation
                making.cancel()
                await asyncio.wait([making], timeout=1.0)

    async def _drop(self, client: JetsyncClient | None) -> None:
        if client is None:
            return
        client.abort()  # close() waits for a peer that may be dead
        with suppress(Exception):
            async with asyncio.timeout(2.0):
                await client.close()

    def _set_up(self, up: bool) -> None:
        if up:
            self._reconnected.set()
        if up == self._up:
            return
        self._up = up
        if up:
            self.reconnects += 1 if self._down_since else 0
        else:
            self._reconnected.clear()
            self._down_since = time.monotonic()
            self.publisher.connection_lost()
            self._wake.set()
        for watcher in list(self._watchers):
            watcher(up)

    def _on_error(self, error: Exception) -> None:
        """What nats-py reports. Core NATS has no error codes: its -ERR lines are text, and come in lower case."""
        text = str(error) or type(error).__name__
        self.last_error = text
        lower = text.lower()
        if "permissions violation" in lower:
            self.publisher.error(error)
            return
        not_let_in = any(word in lower for word in _AUTHORIZATION)
        if not_let_in:
            self._not_let_in = text.removeprefix("nats: ").strip("'")
        if not_let_in or isinstance(error, RefusedError | ssl.SSLCertVerificationError):
            self._refusals += 1
            if self._definite is not None and self._refusals >= len(self._servers):
                self._definite.set()  # each of them has answered, and said no: waiting won't help

    def _not_connected(self) -> NotSentError:
        return NotSentError(f"not connected to {self.url}" + (f": {self.last_error}" if self.last_error else ""))

    # -- JetStream --------------------------------------------------------------------------------------------------

    async def _check_jetstream(self, deadline: float) -> None:
        """JetStream answers, or we say why not. No permission for $JS.API.INFO is fine: it isn't needed otherwise."""
        where = f"JetStream domain {self.domain!r}" if self.domain else "JetStream"
        if not self.domain and self._client is not None and not self._client.serves_jetstream:
            deadline = min(deadline, time.monotonic() + _ELSEWHERE)  # only another server of the cluster can have it
        while True:
            left = deadline - time.monotonic()
            try:
                await self.api("INFO", what=f"use {where}", timeout=max(min(left, 5.0), 0.5))
            except NotAllowedError as error:
                if f"$js.{self.domain or 'api'}." in error.message.lower():
                    return
                raise
            except NotSentError as error:
                if time.monotonic() + 0.5 >= deadline:
                    raise NotAllowedError(
                        f"{where} is not there at {self.url}",
                        remedy="check nats.domain and the leaf connection"
                        if self.domain
                        else "enable JetStream on the server and for this account",
                    ) from error
                await asyncio.sleep(0.25)
            except StoreUnavailableError as error:
                if time.monotonic() + 0.5 >= deadline:
                    raise ConnectError(f"{where} at {self.url} does not answer: {error.message}") from error
                await asyncio.sleep(0.25)
            except StoreError as error:
                raise ConnectError(f"can't use {where} at {self.url}: {error}") from error
            else:
                return


def parse_version(text: str) -> tuple[int, int, int]:
    """ "2.15.1-RC.2" -> (2, 15, 1); (0, 0, 0) when it is no version."""
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)
