"""A server that is 50 ms away against one that is near: one large object, and many small files.

Both go through the same delaying proxy (support/far.py), which doesn't limit the bandwidth: once with no delay, once
with half of the round trip time in each direction. put and get are the library's, push and pull are `jetsync sync`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import nats

from benchmarks.support import trees
from benchmarks.support.agent import Agent
from benchmarks.support.far import far
from benchmarks.support.place import Place, clear
from benchmarks.support.process import Measure, run
from benchmarks.support.results import Report
from benchmarks.support.servers import NatsServer

DEFAULTS = {"mib": 512, "files": 10_000, "size": 4096, "rtt": 50.0, "rounds": 3}
QUICK = {"mib": 128, "files": 3_000, "size": 4096, "rtt": 50.0, "rounds": 1}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mib", type=int, help="size of the object in MiB")
    parser.add_argument("--files", type=int)
    parser.add_argument("--size", type=int, help="bytes per file")
    parser.add_argument("--rtt", type=float, help="round trip time in ms")


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("distance", f"{options.mib} MiB and {options.files:,} files, {options.rtt:g} ms away")
    report.amounts.update(dict.fromkeys(("put", "get"), (options.mib * 1.048576, "MB")))
    report.amounts.update(dict.fromkeys(("push", "pull"), (options.files, "files")))
    source, large = place.new("source"), place.new("large")
    trees.make(source, options.files, options.size)
    trees.make_large(large, options.mib << 20)
    near, away = "near", f"{options.rtt:g} ms"
    for _ in range(options.rounds):
        for who, rtt in ((near, 0.0), (away, options.rtt / 1000)):
            folder = place.new("work")
            with NatsServer(folder / "server") as server, far(server.port, rtt) as url:
                asyncio.run(_create(server.url, "object"))
                for operation in ("put", "get"):
                    report.add(operation, who, _library(url, operation, large))
                _sync(report, who, url, folder, source)
            clear(folder)
            shutil.rmtree(source / ".jetsync", ignore_errors=True)
    for operation in ("put", "get"):
        report.faster((operation, away), (operation, near), least=0.5)
    for work in ("push", "pull"):
        report.longer((work, away), (work, near), most=3)
    return [report]


async def _create(url: str, bucket: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().create_object_store(bucket)
    await client.close()


def _library(url: str, operation: str, file: Path) -> Measure:
    os.sync()
    done = run([sys.executable, "-m", "benchmarks.clients.jetsync", url, "object", operation, file])
    return replace(done.measure, **json.loads(done.out))


def _sync(report: Report, who: str, url: str, folder: Path, source: Path) -> None:
    sender = Agent(folder / "sender", url, "files", source)
    receiver = Agent(folder / "receiver", url, "files", folder / "received")
    for work, agent in (("push", sender), ("pull", receiver)):
        os.sync()
        report.add(work, who, agent.sync())
    trees.check_equal(source, folder / "received")
