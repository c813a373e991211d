"""The state store alone: rows per second of the calls that everything else waits for.

CPU time is the figure to compare on a machine that does other things meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.core.entries import Ancestor, Entry, Kind, Local, Remote, Row, Signature
from agent.state import StateStore
from benchmarks.support.place import Place
from benchmarks.support.process import Measure
from benchmarks.support.results import Report

DEFAULTS = {"rows": 200_000, "rounds": 3}
QUICK = {"rows": 20_000, "rounds": 1}
LOT = 5000
START_NS = 1_763_800_000_000_000_000


def path_of(i: int) -> str:
    return f"directory-{i // 1000:04}/part-{i // 100 % 10}/some-file-name-{i:07}.json"


def row_of(i: int, *, agreed: bool) -> Row:
    mtime = START_NS + i * 1000
    entry = Entry(Kind.FILE, hashlib.sha256(b"%d" % i).digest(), 4096, False, mtime)
    local = Local(entry, Signature(4096, mtime, mtime + 77, 1_000_000 + i, 0o644))
    if not agreed:
        return Row(path_of(i), local=local)
    remote = Remote(entry, i + 1, f"ABCDEFGHIJKL{i:010}", 1)
    return Row(path_of(i), Ancestor(entry, mtime, mtime), local, remote)


class Clock:
    """Adds up the clock's and the CPU's time of several pieces of work."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def run(self, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


class Table:
    """Puts each piece of work into the report, with how many rows it was about."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def tell(self, what: str, rows: int, clock: Clock) -> None:
        self._report.amounts[what] = (rows, "rows")
        self._report.add(what, "state", Measure(clock.wall, clock.cpu))

    def measure(self, what: str, rows: int, work: Callable[[], object]) -> None:
        clock = Clock()
        clock.run(work)
        self.tell(what, rows, clock)


def drain(items: Iterator[object]) -> None:
    deque(items, maxlen=0)


def fill(store: StateStore, rows: int, *, agreed: bool, dirty: bool) -> Clock:
    clock = Clock()
    for start in range(0, rows, LOT):
        lot = [row_of(i, agreed=agreed) for i in range(start, min(start + LOT, rows))]

        def put(lot: list[Row] = lot) -> None:
            with store.transaction(durable=not dirty):
                store.put(lot, dirty=dirty)

        clock.run(put)
    return clock


def each(store: StateStore, numbers: list[int], *, durable: bool) -> None:
    for i in numbers:
        with store.transaction(durable=durable):
            store.put([row_of(i, agreed=True)], dirty=False)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int)


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("state_rows", f"the state store with {options.rows:,} rows")
    for _ in range(options.rounds):
        _round(report, place.new("s.db"), options.rows)
    return [report]


def _round(report: Report, path: Path, rows: int) -> None:
    table = Table(report)
    store = StateStore.open(path)
    table.tell("put, new rows, seen locally", rows, fill(store, rows, agreed=False, dirty=True))
    table.tell("put, the same rows, agreed", rows, fill(store, rows, agreed=True, dirty=False))
    some = random.sample(range(rows), min(1000, rows))
    paths = [path_of(i) for i in some]
    with store.reader() as reader:
        table.measure("local_signatures", rows, lambda: drain(reader.local_signatures()))
        table.measure("local_sides", rows, lambda: drain(reader.local_sides()))
        table.measure("all_rows", rows, lambda: drain(reader.all_rows()))
    table.measure("row", len(some), lambda: [store.row(path) for path in paths])
    table.measure("rows", len(some), lambda: store.rows(paths))
    table.measure("clashes", len(some), lambda: store.clashes(paths))
    table.measure("find_nuid", len(some), lambda: [store.find_nuid(f"ABCDEFGHIJKL{i:010}") for i in some])
    table.measure("one change, one commit", len(some), lambda: each(store, some, durable=False))
    table.measure("one change, one durable commit", len(some), lambda: each(store, some, durable=True))
    table.measure("counts", 1000, lambda: [store.counts() for _ in range(1000)])
    if not report.values:
        report.value("size of the database", path.stat().st_size / rows, "B/row")
    store.close()
