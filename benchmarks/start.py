"""Starting with nothing to do in a large tree, beside `find DIR -printf '%s %T@ %i\\n'` on the same tree.

The tree is in sync; then, in turn, `jetsync sync` (the whole command) and find. Also told: what the server has sent
meanwhile, since a restart reads only the metas that are newer than its cursor. 1,000,000 files: `--files 1000000`, with
`--cache DIR` to make the tree only once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.support.place import Place
from benchmarks.support.prepared import prepared
from benchmarks.support.process import run, with_server
from benchmarks.support.results import Report
from benchmarks.support.servers import pid_of

DEFAULTS = {"files": 100_000, "rounds": 5}
QUICK = {"files": 50_000, "rounds": 3}
WORK = "nothing to do"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int)


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("start", f"start with nothing to do, {options.files:,} files, {options.rounds} rounds")
    report.amounts[WORK] = (options.files, "files")
    sent = []
    with prepared(place, options, options.files) as ready:
        find: list[str | Path] = ["sh", "-c", "exec find \"$1\" -printf '%s %T@ %i\\n' > /dev/null", "find", ready.tree]
        run(find)
        for _ in range(options.rounds):
            report.add(WORK, "find", run(find).measure)
            before = ready.server.monitor("varz")["out_bytes"]
            report.add(WORK, "jetsync", with_server(pid_of(ready.server), ready.agent.sync))
            sent.append(ready.server.monitor("varz")["out_bytes"] - before)
    report.longer((WORK, "jetsync"), (WORK, "find"), most=5)
    peak = max(measure.rss or 0 for measure in report.figures[WORK, "jetsync"])
    report.value("peak RSS", peak / 2**20, "MiB", most=300)
    report.value("sent by the server for it", max(sent) / 1024, "KiB", most=64)
    return [report]
