"""Two agents and a stock client that write one name at once: no write of an agent vanishes (promise 2).

In each agent's directory a person replaces one file again and again: the next content comes when the agent has done
something with that name, or a little later, or at once. What stood there is exchanged out by the same system call, so
that the ledger knows exactly what was seen and given up. The stock client overwrites the object blindly: what it
destroys is what an agent had stored, and nobody has given that up.

With `tidy` the people take away the conflict copies that they find; else there are soon ten of them, and what follows
is reported as a conflict: both versions stay, one in a directory and one in the bucket.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, identities, of_bytes
from tests.faults.people import Person
from tests.support.agent import Agent, AgentProcess, digests, eventually, mapping, running
from tests.support.server import NatsServer, binaries
from tests.support.stock import Stock

BUCKET = "one"
NAME = "name.txt"
KEPT = "kept"  # two files that nobody touches: no side is ever emptied
COPIES = 10  # live ones of a name; a conflict that would make another one is reported
TAKEN_SECONDS = 0.5  # for so long a person waits for the agent
CONVERGE = 120.0
SEED = int(os.environ.get("JETSYNC_FAULTS_SEED") or random.SystemRandom().randrange(1_000_000))


class Turns:
    """So many writes in all, by whoever comes. An error of one ends all."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._lock = threading.Lock()
        self.errors: list[BaseException] = []

    def take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0 and not self.errors

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except BaseException as exc:  # noqa: BLE001 - raised again by the test
            self.errors.append(exc)


class Log:
    """How many actions on the name the agent has told of, in a log that grows."""

    def __init__(self, process: AgentProcess) -> None:
        self._path = process.log_file
        self._at = 0
        self.applied = 0

    def read(self) -> int:
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        self.applied += sum(b'"applied"' in line and NAME.encode() in line for line in whole.splitlines())
        return self.applied


def work(person: Person, process: AgentProcess, turns: Turns, *, tidy: bool) -> None:
    """Replace the file until there is no turn left."""
    log, chance = Log(process), person.chance
    with turns.told():
        while turns.take():
            before = log.read()
            person.save(NAME)
            patience = chance.choice([0, 0.01, TAKEN_SECONDS, TAKEN_SECONDS, TAKEN_SECONDS])
            end = time.monotonic() + patience
            while time.monotonic() < end and log.read() == before:
                time.sleep(0.005)
            if tidy and chance.random() < 0.3:
                for copy in person.root.glob("*.conflict-*"):
                    with contextlib.suppress(FileNotFoundError):
                        person.delete(copy.name)


def overwrite(stock: Stock, ledger: Ledger, chance: random.Random, turns: Turns) -> None:
    """Put the object blindly; only what the stock client itself has put before counts as given up."""
    number, last = 0, ""
    with turns.told():
        while turns.take():
            number += 1
            content = f"stock-{number}.".encode() * chance.choice([1, 1, 20_000])
            ledger.saw(last, "stock overwrote it")
            stock.put(BUCKET, NAME, content)
            last = of_bytes(content)
            ledger.wrote(last, f"stock put {number}")
            time.sleep(chance.choice([0, 0.05, 0.2, 0.4]))


def write_at_once(home: Path, binary: str, *, writes: int, tidy: bool, seed: int) -> dict[Path, int]:
    """How many contents are in which tree and trash at the end.

    :raises AssertionError: something is lost, or they don't converge
    """
    ledger, turns = Ledger(), Turns(writes)
    with NatsServer(home / "nats", binary=binaries().get(binary, "nats-server")) as server, Stock(server.url) as stock:
        entry = mapping(BUCKET, directory="./disk/files", settle="10ms", max_delete="100%")
        agents = [Agent(home / name, server.url, [entry]) for name in "ab"]
        people = [
            Person(
                agent.home.name,
                agent.directory(),
                agent.home / "disk/aside",
                ledger=ledger,
                chance=random.Random(seed + index),
                seed=seed,
            )
            for index, agent in enumerate(agents)
        ]
        for number in (1, 2):
            people[0].save(f"{KEPT}/{number}")
        with running(*agents) as processes:
            writers = [
                threading.Thread(target=work, args=(person, process, turns), kwargs={"tidy": tidy})
                for person, process in zip(people, processes, strict=True)
            ]
            writers.append(threading.Thread(target=overwrite, args=(stock, ledger, random.Random(seed + 9), turns)))
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            for error in turns.errors:
                raise error
            eventually(lambda: all_agree(agents, stock), timeout=CONVERGE, interval=0.5)
            applied = [line for process in processes for line in process.events("applied") if line["path"] == NAME]
            assert any(line["action"] == "upload" for line in applied), "no write of an agent was ever acknowledged"
            assert not any("Traceback (most recent call last)" in process.log for process in processes)
        in_bucket = set(stock.digests(BUCKET).values())
        places = [place for agent in agents for place in (agent.directory(), agent.directory() / ".jetsync/trash")]
        lost = {one: story for one, story in ledger.lost(places).items() if one not in in_bucket}
        assert not lost, f"{len(lost)} of {len(ledger.written)} are lost: {list(lost.values())[:20]}"
        return {place: len(set(identities(place))) for place in places}


def all_agree(agents: list[Agent], stock: Stock) -> bool:
    """Both directories equal the bucket, but for a name whose conflict is reported."""
    conflicts = [set(agent.sync(exit=(0, 3))["conflicts"]) for agent in agents]
    bucket = stock.digests(BUCKET)
    for agent, reported in zip(agents, conflicts, strict=True):
        tree = digests(agent.directory())
        wrong = {path for path in tree.keys() | bucket.keys() if tree.get(path) != bucket.get(path)}
        assert wrong <= reported, f"{agent.home.name} differs in {wrong}, and reports {reported}"
        copies = [path for path in tree if ".conflict-" in path]
        assert not reported or len(copies) >= COPIES, f"{reported} are reported, with {len(copies)} copies"
    return True


@pytest.mark.parametrize("tidy", [True, False], ids=["people tidy up", "copies pile up"])
@pytest.mark.timeout(300)
def test_nothing_that_an_agent_stored_vanishes_when_three_write_one_name_at_once(tmp_path: Path, *, tidy: bool):
    write_at_once(tmp_path, "2.15", writes=150, tidy=tidy, seed=SEED)


@pytest.mark.slow
@pytest.mark.parametrize("tidy", [True, False], ids=["people tidy up", "copies pile up"])
@pytest.mark.parametrize("binary", ["2.15", "2.12", "2.9"])
@pytest.mark.timeout(900)
def test_nothing_vanishes_in_a_thousand_writes_of_one_name(tmp_path: Path, binary: str, *, tidy: bool):
    if binary not in binaries():
        pytest.skip(f"no nats-server {binary}; `make servers` brings it")
    write_at_once(tmp_path, binary, writes=1000, tidy=tidy, seed=SEED)
