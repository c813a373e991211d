"""A server that is far away: a proxy on loopback that delays what passes by half the round trip time in each direction.

It limits nothing else. In each direction one thread reads, and notes when each block is due; another writes it then. So
any number of blocks is under way at once, as on a long line. It runs in a process of its own:

    python -m benchmarks.support.far PORT TARGET SECONDS      SECONDS: of the delay in each direction
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.server import DIE_WITH_PARENT, free_port

BLOCK = 1 << 20
MOST = 512
"""Blocks under way in one direction; they are seldom full."""


@contextmanager
def far(target: int, rtt: float) -> Iterator[str]:
    """The URL under which the server on port `target` is `rtt` seconds away."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.support.far", str(port), str(target), str(rtt / 2)]
    process = subprocess.Popen([*DIE_WITH_PARENT, *command], stdin=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    sys.exit("the proxy doesn't come up")


def serve(port: int, target: int, delay: float) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            near, _ = listener.accept()
            try:
                beyond = socket.create_connection(("127.0.0.1", target))
            except OSError:
                near.close()
                continue
            for end in (near, beyond):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((near, beyond), (beyond, near)):
                _direction(source, sink, delay)


def _direction(source: socket.socket, sink: socket.socket, delay: float) -> None:
    under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(MOST)

    def read() -> None:
        block = b"-"
        while block:
            try:
                block = source.recv(BLOCK)
            except OSError:
                block = b""
            under_way.put((time.monotonic() + delay, block))

    def write() -> None:
        while True:
            due, block = under_way.get()
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                if not block:
                    break
                sink.sendall(block)
            except OSError:
                break
        for end in (source, sink):  # the end of one direction is the end of the connection
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        while under_way.get()[1]:
            pass

    for work in (read, write):
        threading.Thread(target=work, daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
