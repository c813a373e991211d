"""The state store alone: rows per second of the calls that everything else waits for.

    python benchmarks/bench_state.py [ROWS] [--dir DIR]

Both rates are printed: by the clock, and by CPU time, which is the one to compare on a machine that does other things.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.core.entries import Ancestor, Entry, Kind, Local, Remote, Row, Signature
from agent.state import StateStore

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

    def tell(self, what: str, rows: int) -> None:
        print(f"{what:34} {rows / self.wall:12,.0f}/s {rows / max(self.cpu, 1e-9):12,.0f}/s of CPU", flush=True)


def measure(what: str, rows: int, work: Callable[[], object]) -> None:
    clock = Clock()
    clock.run(work)
    clock.tell(what, rows)


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


def bench(directory: Path, rows: int) -> None:
    store = StateStore.open(directory / "s.db")
    fill(store, rows, agreed=False, dirty=True).tell("put, new rows, seen locally", rows)
    fill(store, rows, agreed=True, dirty=False).tell("put, the same rows, agreed", rows)
    print(f"{'file':34} {(directory / 's.db').stat().st_size / rows:10.0f} bytes/row")
    some = random.sample(range(rows), min(1000, rows))
    paths = [path_of(i) for i in some]
    with store.reader() as reader:
        measure("local_signatures", rows, lambda: drain(reader.local_signatures()))
        measure("local_sides", rows, lambda: drain(reader.local_sides()))
        measure("all_rows", rows, lambda: drain(reader.all_rows()))
    measure("row", len(some), lambda: [store.row(path) for path in paths])
    measure("rows", len(some), lambda: store.rows(paths))
    measure("clashes", len(some), lambda: store.clashes(paths))
    measure("find_nuid", len(some), lambda: [store.find_nuid(f"ABCDEFGHIJKL{i:010}") for i in some])
    measure("one change, one commit", len(some), lambda: each(store, some, durable=False))
    measure("one change, one durable commit", len(some), lambda: each(store, some, durable=True))
    measure("counts", 1000, lambda: [store.counts() for _ in range(1000)])
    store.close()
    print(f"{'largest RSS':34} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:10.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=200_000)
    parser.add_argument("--dir", type=Path, help="where to put the file (default: a temporary directory)")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-state-", dir=arguments.dir))
    try:
        bench(directory, arguments.rows)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
