"""`sync` push and pull of a directory with one large file, beside the library doing the same with one object.

In each round, on one server, each with a bucket of its own:

    push     jetsync sync, first time              library: put of the file
    pull     jetsync sync in an empty directory    library: get into a file, and get with the bytes dropped

`sync` is timed as the whole command; of the library only the operation is. Both sync what they have written to disk.
The growth of the memory is against the same command with a file of one byte.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.support import trees
from benchmarks.support.agent import Agent
from benchmarks.support.place import Place, clear
from benchmarks.support.process import Measure, run, with_server
from benchmarks.support.results import Report
from benchmarks.support.servers import NatsServer, pid_of

DEFAULTS = {"mib": 2048, "rounds": 3}
QUICK = {"mib": 256, "rounds": 2}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mib", type=int, help="size of the file in MiB")


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("large_file", f"one file of {options.mib:,} MiB, {options.rounds} rounds")
    for work in ("push", "pull", "get"):
        report.amounts[work] = (options.mib * 1.048576, "MB")
    source = place.new("source")
    trees.make_large(source / "large", options.mib << 20)
    floor = _floor(place)
    for number in range(options.rounds):
        folder = place.new("work")
        folder.mkdir()
        turns = (_sync, _library)
        for turn in turns if number % 2 else reversed(turns):
            turn(report, folder, source)
        clear(folder)
        clear(source / ".jetsync")
    report.faster(("push", "jetsync"), ("push", "library"), least=0.6)
    report.faster(("pull", "jetsync"), ("pull", "library"), least=0.6)
    report.faster(("pull", "jetsync"), ("get", "library"))
    for work in ("push", "pull"):
        grown = max(measure.rss or 0 for measure in report.figures[work, "jetsync"]) - floor[work]
        report.value(f"{work}: growth of the peak RSS over that for one byte", grown / 2**20, "MiB", most=64)
    return [report]


def _floor(place: Place) -> dict[str, int]:
    """Peak RSS of each command for a file of one byte."""
    folder, source = place.new("floor"), place.new("byte")
    trees.make_large(source / "large", 1)
    report = Report("", "")
    _sync(report, folder, source)
    return {work: measures[0].rss or 0 for (work, _), measures in report.figures.items()}


def _sync(report: Report, folder: Path, source: Path) -> None:
    with NatsServer(folder / "server") as server:
        sender = Agent(folder / "sender", server.url, "files", source)
        receiver = Agent(folder / "receiver", server.url, "files", folder / "received")
        for work, agent in (("push", sender), ("pull", receiver)):
            os.sync()
            report.add(work, "jetsync", with_server(pid_of(server), agent.sync))
    trees.check_equal(source, folder / "received", some=0)
    clear(folder / "server")
    clear(folder / "received")


def _library(report: Report, folder: Path, source: Path) -> None:
    with NatsServer(folder / "server") as server:
        # The bucket is made as `sync` makes it, with one file that doesn't matter.
        Agent(folder / "maker", server.url, "files", folder / "made").sync()
        steps = (("push", "put", source / "large"), ("get", "get", source), ("pull", "get-file", folder / "got"))
        for work, operation, file in steps:
            os.sync()
            measured = partial(_operation, server.url, operation, file)
            report.add(work, "library", with_server(pid_of(server), measured))
    clear(folder / "server")
    (folder / "got").unlink()


def _operation(url: str, operation: str, file: Path) -> Measure:
    done = run([sys.executable, "-m", "benchmarks.clients.jetsync", url, "files", operation, file])
    return replace(done.measure, **json.loads(done.out))
