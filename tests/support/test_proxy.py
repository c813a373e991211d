"""The proxy: what the fault tests build on."""

from __future__ import annotations

import asyncio

import nats
import pytest

from tests.support.proxy import Proxy
from tests.support.server import NatsServer


@pytest.fixture
def proxy(nats_server: NatsServer):
    with Proxy(nats_server.port) as proxy:
        yield proxy


async def test_bytes_pass_unchanged_and_are_counted(proxy: Proxy, bucket_name: str):
    client = await nats.connect(proxy.url)
    store = await client.jetstream().create_object_store(bucket_name)
    await store.put("name", b"x" * 500_000)
    result = await store.get("name")
    await client.close()

    assert result.data == b"x" * 500_000
    assert proxy.to_server > 500_000
    assert proxy.to_client > 500_000


async def test_a_cut_ends_connections_and_resume_lets_new_ones_in(proxy: Proxy):
    gone = asyncio.Event()
    back = asyncio.Event()

    async def disconnected() -> None:
        gone.set()

    async def reconnected() -> None:
        back.set()

    async def ignore(error: Exception) -> None:
        pass

    client = await nats.connect(
        proxy.url,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=ignore,
        reconnect_time_wait=0.05,
        max_reconnect_attempts=-1,
    )
    proxy.cut()
    await asyncio.wait_for(gone.wait(), 10)
    assert proxy.connections == 0

    proxy.resume()
    await asyncio.wait_for(back.wait(), 10)
    await client.close()


async def test_a_held_connection_stays_open_and_goes_on_later(proxy: Proxy):
    client = await nats.connect(proxy.url)
    proxy.hold()
    asked = asyncio.create_task(client.jetstream().account_info())
    await asyncio.sleep(0.2)
    assert not asked.done()
    assert client.is_connected

    proxy.resume()
    await asked
    await client.close()
