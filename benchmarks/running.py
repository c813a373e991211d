"""A running agent in a large tree and in a small one: a changed file, a thousand at once, and nothing at all.

    one change       a file is written; time until its meta reaches the bucket, `settle` excluded. Against 100 files
    1,000 changes    the same files (of one directory) at once, in a tree of 2,000 and in the large one
    idle             CPU and memory of the agent of the large tree while nothing happens, between rescans
    rescan: 1s       the same when it is told to rescan each second, which it should do less often

The agents run at the same time, so that the rounds alternate; CPU time of the agent is told too, since it is what other
work on the machine disturbs least. 1,000,000 files: `--files 1000000 --cache DIR`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.support.agent import Running
from benchmarks.support.place import Place
from benchmarks.support.prepared import BUCKET, Prepared, prepared
from benchmarks.support.process import Measure, cpu_seconds, resident
from benchmarks.support.results import Report
from benchmarks.support.servers import pid_of
from benchmarks.support.watch import Metas

DEFAULTS = {"files": 100_000, "rounds": 40, "bursts": 5, "seconds": 60}
QUICK = {"files": 50_000, "rounds": 15, "bursts": 2, "seconds": 20}
SETTLE = 0.1
ONE, BURST = "one change", "1,000 changes at once"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int)
    parser.add_argument("--bursts", type=int, help="how often 1,000 files are changed")
    parser.add_argument("--seconds", type=float, help="how long to look at the idle agent")


class Side:
    """One tree with its running agent."""

    def __init__(self, stack: ExitStack, place: Place, options: argparse.Namespace, files: int, **mapping: str) -> None:
        self.ready: Prepared = stack.enter_context(prepared(place, options, files))
        self.metas = stack.enter_context(Metas(self.ready.server.url, BUCKET))
        self.running: Running = stack.enter_context(self.ready.agent.run(settle=f"{SETTLE * 1000:.0f}ms", **mapping))
        self.who = f"{files:,}"

    def change(self, names: Sequence[str], text: str) -> Measure:
        """Write the files; the time until the last is in the bucket, and the agent's CPU until it is quiet again."""
        cpu = cpu_seconds(self.running.pid)
        began = time.perf_counter()
        for name in names:
            Path(self.ready.tree, name).write_text(f"{text} {name}")
        seconds = self.metas.wait(names, since=began) - began - SETTLE
        _wait_quiet(self.running.pid)
        return Measure(seconds, cpu_seconds(self.running.pid) - cpu)


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("running", f"a running agent with {options.files:,} files, {options.rounds} rounds")
    with ExitStack() as stack:
        small, middle, large = (Side(stack, place, options, files) for files in (100, 2000, options.files))
        for side in (small, middle, large):
            _wait_quiet(pid_of(side.ready.server), patience=300)  # it may still purge what an earlier run has replaced
            _wait_quiet(side.running.pid)
        _idle(report, large, options.seconds)  # first: half a minute after a change its old chunks are purged
        _changes(report, small, large, options.rounds)
        _bursts(report, middle, large, options.bursts)
    with ExitStack() as stack:
        _rescans(report, Side(stack, place, options, options.files, rescan="1s"), options.seconds)
    return [report]


def _changes(report: Report, small: Side, large: Side, rounds: int) -> None:
    for number in range(rounds):
        for side in (small, large):
            name = side.ready.name(number % 100)
            report.add(ONE, side.who, side.change([name], f"{time.time_ns()}"))
    report.longer((ONE, large.who), (ONE, small.who), most=1.3)
    _cpu(report, ONE, large, small)


def _bursts(report: Report, middle: Side, large: Side, rounds: int) -> None:
    for _ in range(rounds):
        for side in (middle, large):
            names = [side.ready.name(number) for number in range(1000)]
            report.add(BURST, side.who, side.change(names, f"{time.time_ns()}"))
    report.longer((BURST, large.who), (BURST, middle.who), most=1.5)
    _cpu(report, BURST, large, middle)


def _cpu(report: Report, work: str, large: Side, small: Side) -> None:
    """The ratio of the sums: single changes cost less than the kernel's clock can tell."""
    sums = [sum(measure.cpu or 0 for measure in report.figures[work, side.who]) for side in (large, small)]
    report.value(f"{work}: CPU of the agent against that with {small.who}", sums[0] / max(sums[1], 0.01), "x")


def _idle(report: Report, large: Side, seconds: float) -> None:
    cpu = cpu_seconds(large.running.pid)
    time.sleep(seconds)
    share = (cpu_seconds(large.running.pid) - cpu) / seconds
    report.value(f"idle for {seconds:.0f} s: share of a core", share * 100, "%", most=0.5)
    report.value("idle: RSS", resident(large.running.pid) / 2**20, "MiB", most=300)
    report.value("idle: peak RSS since the start", resident(large.running.pid, "VmHWM") / 2**20, "MiB")
    report.value("time until the agent was ready", large.running.ready, "s")
    os.sync()


def _rescans(report: Report, large: Side, seconds: float) -> None:
    """Rescans are asked for every second; how much of a core they take all the same."""
    cpu = cpu_seconds(large.running.pid)
    time.sleep(seconds)
    share = (cpu_seconds(large.running.pid) - cpu) / seconds
    report.value(f"`rescan: 1s` for {seconds:.0f} s: share of a core", share * 100, "%", most=1)


def _wait_quiet(pid: int, *, patience: float = 60) -> None:
    """Until the process has used next to no CPU for a moment."""
    deadline = time.monotonic() + patience
    before = cpu_seconds(pid)
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = cpu_seconds(pid)
        if now - before < 0.015:
            return
        before = now
