"""The limit: the same messages over a bare socket, as fast as the server takes and gives them.

put: chunks from memory, 16 MiB of them without an answer at most; get: batched direct gets of 8 MiB, two under way,
into one buffer. No file is read or written, nothing is hashed, no event loop runs, and nothing that comes is looked at
but for what it takes to go on. FILE gives only the number of bytes.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from pathlib import Path

from benchmarks.clients import tell
from benchmarks.support.line import Line

CHUNK = 512 << 10
WINDOW = (16 << 20) // CHUNK
BATCH = (8 << 20) // CHUNK


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
