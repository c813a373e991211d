"""Large transfers go on where they stopped: after kill -9 of the real agent, on a real server, counted on the wire."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually
from tests.support.proxy import Proxy
from tests.support.server import NatsServer
from tests.support.stock import Stock

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
SIZE = 40 * MIB
KILLS = 2


@pytest.fixture
def proxy(nats_server: NatsServer) -> Iterator[Proxy]:
    with Proxy(nats_server.port) as proxy:
        yield proxy


@pytest.fixture
def behind(make_agent: MakeAgent, proxy: Proxy) -> Agent:
    """An agent whose every byte goes through the proxy."""
    return make_agent("a", nats=proxy.url)


def content(size: int = SIZE) -> bytes:
    return random.Random(size).randbytes(size)


def staging(agent: Agent) -> list[str]:
    directory = agent.directory() / ".jetsync" / "staging"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def kill_after(agent: Agent, size: int, count: Callable[[], int]) -> None:
    """Run the agent, and kill it when so many more bytes have been counted."""
    before = count()
    process = agent.run(wait=False)
    try:
        eventually(lambda: count() > before + size, timeout=60, interval=0.01)
    finally:
        process.kill()


def assert_clean(agent: Agent, server: NatsServer, stock: Stock, bucket: str, data: bytes) -> None:
    """Both sides hold the bytes, and nothing else is left anywhere."""
    assert hashlib.sha256((agent.directory() / "large").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert stock.get(bucket, "large") == data
    assert staging(agent) == []
    assert stock.orphans(bucket) == {}
    eventually(lambda: not [1 for stream, _ in server.consumers() if stream == f"OBJ_{bucket}"], timeout=40)


def test_an_upload_that_is_killed_again_and_again_goes_on_where_it_stopped(
    behind: Agent, proxy: Proxy, nats_server: NatsServer, stock: Stock, bucket: str
) -> None:
    data = content()
    behind.directory().mkdir(parents=True, exist_ok=True)
    (behind.directory() / "large").write_bytes(data)
    proxy.throttle(30_000_000)

    for _ in range(KILLS):
        kill_after(behind, 5 * MIB, lambda: proxy.to_server)
    proxy.resume()
    behind.sync()

    assert proxy.to_server < 1.2 * SIZE
    assert_clean(behind, nats_server, stock, bucket, data)


def test_a_download_that_is_killed_again_and_again_goes_on_where_it_stopped(
    behind: Agent, proxy: Proxy, nats_server: NatsServer, stock: Stock, bucket: str
) -> None:
    data = content()
    stock.put(bucket, "large", data)
    proxy.throttle(30_000_000)

    for _ in range(KILLS):
        kill_after(behind, 5 * MIB, lambda: proxy.to_client)
        assert not (behind.directory() / "large").exists()
    proxy.resume()
    behind.sync()

    assert proxy.to_client < 1.6 * SIZE
    assert_clean(behind, nats_server, stock, bucket, data)
