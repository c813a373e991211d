"""Large trees that are in sync already: made once per run, or once for all with `--cache`.

Each is a folder with the tree, the agent's home and the server's store. What a benchmark changes in it has to be in
sync again when it ends; after an interruption the next `sync` sees to that.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support import trees
from benchmarks.support.agent import Agent
from benchmarks.support.fill import fill
from benchmarks.support.place import Place
from benchmarks.support.servers import NatsServer

BUCKET = "files"
PER_DIRECTORY = 1000
SIZE = 16


@dataclass(frozen=True, slots=True)
class Prepared:
    files: int
    tree: Path
    server: NatsServer
    agent: Agent

    def name(self, number: int) -> str:
        return trees.name_of(number, per_directory=PER_DIRECTORY)


@contextmanager
def prepared(place: Place, options: argparse.Namespace, files: int) -> Iterator[Prepared]:
    """A running server and an agent (not running) that are in sync."""
    folder = (options.cache or place.folder / "prepared").absolute() / f"{files}-files"
    made = folder / "made"
    if not made.exists():
        _tree(folder, files)
    with NatsServer(folder / "server") as server:
        agent = Agent(folder / "home", server.url, BUCKET, folder / "tree")
        if not made.exists():
            _fill(server, agent)
            made.touch()
        agent.sync()
        yield Prepared(files, folder / "tree", server, agent)


def _tree(folder: Path, files: int) -> None:
    """The tree alone. It stays when what comes next is interrupted: on some disks removing a million files is slow."""
    made = folder / "tree-made"
    for left in ("server", "home", "tree/.jetsync", *([] if made.exists() else ["tree"])):
        shutil.rmtree(folder / left, ignore_errors=True)
    if not made.exists():
        began = time.perf_counter()
        trees.make(folder / "tree", files, SIZE, per_directory=PER_DIRECTORY)
        print(f"  ({files:,} files were made in {time.perf_counter() - began:.0f} s)", flush=True)
        made.touch()


def _fill(server: NatsServer, agent: Agent) -> None:
    began = time.perf_counter()
    agent.make_bucket()
    fill(server.url, BUCKET, agent.directory)
    filled = time.perf_counter()
    agent.sync()
    took = time.perf_counter() - filled
    print(f"  (the bucket was filled in {filled - began:.0f} s; the first sync took {took:.0f} s)", flush=True)
