"""From a write in one directory to its appearance in another agent's directory, over one bucket; `settle` excluded.

Two agents run. A file is written in the one directory, and its name is looked for in the other every half millisecond;
new files and overwritten ones take turns. The pauses between are random, so that no timer of the agents keeps step.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from benchmarks.support import trees
from benchmarks.support.agent import Agent
from benchmarks.support.place import Place
from benchmarks.support.process import Measure
from benchmarks.support.results import Report
from benchmarks.support.servers import NatsServer

DEFAULTS = {"files": 1000, "size": 4096, "rounds": 400}
QUICK = {"files": 200, "size": 4096, "rounds": 60}
SETTLE = 0.1
PATIENCE = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int, help="files that are there before")
    parser.add_argument("--size", type=int, help="bytes per file")


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("latency", f"{options.rounds} writes of {options.size:,} bytes, settle excluded")
    folder = place.new("work")
    source, target = folder / "source", folder / "target"
    trees.make(source, options.files, options.size)
    settle = f"{SETTLE * 1000:.0f}ms"
    with NatsServer(folder / "server") as server:
        sender = Agent(folder / "sender", server.url, "files", source, settle=settle)
        receiver = Agent(folder / "receiver", server.url, "files", target, settle=settle)
        sender.sync()
        receiver.sync()
        with sender.run(), receiver.run():
            for number in range(options.rounds):
                time.sleep(random.uniform(0.02, 0.12))
                name = f"new-{number}" if number % 2 else trees.name_of(number % options.files)
                content = random.randbytes(options.size)
                report.add(
                    "new" if number % 2 else "overwritten", "jetsync", _one(source / name, target / name, content)
                )
    _percentiles(report)
    return [report]


def _one(source: Path, target: Path, content: bytes) -> Measure:
    source.write_bytes(content)
    began = time.perf_counter()
    before = _inode(target)
    while _inode(target) == before:
        if time.perf_counter() - began > PATIENCE:
            sys.exit(f"{target} hasn't come in {PATIENCE:.0f} s")
        time.sleep(0.0005)
    seconds = time.perf_counter() - began - SETTLE
    if target.read_bytes() != content:
        sys.exit(f"{target} isn't what was written")
    return Measure(seconds)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _percentiles(report: Report) -> None:
    seconds = sorted(measure.seconds for measures in report.figures.values() for measure in measures)
    for percent, most in ((50, 30), (99, 150)):
        found = seconds[min(len(seconds) - 1, len(seconds) * percent // 100)]
        report.value(f"p{percent} beyond settle", found * 1000, "ms", most=most)
