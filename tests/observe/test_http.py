"""The HTTP endpoints, asked over loopback."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from agent.core.entries import Mode
from agent.errors import JetsyncError
from agent.observe.http import HttpServer
from agent.observe.metrics import Metrics
from agent.observe.readiness import MappingReadiness, Readiness
from agent.observe.status import AgentStatus

STATUS = AgentStatus(name="edge-1", version="0.1.0", pid=42, started=0.0)
READY = Readiness(True, True, [MappingReadiness("inbox", converged=True), MappingReadiness("outbox", converged=True)])
NOT_READY = Readiness(
    True, True, [MappingReadiness("inbox", sentence="scanning"), MappingReadiness("outbox", converged=True)]
)


async def status() -> AgentStatus:
    return STATUS


async def nothing() -> None:
    """What brings nothing up to date."""


@asynccontextmanager
async def serving(
    host: str = "127.0.0.1",
    readiness: Readiness = READY,
    refresh: Callable[[], Awaitable[None]] = nothing,
    status: Callable[[], Awaitable[AgentStatus]] = status,
    **more: Any,
) -> AsyncIterator[HttpServer]:
    metrics = Metrics("1.2.3")
    metrics.mapping("inbox", bucket="b", mode=Mode.TWO_WAY)
    server = HttpServer(
        host=host,
        port=more.pop("port", 0),
        metrics=metrics.expose,
        refresh=refresh,
        status=status,
        readiness=lambda: readiness,
        **more,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def test_metrics_are_brought_up_to_date_for_who_scrapes() -> None:
    asked: list[str] = []

    async def refresh() -> None:
        asked.append("now")

    async with serving(refresh=refresh) as server:
        await get(server.url + "/livez")
        assert asked == []
        assert (await get(server.url + "/metrics"))[0] == 200
        assert asked == ["now"]


async def test_metrics_are_served_in_the_format_that_the_scraper_accepts() -> None:
    async with serving() as server:
        code, kind, body = await get(server.url + "/metrics")
        assert (code, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert "jetsync_mapping_info" in body
        code, kind, body = await get(
            server.url + "/metrics", Accept="application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2"
        )
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith("# EOF\n")


async def test_alive_is_whoever_answers() -> None:
    async with serving(readiness=Readiness(False, False)) as server:
        assert await get(server.url + "/livez") == (200, "text/plain; charset=utf-8", "ok\n")
        assert (await get(server.url + "/livez?verbose"))[2] == "[+]event-loop ok\nlivez check passed\n"
        assert (await get(server.url + "/livez", "HEAD"))[0] == 200


async def test_ready_says_ok_and_more_when_asked() -> None:
    async with serving() as server:
        assert await get(server.url + "/readyz") == (200, "text/plain; charset=utf-8", "ok\n")
        assert (await get(server.url + "/readyz?verbose"))[2] == (
            "[+]agent ok\n[+]mapping/inbox ok\n[+]mapping/outbox ok\nreadyz check passed\n"
        )


async def test_not_ready_is_503_and_says_which_mapping_and_why() -> None:
    async with serving(readiness=NOT_READY) as server:
        code, _, body = await get(server.url + "/readyz")
        assert (code, body) == (
            503,
            "[-]mapping/inbox has not converged since the start: scanning\nreadyz check failed\n",
        )
        assert "[+]mapping/outbox ok" in (await get(server.url + "/readyz?verbose"))[2]


async def test_ready_follows_the_policy_of_the_configuration() -> None:
    away = Readiness(True, False, READY.mappings)
    async with serving(readiness=away, policy="once") as server:
        assert (await get(server.url + "/readyz"))[0] == 200
    async with serving(readiness=away, policy="connected") as server:
        assert (await get(server.url + "/readyz"))[::2] == (503, "[-]nats is not connected\nreadyz check failed\n")


async def test_the_status_is_json() -> None:
    async with serving() as server:
        code, kind, body = await get(server.url + "/api/v1/status")
        assert (code, kind) == (200, "application/json; charset=utf-8")
        assert json.loads(body) == STATUS.to_json()


async def test_everything_else_is_an_error_in_json() -> None:
    async with serving() as server:
        for path in "/", "/api/v1/nothing", "/metrics/", "/..%2f..%2fetc/passwd":
            code, kind, body = await get(server.url + path)
            assert (code, kind) == (404, "application/json; charset=utf-8"), path
            assert json.loads(body)["error"] == "not found"
        code, _, body = await get(server.url + "/livez", "POST")
        assert (code, json.loads(body)["error"]) == (405, "method not allowed")


async def test_a_provider_that_fails_is_an_error_without_its_details(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken() -> AgentStatus:
        raise ZeroDivisionError("private")

    async with serving(status=broken) as server:
        assert (await get(server.url + "/api/v1/status"))[::2] == (500, '{"error": "internal error"}')
        assert (await get(server.url + "/livez"))[0] == 200
    assert "private" in capsys.readouterr().out, "it is logged (by structlog's default here)"


async def test_an_address_for_all_takes_both_families() -> None:
    async with serving("") as server:
        assert (await get(f"http://127.0.0.1:{server.port}/livez"))[0] == 200
        assert (await get(server.url + "/livez"))[0] == 200
        if await asyncio.to_thread(_has_ipv6):
            assert (await get(f"http://[::1]:{server.port}/livez"))[0] == 200


async def test_a_name_with_two_addresses_has_one_port() -> None:
    async with serving("localhost") as server:
        assert (await get(f"http://localhost:{server.port}/livez"))[0] == 200
        assert (await get(f"http://127.0.0.1:{server.port}/livez"))[0] == 200


@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_an_ipv6_address_works_with_and_without_brackets(host: str) -> None:
    if not await asyncio.to_thread(_has_ipv6):
        pytest.skip("no IPv6 on this machine")
    async with serving(host) as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert (await get(server.url + "/livez"))[0] == 200


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "", "localhost"])
async def test_a_port_in_use_is_an_error_that_says_what_to_set(host: str) -> None:
    async with serving(host) as server:
        with pytest.raises(JetsyncError, match=f"{server.port} is in use") as caught:
            async with serving(host, port=server.port):
                pass
    assert "http.listen" in caught.value.remedy


async def test_an_address_of_another_machine_is_an_error_that_says_what_to_set() -> None:
    for host in "192.0.2.1", "no-such-host.invalid":
        with pytest.raises(JetsyncError, match="no address of this machine") as caught:
            async with serving(host):
                pass
        assert "http.listen" in caught.value.remedy


async def test_stopping_waits_for_nobody_and_may_come_twice_or_before_the_start() -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"ok\n")
        await server.stop()
        assert await reader.read() == b"", "the idle connection is closed"
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
    unused = HttpServer(
        host="", port=0, metrics=lambda _: (b"", ""), refresh=nothing, status=status, readiness=lambda: READY
    )
    await unused.stop()
