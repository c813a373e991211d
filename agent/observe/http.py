"""The agent's HTTP endpoints: for Prometheus, for the kubelet, and for people with curl. Reading only.

    /metrics         the Prometheus text format, or OpenMetrics where the scraper asks for it
    /livez           200 as long as the event loop answers. Nothing else is asked: a server that is away, or a mapping
                     that failed, is not cured by a restart
    /readyz          200 or 503 by `http.ready`; the body says which mapping is not ready, and why
    /api/v1/status   what `jetsync status --json` prints

`?verbose` shows all checks, in the form that Kubernetes components use ("[+]mapping/inbox ok"). Everything else is 404
as JSON. Requests are not logged. The server knows nobody: what it shows comes from four callables.

Rendering metrics of many mappings takes some milliseconds, so it happens in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from aiohttp import web

from agent.errors import JetsyncError
from agent.observe.logging import get_logger
from agent.observe.readiness import Readiness, ReadyPolicy, check, notes, ready
from agent.observe.status import AgentStatus

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_WILDCARDS: Final = ("", "*", "::", "[::]")
_BACKLOG: Final = 128
_CLOSE_SECONDS: Final = 2.0  # for requests under way at the stop: they all are short
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class HttpServer:
    """Serves until `stop`. host: an address or a name; "::" = all, IPv4 too. port: 0 = any free, then see `port`.

    policy: what ready means; may be changed at any time.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        metrics: Callable[[str], tuple[bytes, str]],
        refresh: Callable[[], Awaitable[None]],
        status: Callable[[], Awaitable[AgentStatus]],
        readiness: Callable[[], Readiness],
        policy: ReadyPolicy = "once",
    ) -> None:
        """metrics: of the Accept header, gives body and content type (`Metrics.expose`), after `refresh` has brought
        them up to date."""
        self.host = host
        self.port = port
        self._metrics = metrics
        self._refresh = refresh
        self._status = status
        self._readiness = readiness
        self.policy = policy
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches the server, without a path."""
        host = "127.0.0.1" if self.host in (*_WILDCARDS, "0.0.0.0") else self.host.strip("[]")  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises JetsyncError when the address can't be had."""
        sockets = await asyncio.to_thread(_listen, self.host, self.port)
        self.port = sockets[0].getsockname()[1]
        application = web.Application(middlewares=[_plain_errors])
        application.router.add_get("/metrics", self._get_metrics)
        application.router.add_get("/livez", self._get_livez)
        application.router.add_get("/readyz", self._get_readyz)
        application.router.add_get("/api/v1/status", self._get_status)
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_SECONDS
        )
        await self._runner.setup()
        for each in sockets:
            await web.SockSite(self._runner, each, backlog=_BACKLOG).start()

    async def stop(self) -> None:
        """Close; requests under way get two seconds. May be called at any time, also twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        await self._refresh()
        body, content_type = await asyncio.to_thread(self._metrics, ",".join(request.headers.getall("Accept", [])))
        return web.Response(body=body, headers={**_HEADERS, "Content-Type": content_type})

    async def _get_livez(self, request: web.Request) -> web.Response:
        return _answer(request, {"event-loop": ""}, "livez")

    async def _get_readyz(self, request: web.Request) -> web.Response:
        readiness = self._readiness()
        return _answer(request, check(readiness, self.policy), "readyz", notes(readiness))

    async def _get_status(self, _request: web.Request) -> web.Response:
        status = await self._status()
        return web.json_response(status.to_json(), headers=_HEADERS)


def _answer(
    request: web.Request, checks: Mapping[str, str], name: str, notes: Mapping[str, str] | None = None
) -> web.Response:
    """ "ok", or one line per check that fails or has a note; with ?verbose one line per check."""
    good = ready(checks)
    verbose = "verbose" in request.query
    told = notes or {}
    lines = [
        f"[-]{key} {why}" if why else f"[+]{key} ok{'; ' + told[key] if key in told else ''}"
        for key, why in checks.items()
        if why or key in told or verbose
    ]
    lines.append(f"{name} check {'passed' if good else 'failed'}" if lines else "ok")
    return web.Response(text="\n".join(lines) + "\n", status=200 if good else 503, headers=_HEADERS)


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as `{"error": ...}`; what went wrong inside is logged, and not told to strangers."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return web.json_response(
            {"error": error.reason.lower(), "path": request.path}, status=error.status, headers={**_HEADERS, **allow}
        )
    except Exception as error:  # noqa: BLE001 - a failing provider must be an answer, not a closed connection
        get_logger().error("a request for the agent's HTTP endpoints failed", path=request.path, exc_info=error)
        return web.json_response({"error": "internal error"}, status=500, headers=_HEADERS)


# -- sockets ----------------------------------------------------------------------------------------------------------


def _listen(host: str, port: int) -> Sequence[socket.socket]:
    """One socket per address of `host`, all on one port. All addresses = one IPv6 socket that takes IPv4 too."""
    try:
        if host in _WILDCARDS:
            return [_wildcard(port)]
        return _each_address(host.strip("[]"), port)
    except OSError as error:
        raise _explain(host, port, error) from error


def _wildcard(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise  # else IPv6 is compiled in, and switched off
    return socket.create_server(("0.0.0.0", port))  # noqa: S104 - it was asked for


def _each_address(host: str, port: int) -> Sequence[socket.socket]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address[0]) for family, _, _, _, address in found)
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in addresses:
        try:
            sockets.append(socket.create_server((str(address), port), family=family))
            port = sockets[0].getsockname()[1]
        except OSError as error:
            failure = error
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                break
    if sockets and (failure is None or failure.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)):
        return sockets  # "localhost" may have an IPv6 address where IPv6 is switched off
    for each in sockets:
        each.close()
    raise failure or OSError(errno.EADDRNOTAVAIL, "no address")


def _explain(host: str, port: int, error: OSError) -> JetsyncError:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return JetsyncError(
            f"http: {where} is in use by another program",
            remedy="set http.listen to a free port (or port 0), or http: false; is another agent running?",
        )
    if error.errno == errno.EACCES:
        return JetsyncError(f"http: not allowed to listen on {where}", remedy="set http.listen to a port above 1023")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return JetsyncError(
            f"http: {host!r} is no address of this machine", remedy="set http.listen to one, or to [::]:PORT for all"
        )
    return JetsyncError(f"http: can't listen on {where}: {error.strerror}", remedy="set http.listen, or http: false")
