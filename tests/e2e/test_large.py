"""Sizes that take minutes: gigabytes, ten thousand files, and memory that doesn't grow with them (`make slow`)."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, AgentProcess, eventually, read_tree, running, write_tree
from tests.support.stock import Stock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1024 * 1024


def large_file(path: Path, mib: int) -> str:
    """Write `mib` MiB of bytes that don't repeat; their SHA-256 in hex."""
    digest, block = hashlib.sha256(), random.Random(mib).randbytes(MIB)
    partial = path.with_name(path.name + ".tmp")  # excluded until it is whole
    with partial.open("wb") as out:
        for number in range(mib):
            piece = number.to_bytes(8) + block[8:]
            digest.update(piece)
            out.write(piece)
    partial.rename(path)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def peak(process: AgentProcess) -> Iterator[list[int]]:
    """The peak of the process' memory while the block runs, as the only item of the list."""
    found, stop = [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            found[0] = max(found[0], process.rss())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def test_a_file_of_1_gib_appears_on_the_other_side(pair: tuple[Agent, Agent]):
    a, b = pair
    for agent in pair:
        agent.config["mappings"][0]["exclude"] = ["*.tmp"]
        agent.write()
    with running(*pair):
        expected = large_file(a.directory() / "large", 1024)
        eventually((b.directory() / "large").exists, timeout=300)

        assert digest_of(b.directory() / "large") == expected


def test_ten_thousand_small_files_appear_on_the_other_side(pair: tuple[Agent, Agent]):
    a, b = pair
    with running(*pair):
        write_tree(a.directory(), {f"{number % 100:02}/{number}": f"{number}".encode() for number in range(10_000)})

        eventually(lambda: len(read_tree(b.directory())) == 10_000, timeout=300, interval=1)
        assert read_tree(a.directory()) == read_tree(b.directory())


def test_memory_stays_within_80_mib_of_idle_while_2_gib_go_up_and_come_down(pair: tuple[Agent, Agent], stock: Stock):
    a, b = pair
    for agent in pair:
        agent.config["mappings"][0]["exclude"] = ["*.tmp"]
        agent.write()
    with running(*pair) as (process_a, process_b):
        time.sleep(2)
        idle_a, idle_b = process_a.rss(), process_b.rss()
        with peak(process_a) as peak_a, peak(process_b) as peak_b:
            expected = large_file(a.directory() / "large", 2048)
            eventually((b.directory() / "large").exists, timeout=600, interval=0.5)

        assert digest_of(b.directory() / "large") == expected
        assert (peak_a[0] - idle_a) / MIB < 80
        assert (peak_b[0] - idle_b) / MIB < 80


def test_a_tree_of_ten_thousand_files_is_done_in_one_sync_and_then_left_alone(
    make_agent: MakeAgent, stock: Stock, bucket_name: str
):
    agent = make_agent()
    write_tree(agent.directory(), {f"{number % 100:02}/{number}": os.urandom(100) for number in range(10_000)})
    assert agent.sync(timeout=300)["uploads"] == 10_000
    before = stock.messages(bucket_name)

    assert agent.sync(timeout=300)["uploads"] == 0
    assert stock.messages(bucket_name) == before
