"""`sync` of many small files: push, again with nothing to do, pull; beside rclone and `cp -r`.

In each round, in turn, on the same disk, each with fresh buckets and directories:

    push            jetsync sync, first time                 rclone sync DIR s3:           cp -r
    nothing to do   jetsync sync again                       rclone sync again
    pull            jetsync sync in an empty directory       rclone sync s3: DIR

Each is timed as the command that a user runs, from its start to its end. jetsync syncs what it writes to disk and
verifies digests; rclone doesn't sync, `cp` neither. rclone's server is `rclone serve s3`.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from benchmarks.support import trees
from benchmarks.support.agent import Agent
from benchmarks.support.place import Place, clear
from benchmarks.support.process import run, with_server
from benchmarks.support.rclone import Rclone, rclone_server
from benchmarks.support.results import Report
from benchmarks.support.servers import NatsServer, pid_of

DEFAULTS = {"files": 10_000, "size": 4096, "rounds": 5}
QUICK = {"files": 10_000, "size": 4096, "rounds": 2}
PUSH, NOTHING, PULL = "push", "nothing to do", "pull"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int)
    parser.add_argument("--size", type=int, help="bytes per file")


def bench(place: Place, options: argparse.Namespace) -> list[Report]:
    report = Report("small_files", f"{options.files:,} files of {options.size:,} bytes, {options.rounds} rounds")
    for work in (PUSH, NOTHING, PULL):
        report.amounts[work] = (options.files, "files")
    source = place.new("source")
    trees.make(source, options.files, options.size)
    for number in range(options.rounds):
        turns = [_jetsync, _rclone, _copy]
        for turn in turns[number % 3 :] + turns[: number % 3]:
            folder = place.new("work")
            folder.mkdir()
            turn(report, folder, source)
            clear(folder)
            shutil.rmtree(source / ".jetsync", ignore_errors=True)
    report.faster((PUSH, "jetsync"), (PUSH, "rclone"), least=4)
    report.faster((PULL, "jetsync"), (PULL, "rclone"), least=1.5)
    report.faster((NOTHING, "jetsync"), (NOTHING, "rclone"), least=2)
    for work in (PUSH, PULL):
        report.longer((work, "jetsync"), (PUSH, "cp -r"))
    return [report]


def _jetsync(report: Report, folder: Path, source: Path) -> None:
    with NatsServer(folder / "server") as server:
        sender = Agent(folder / "sender", server.url, "files", source)
        receiver = Agent(folder / "receiver", server.url, "files", folder / "received")
        for what, agent in ((PUSH, sender), (NOTHING, sender), (PULL, receiver)):
            os.sync()
            report.add(what, "jetsync", with_server(pid_of(server), agent.sync))
        trees.check_equal(source, folder / "received")


def _rclone(report: Report, folder: Path, source: Path) -> None:
    with rclone_server(folder / "server") as rclone:
        if rclone is None:
            return
        _rclone_steps(report, rclone, folder, source)
        trees.check_equal(source, folder / "received")


def _rclone_steps(report: Report, rclone: Rclone, folder: Path, source: Path) -> None:
    for what in (PUSH, NOTHING):
        os.sync()
        report.add(what, "rclone", rclone.push(source, "files"))
    os.sync()
    report.add(PULL, "rclone", rclone.pull("files", folder / "received"))


def _copy(report: Report, folder: Path, source: Path) -> None:
    os.sync()
    report.add(PUSH, "cp -r", run(["cp", "-r", source, folder / "copy"]).measure)
