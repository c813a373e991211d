"""Figures: collected round by round, shown as a table, written as JSON lines.

A ratio is the median of the rounds' ratios: both of its sides were measured in the same round, so what else the machine
does meanwhile strikes both. It compares speeds (how many times as fast) or times (how many times as long).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.process import Measure

Pair = tuple[str, str]
"""Work and who did it."""


@dataclass
class Report:
    """`title`: what was measured, in a line. `amounts`: work -> (how much, unit), for rates."""

    name: str
    title: str
    amounts: dict[str, tuple[float, str]] = field(default_factory=dict)
    figures: dict[Pair, list[Measure]] = field(default_factory=dict)
    values: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, work: str, who: str, measure: Measure) -> Measure:
        self.figures.setdefault((work, who), []).append(measure)
        return measure

    def note(self, text: str) -> None:
        self.notes.append(text)

    def faster(self, ours: Pair, than: Pair, *, least: float | None = None) -> None:
        """How many times as fast as `than` it is, by rate where both have an amount; to reach: at least `least`. Also
        told is the ratio of the CPU time, servers included, which other work on the machine hardly changes."""
        self._ratio("times as fast as", ours, than, least=least)
        mine, theirs = (_work(self.figures.get(pair, [])) for pair in (ours, than))
        if mine and theirs:
            amounts = self._amount(ours[0]) / self._amount(than[0])
            self.value(
                f"{ours[0]}: CPU time of {_other(ours, than)} against that of {ours[1]}", theirs / mine * amounts, "x"
            )

    def longer(self, ours: Pair, than: Pair, *, most: float | None = None) -> None:
        """How many times as long as `than` it takes; to reach: at most `most`."""
        self._ratio("times as long as", ours, than, most=most)

    def value(
        self, what: str, value: float, unit: str, *, least: float | None = None, most: float | None = None
    ) -> None:
        """A figure by itself, with what is to be reached."""
        reached = None if least is None and most is None else _within(value, least, most)
        self.values.append(
            {"what": what, "value": value, "unit": unit, "least": least, "most": most, "reached": reached}
        )

    def _ratio(
        self, words: str, ours: Pair, than: Pair, *, least: float | None = None, most: float | None = None
    ) -> None:
        if ours not in self.figures or than not in self.figures:
            return
        by_rate = words == "times as fast as"
        ratios = []
        for mine, theirs in zip(self.figures[ours], self.figures[than], strict=False):
            longer = mine.seconds / max(theirs.seconds, 1e-9)
            amounts = self._amount(ours[0]) / self._amount(than[0])
            ratios.append(amounts / longer if by_rate else longer)
        self.value(f"{ours[0]}: {ours[1]} {words} {_other(ours, than)}", median(ratios), "x", least=least, most=most)

    def _amount(self, work: str) -> float:
        return self.amounts.get(work, (1.0, ""))[0]

    # -- shown

    def show(self) -> None:
        print(f"\n{self.name}: {self.title}")
        if self.figures:
            print(
                f"  {'':30}{'':10}{'median':>9} {'min':>9} {'max':>9} {'CPU':>8} {'server':>8} {'RSS':>9} {'rate':>14}"
            )
        before = ""
        for (work, who), measures in self.figures.items():
            seconds = [measure.seconds for measure in measures]
            cpu = [measure.cpu for measure in measures if measure.cpu is not None]
            server = [measure.server for measure in measures if measure.server is not None]
            rss = [measure.rss for measure in measures if measure.rss is not None]
            print(
                f"  {work if work != before else '':32}{who:10}{_time(median(seconds))} {_time(min(seconds))} "
                f"{_time(max(seconds))} {f'{median(cpu):.2f} s' if cpu else '':>8} "
                f"{f'{median(server):.2f} s' if server else '':>8} "
                f"{f'{max(rss) / 2**20:.0f} MiB' if rss else '':>9} {self._rate(work, median(seconds)):>14}"
            )
            before = work
        for line in self.values:
            print(f"  {line['what']:80}{_number(line['value']):>8} {line['unit']:7}{_reach(line)}")
        for text in self.notes:
            print(f"  {text}")
        print(flush=True)

    def _rate(self, work: str, seconds: float) -> str:
        if work not in self.amounts:
            return ""
        amount, unit = self.amounts[work]
        return f"{amount / seconds:,.0f} {unit}/s"

    def write(self, path: Path) -> None:
        """One line per work and who, and one per value, each with the machine and the version."""
        about = {"benchmark": self.name, "title": self.title, **_about()}
        with path.open("a") as file:
            for (work, who), measures in self.figures.items():
                seconds = [round(measure.seconds, 6) for measure in measures]
                line = {
                    "work": work,
                    "who": who,
                    "median": median(seconds),
                    "min": min(seconds),
                    "max": max(seconds),
                    "seconds": seconds,
                    "cpu": [measure.cpu for measure in measures],
                    "rss": [measure.rss for measure in measures],
                    "server_cpu": [measure.server for measure in measures],
                    "amount": self.amounts.get(work),
                }
                file.write(json.dumps({**about, **line}) + "\n")
            for value in self.values:
                file.write(json.dumps({**about, **value}) + "\n")


def _other(ours: Pair, than: Pair) -> str:
    return than[1] if than[0] == ours[0] else f"{than[0]}, {than[1]}"


def _work(measures: list[Measure]) -> float:
    """The median of the CPU seconds of client and server together; 0 when not known."""
    known = [measure.cpu + (measure.server or 0.0) for measure in measures if measure.cpu is not None]
    return median(known) if known else 0.0


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _reach(line: dict[str, Any]) -> str:
    if line["reached"] is None:
        return ""
    bound = f">= {line['least']:g}" if line["least"] is not None else f"<= {line['most']:g}"
    return f"to reach {bound}: {'reached' if line['reached'] else 'MISSED'}"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:6.1f} ms" if seconds < 0.1 else f"{seconds:7.2f} s"


def _number(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _about() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }
