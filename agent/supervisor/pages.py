"""The agent's HTTP endpoints as the configuration wants them, now and after a reload."""

from __future__ import annotations

from agent.config.model import Http
from agent.errors import JetsyncError
from agent.observe.http import HttpServer
from agent.observe.logging import get_logger
from agent.observe.metrics import Metrics
from agent.supervisor.wiring import Supervisor


class Pages:
    """None of them until `use`, and after `stop`."""

    def __init__(self, supervisor: Supervisor, metrics: Metrics) -> None:
        self._supervisor = supervisor
        self._metrics = metrics
        self._server: HttpServer | None = None
        self._listen = ""
        self._log = get_logger()

    async def use(self, http: Http | None) -> None:
        """Listen as it says; with another address the old one is given up when the new one is had.

        :raises JetsyncError: the address can't be had; everything is as before
        """
        old = self._server
        if old is not None and http is not None and http.listen == self._listen:
            old.policy = http.ready
            return
        new = self._made(http) if http is not None else None
        if new is not None:
            await self._start(new, old)
            self._log.info("http", url=new.url)
        if old is not None:
            await old.stop()
        self._server, self._listen = new, http.listen if http is not None else ""

    async def _start(self, new: HttpServer, old: HttpServer | None) -> None:
        """Start; where the old one stands in the way (another address with the same port) it gives way."""
        if old is None or old.port != new.port:
            return await new.start()
        await old.stop()
        try:
            await new.start()
        except JetsyncError:
            await old.start()
            raise

    def _made(self, http: Http) -> HttpServer:
        return HttpServer(
            host=http.host,
            port=http.port,
            metrics=self._metrics.expose,
            refresh=self._supervisor.gauges.fresh,
            status=self._supervisor.status,
            readiness=self._supervisor.readiness,
            policy=http.ready,
        )

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()
