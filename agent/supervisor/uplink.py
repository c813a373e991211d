"""The way to the server: the embedded one, when there is one; one connection for all; and how it is doing.

Connecting is tried however long it takes, in the background; afterwards the connection keeps itself up. Whoever needs
the bucket of a mapping asks `remotes`; `changed` is called when the connection comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from agent.config.model import Config
from agent.errors import ConnectError, JetsyncError, NotAllowedError
from agent.objectstore import Connection
from agent.observe.logging import Once, get_logger
from agent.observe.meter import Meters
from agent.observe.status import NatsStatus
from agent.sync.remotes import Remotes
from agent.sync.retry import Backoff

if TYPE_CHECKING:
    from agent.embedded import EmbeddedServer

CONNECT_SECONDS = 5.0
RTT_INTERVAL = 15.0


class Uplink:
    """`run` is its only task. back: called when the connection is there, again or for the first time."""

    def __init__(self, config: Config, metrics: Meters, back: Callable[[], None]) -> None:
        self._config = config
        self._metrics = metrics
        self._back = back
        self._log = get_logger()
        self._once = Once()
        self.embedded: EmbeddedServer | None = None
        self._connection: Connection | None = None
        self.remotes = Remotes(config.buckets)
        self._rtt: float | None = None
        self._offline_since: float | None = time.monotonic()
        self._error: ConnectError | None = None
        self._closing = False
        self._connected = asyncio.Event()

    async def start_embedded(self) -> None:
        """Start the embedded server, if the configuration asks for one."""
        wanted = self._config.nats.embedded
        if wanted is None:
            return
        from agent.embedded import EmbeddedServer

        self.embedded = EmbeddedServer(store_dir=wanted.store_dir, state_dir=self._config.state_dir, port=wanted.port)
        await self.embedded.start()
        self._log.info("embedded_server", url=self.embedded.url)

    async def run(self) -> None:
        """Connect, however long it takes; then measure the round trip, until cancelled."""
        backoff = Backoff(base=0.25, ceiling=15.0)
        while self._connection is None:
            try:
                self._connection = await self._open()
            except ConnectError as error:
                self._error = error
                self.remotes.unreachable(error)
                if self._once.news("connect", str(error)):
                    self._log.warning("not_connected", error=error.message, remedy=error.remedy)
                await asyncio.sleep(backoff.next())
        connection = self._connection
        connection.on_change(self._changed)
        self._changed(True)
        self.remotes.attach(connection)
        self._connected.set()
        self._log.info("connected", server=connection.url, version=_dotted(connection.server_version))
        self._back()
        while True:
            with suppress(JetsyncError):
                self._rtt = await connection.rtt()
                self._metrics.rtt(self._rtt)
            await asyncio.sleep(RTT_INTERVAL)

    def use(self, config: Config) -> None:
        """Another configuration: buckets as they are declared now, and the way to the server where that has changed."""
        before, self._config = self._config, config
        self.remotes.use(config.buckets)
        if before.nats == config.nats:
            return
        self._error = None
        if self._connection is not None:
            self._connection.use(config.nats)

    def closing(self) -> None:
        """What is lost from now on is lost on purpose."""
        self._closing = True

    async def close(self) -> None:
        await self.remotes.close()
        if self._connection is not None:
            await self._connection.close()
        if self.embedded is not None:
            await self.embedded.stop()

    async def _open(self) -> Connection:
        name = f"jetsync {self._config.name}"
        if self.embedded is None:
            return await Connection.open(self._config.nats, name=name, timeout=CONNECT_SECONDS)
        return await Connection.open(
            self._config.nats,
            name=name,
            timeout=CONNECT_SECONDS,
            servers=[self.embedded.url],
            user=self.embedded.user,
            password=self.embedded.password,
        )

    def _changed(self, connected: bool) -> None:
        self._metrics.connected(connected)
        if connected:
            if self._offline_since is not None and self.remotes.connection is not None:
                self._metrics.reconnected()
                self._log.info("reconnected")
            self._offline_since = None
            self._error = None
            self._back()
        elif self._offline_since is None and not self._closing:
            self._offline_since = time.monotonic()
            self._log.warning("disconnected", server=self._connection.url if self._connection else "")

    # -- how it is doing -----------------------------------------------------------------------------------------

    @property
    def online(self) -> bool:
        return self.remotes.online

    async def connection(self) -> Connection:
        """The connection, as soon as there is one."""
        await self._connected.wait()
        assert self._connection is not None
        return self._connection

    def connection_now(self) -> Connection:
        """The connection, for work that shouldn't wait for one.

        :raises ConnectError: there is none (yet)
        """
        if self._connection is None:
            raise self._error or ConnectError("not connected yet", remedy="try again in a moment")
        return self._connection

    def given_up(self, timeout: float) -> bool:
        """Whether nobody should wait any longer who waits for `timeout` seconds at most."""
        if isinstance(self._error, NotAllowedError):
            return True
        return self._offline_since is not None and time.monotonic() - self._offline_since > timeout

    def why_not(self) -> ConnectError:
        """Why the server can't be had."""
        servers = ", ".join(self._config.nats.shown_servers) or "the embedded server"
        return self._error or ConnectError(
            f"no answer from {servers}", remedy="see whether it runs, and that `nats.servers` is right"
        )

    def status(self) -> NatsStatus:
        connection = self._connection
        return NatsStatus(
            connected=self.online,
            server=connection.url if connection else ", ".join(self._config.nats.shown_servers),
            version=_dotted(connection.server_version) if connection else "",
            rtt=self._rtt,
            reconnects=connection.reconnects if connection else 0,
        )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
