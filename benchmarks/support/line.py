"""A bare connection to a nats-server: a socket, and no more of the protocol than it takes."""

from __future__ import annotations

import json
import socket
import sys
import threading
from urllib.parse import urlsplit

INBOX = "_INBOX.bench"


class Line:
    """Has said CONNECT and subscribed to its inbox. One thread may publish while another reads."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._socket = socket.create_connection((address.hostname, address.port or 4222))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb", buffering=1 << 20)
        self._lock = threading.Lock()
        self._buffer = bytearray(2 << 20)
        self._reader.readline()
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "name": "bench"}
        self.send(f"CONNECT {json.dumps(options)}\r\nSUB {INBOX}.* 1\r\n".encode())

    def close(self) -> None:
        self._socket.close()

    def send(self, *parts: bytes) -> None:
        with self._lock:
            for part in parts:
                self._socket.sendall(part)

    def publish(self, subject: str, reply: str, payload: bytes) -> None:
        self.send(f"PUB {subject} {INBOX}.{reply} {len(payload)}\r\n".encode(), payload, b"\r\n")

    def next(self) -> memoryview:
        """Headers and data of the next message, valid until the following one is read."""
        while True:
            words = self._reader.readline().split()
            if not words:
                sys.exit("the server has closed the connection")
            if words[0] in (b"MSG", b"HMSG"):
                view = memoryview(self._buffer)[: int(words[-1]) + 2]
                self._reader.readinto(view)  # type: ignore[attr-defined]
                return view
            if words[0] == b"PING":
                self.send(b"PONG\r\n")
            elif words[0] == b"-ERR":
                sys.exit(str(words))
