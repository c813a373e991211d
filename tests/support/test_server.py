"""The test server is itself tested: other tests trust what it says."""

from __future__ import annotations

import nats
import pytest
from nats.js.api import StreamConfig

from tests.support.server import NatsServer


async def test_a_restarted_server_keeps_its_port_and_its_streams(fresh_server: NatsServer):
    client = await nats.connect(fresh_server.url)
    await client.jetstream().add_stream(StreamConfig(name="kept", subjects=["kept"]))
    await client.close()
    port = fresh_server.port

    fresh_server.restart(kill=True)

    assert fresh_server.port == port
    assert set(fresh_server.streams()) == {"kept"}


async def test_every_server_version_serves_jetstream(any_server: NatsServer, bucket_name: str):
    client = await nats.connect(any_server.url)
    store = await client.jetstream().create_object_store(bucket_name)
    await store.put("name", b"bytes")
    result = await store.get("name")
    await client.close()

    assert result.data == b"bytes"
    assert any_server.version >= (2, 9, 0)


def test_a_server_without_jetstream_says_so(make_server):
    assert "jetstream" not in make_server(jetstream=False).info


def test_a_server_that_cannot_start_tells_why(make_server):
    with pytest.raises(RuntimeError, match="Parse error"):
        make_server(config_extra="nonsense: [")
