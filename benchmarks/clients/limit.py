"""The limit: the same messages over a bare socket, as fast as the server takes and gives them.

put: chunks from memory, 16 MiB of them without an answer at most; get: batched direct gets of 8 MiB, two under way,
into one buffer. No file is read or written, nothing is hashed, no event loop runs, and nothing that comes is looked at
but for what it takes to go on. FILE gives only the number of bytes.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.clients import tell

CHUNK = 512 << 10
WINDOW = (16 << 20) // CHUNK
BATCH = (8 << 20) // CHUNK
INBOX = "_INBOX.limit"


class Line:
    """A connection that has said CONNECT and subscribed to its inbox."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self.socket = socket.create_connection((address.hostname, address.port or 4222))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb", buffering=1 << 20)
        self.lock = threading.Lock()
        self.buffer = bytearray(2 << 20)
        self.reader.readline()
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "name": "limit"}
        self.socket.sendall(f"CONNECT {json.dumps(options)}\r\nSUB {INBOX}.* 1\r\n".encode())

    def publish(self, subject: str, reply: str, payload: bytes) -> None:
        with self.lock:
            self.socket.sendall(f"PUB {subject} {INBOX}.{reply} {len(payload)}\r\n".encode())
            self.socket.sendall(payload)
            self.socket.sendall(b"\r\n")

    def next(self) -> memoryview:
        """Headers and data of the next message, valid until the following one is read."""
        while True:
            words = self.reader.readline().split()
            if not words:
                sys.exit("the server has closed the connection")
            if words[0] in (b"MSG", b"HMSG"):
                view = memoryview(self.buffer)[: int(words[-1]) + 2]
                self.reader.readinto(view)  # type: ignore[attr-defined]
                return view
            if words[0] == b"PING":
                with self.lock:
                    self.socket.sendall(b"PONG\r\n")
            elif words[0] == b"-ERR":
                sys.exit(str(words))


def put(line: Line, bucket: str, size: int) -> None:
    chunk = os.urandom(CHUNK)
    room = threading.Semaphore(WINDOW)
    count = size // CHUNK

    def acks() -> None:
        for _ in range(count):
            if b'"seq"' not in bytes(line.next()):
                sys.exit("a chunk was refused")
            room.release()

    began, cpu = time.perf_counter(), time.process_time()
    reading = threading.Thread(target=acks)
    reading.start()
    for _ in range(count):
        room.acquire()
        line.publish(f"$O.{bucket}.C.limit", "ack", chunk)
    reading.join()
    tell(began, cpu)


def get(line: Line, bucket: str, size: int) -> None:
    count = size // CHUNK
    began, cpu = time.perf_counter(), time.process_time()

    def ask(start: int) -> None:
        body = {"seq": start, "next_by_subj": f"$O.{bucket}.C.limit", "batch": BATCH, "max_bytes": 16 << 20}
        line.publish(f"$JS.API.DIRECT.GET.OBJ_{bucket}", "data", json.dumps(body).encode())

    ask(1)
    got = asked = 0
    while got < count:
        message = line.next()
        found = re.search(rb"Nats-Sequence: (\d+)", message[:400])
        if found is None:
            continue  # the end of a batch
        got += 1
        # Nobody else writes, so the batch after this one begins where the next but one ends.
        while asked < count and asked < got + BATCH:
            asked += BATCH
            ask(int(found[1]) - got + 1 + asked)
    tell(began, cpu)


def main(url: str, bucket: str, operation: str, file: str) -> None:
    size = Path(file).stat().st_size
    {"put": put, "get": get}[operation](Line(url), bucket, size)


if __name__ == "__main__":
    main(*sys.argv[1:])
