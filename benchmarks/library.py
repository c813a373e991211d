"""One large object at the library level: put and get, beside nats-py, the Go client, and the limit.

In each round, in turn, on one server, each client in a process of its own with a bucket of its own:

    put          a file is read, hashed and stored                     limit: the chunks alone, from memory
    get          read to the end, the digest verified, bytes dropped   limit: the chunks alone
    get-file     the same into a file; jetsync syncs it to disk, the others don't

`SHA-256` hashes the same bytes in memory. The limit is a program on a bare socket (clients/limit.py): what the server
does for one connection, without hashing, files and an event loop. Only the operation is timed: programs have started,
and connections are made. The Go client takes part where there is a `go` that can get its modules.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import nats

from benchmarks.support import trees
from benchmarks.support.place import Place
from benchmarks.support.process import Measure, find, run, with_server
from benchmarks.support.results import Report
from benchmarks.support.servers import NatsServer, pid_of

DEFAULTS = {"mib": 512, "rounds": 3, "peers": True}
QUICK = {"mib": 128, "rounds": 2, "peers": True}
OPERATIONS = ("put", "get", "get-file")
Client = list[str | Path]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mib", type=int, help="size of the object in MiB")
    parser.add_argument(
        "--no-peers", dest="peers", action="store_false", default=None, help="only jetsync, the limit and SHA-256"
    )


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("library", f"one object of {options.mib} MiB, {options.rounds} rounds")
    for work in OPERATIONS:
        report.amounts[work] = (options.mib * 1.048576, "MB")
    source = place.new("source")
    trees.make_large(source, options.mib << 20)
    server = place.keep(NatsServer(place.new("server")))
    clients = _clients(place, report, peers=options.peers)
    for number in range(options.rounds):
        turns = list(clients)
        for who in turns[number % len(turns) :] + turns[: number % len(turns)]:
            _client(report, who, clients[who], server, source)
        report.add("put", "SHA-256", _hash(source))
    _compare(report)
    return [report]


def _clients(place: Place, report: Report, *, peers: bool) -> dict[str, Client]:
    module = [sys.executable, "-m"]
    clients: dict[str, Client] = {
        "jetsync": [*module, "benchmarks.clients.jetsync"],
        "limit": [*module, "benchmarks.clients.limit"],
    }
    if peers:
        clients["nats-py"] = [*module, "benchmarks.clients.nats_py"]
        go = _build_go(place, report)
        if go is not None:
            clients["Go"] = [go]
    return clients


def _build_go(place: Place, report: Report) -> Path | None:
    compiler = find("go")
    if compiler is None:
        report.note("there is no go here: the Go client doesn't take part")
        return None
    binary = place.new("go-client")
    built = subprocess.run(
        [compiler, "build", "-o", binary, "."],
        cwd=Path(__file__).with_name("library_go"),
        env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        report.note(f"the Go client can't be built here: {' '.join(built.stderr.strip().splitlines()[-1:])}")
        return None
    return binary


async def _bucket(server: NatsServer, *, create: bool) -> None:
    client = await nats.connect(server.url)
    stream = client.jetstream()
    await (stream.create_object_store("bench") if create else stream.delete_object_store("bench"))
    await client.close()


def _client(report: Report, who: str, client: Client, server: NatsServer, source: Path) -> None:
    asyncio.run(_bucket(server, create=True))
    received = source.with_name("received")
    for operation in OPERATIONS[: 2 if who == "limit" else 3]:
        file = received if operation == "get-file" else source
        command: Client = [*client, server.url, "bench", operation, file]
        os.sync()
        report.add(operation, who, with_server(pid_of(server), partial(_operation, command)))
    if who != "limit":
        if received.stat().st_size != source.stat().st_size:
            sys.exit(f"what {who} has got isn't what it has put")
        received.unlink()
    asyncio.run(_bucket(server, create=False))


def _operation(command: Client) -> Measure:
    """What the client says of its operation, and the peak of its memory."""
    done = run(command)
    return replace(done.measure, **json.loads(done.out))


def _hash(source: Path) -> Measure:
    data = source.read_bytes()
    began = time.perf_counter()
    hashlib.sha256(data).digest()
    return Measure(time.perf_counter() - began)


def _compare(report: Report) -> None:
    for work, nats_py, go, limit in (("put", 3.5, 1.0, 0.6), ("get", 6, 3, 0.6), ("get-file", None, None, None)):
        report.faster((work, "jetsync"), (work, "nats-py"), least=nats_py)
        report.faster((work, "jetsync"), (work, "Go"), least=go)
        report.faster((work, "jetsync"), (work, "limit"), least=limit)
