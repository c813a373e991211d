"""A renamed directory, touched files: no chunk travels.

A directory of many files is renamed, then all of its files are touched (a new time, the same content); after each the
sender syncs, then a receiver. What the server has taken and given is counted, as shares of the content's size, and the
chunks that it stores are compared: new ones would have new nuids. The first time, to compare, all is sent and fetched.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.support import trees
from benchmarks.support.agent import Agent
from benchmarks.support.place import Place
from benchmarks.support.process import with_server
from benchmarks.support.results import Report
from benchmarks.support.servers import NatsServer, pid_of
from tests.support.stock import Stock

DEFAULTS = {"files": 10_000, "size": 16_384, "rounds": 3}
QUICK = {"files": 3_000, "size": 16_384, "rounds": 1}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int)
    parser.add_argument("--size", type=int, help="bytes per file")


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("renames", f"a directory of {options.files:,} files of {options.size:,} bytes")
    folder = place.new("work")
    source, target = folder / "source", folder / "target"
    trees.make(source / "there-0", options.files, options.size)
    with NatsServer(folder / "server") as server, Stock(server.url) as stock:
        sender = Agent(folder / "sender", server.url, "files", source)
        receiver = Agent(folder / "receiver", server.url, "files", target)
        pair = Pair(report, server, stock, sender=sender, receiver=receiver, content=options.files * options.size)
        pair.sync("first time")
        for number in range(options.rounds):
            pair.change("renamed", partial(_rename, source, number))
            pair.change("touched", partial(_touch, source))
        trees.check_equal(source, target)
    for work in ("renamed", "touched"):
        for verb in ("sent", "fetched"):
            report.faster((f"{work}, {verb}", "jetsync"), (f"first time, {verb}", "jetsync"))
    return [report]


class Pair:
    def __init__(
        self, report: Report, server: NatsServer, stock: Stock, *, sender: Agent, receiver: Agent, content: int
    ) -> None:
        self._report = report
        self._server = server
        self._stock = stock
        self._agents = (("sent", "in_bytes", sender), ("fetched", "out_bytes", receiver))
        self._content = content

    def change(self, work: str, do: Callable[[], object]) -> None:
        do()
        os.sync()
        before = self._stock.chunks("files")
        shares = self.sync(work)
        new = sum(count for nuid, count in self._stock.chunks("files").items() if nuid not in before)
        self._report.value(f"{work}: chunks sent", new, "", most=0)
        for verb, share in shares.items():
            self._report.value(f"{work}: bytes {verb}, of the content's", share * 100, "%")

    def sync(self, work: str) -> dict[str, float]:
        """Both sync; bytes that the server has taken and given, as shares of the content's."""
        shares = {}
        for verb, counter, agent in self._agents:
            before = self._server.monitor("varz")[counter]
            measure = with_server(pid_of(self._server), agent.sync)
            self._report.add(f"{work}, {verb}", "jetsync", measure)
            shares[verb] = (self._server.monitor("varz")[counter] - before) / self._content
        return shares


def _rename(source: Path, number: int) -> None:
    (source / f"there-{number}").rename(source / f"there-{number + 1}")


def _touch(source: Path) -> None:
    for name in trees.names(source):
        os.utime(source / name)
