"""nats-servers: those of the tests, with a free loopback port and files in a folder of their own."""

from __future__ import annotations

from tests.support.server import NatsServer

__all__ = ["NatsServer", "pid_of"]


def pid_of(server: NatsServer) -> int:
    assert server.process is not None
    return server.process.pid
