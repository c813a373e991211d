"""Promise 6 with plain force: `kill -9`, again and again, while many small files and a large one go up and come down.

One agent sends a tree, the other one fetches it; each is killed half of the times, at random moments of its work: when
so many bytes have passed, by the server's own count. On average each life comes as far as its share of the whole. At
the end both directories are equal, and nothing lies about: no temporary or staged file, no chunk without an object, no
consumer.

Whoever was killed left what it had stored: a large transfer goes on behind that, so that all of them together cost less
than one and a half times the tree. What is on its way at a kill is lost: with a small tree that counts, and is allowed
for.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.crash import CONSUMER_SECONDS, REPOSITORY, Crashes
from tests.support.agent import Agent, digests, environment, eventually, mapping
from tests.support.server import DIE_WITH_PARENT, NatsServer
from tests.support.stock import Stock

SEED = os.environ.get("JETSYNC_FAULTS_SEED") or str(random.SystemRandom().randrange(1_000_000))
LIFE = 15.0  # seconds; an agent that has nothing to send is killed then
BUCKET = "kills"
RUNS_UNTIL_CLEAN = 4
IN_FLIGHT = 16 << 20  # bytes that one download may have asked for ahead


def make_tree(root: Path, *, files: int, large: int) -> int:
    """Files of a few bytes up to 4 KiB, and one of `large` bytes; the bytes of all."""
    chance = random.Random(1)
    for number in range(files):
        path = root / f"{number % 20:02}" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(4096)))
    with (root / "large.bin").open("wb") as out:
        for _ in range(large >> 20):
            out.write(chance.randbytes(1 << 20))
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def run_and_kill(agent: Agent, server: NatsServer, share: int, chance: random.Random) -> None:
    """Start `jetsync run`, and kill it when a random number of bytes, `share` on average, have passed the server."""
    log = agent.home / "killed.log"
    end = sum(traffic(server)) + chance.randrange(2 * share)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*DIE_WITH_PARENT, sys.executable, "-m", "tests.faults.crash", "--plain", "--", "run", "-c",
             str(agent.config_file)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**environment(), "TMPDIR": str(temporary(agent))},
        )  # fmt: skip
    try:

        def connected() -> bool:
            assert process.poll() is None, log.read_text()
            return '"event": "connected"' in log.read_text()

        eventually(connected, timeout=60, interval=0.01)
        deadline = time.monotonic() + LIFE
        while sum(traffic(server)) < end and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()


def temporary(agent: Agent) -> Path:
    folder = agent.home / "tmp"
    folder.mkdir(exist_ok=True)
    return folder


def traffic(server: NatsServer) -> tuple[int, int]:
    """Bytes that have come into the server, and that it has sent."""
    page = server.monitor("varz")
    return page["in_bytes"], page["out_bytes"]


@pytest.fixture
def crashes() -> Iterator[Crashes]:
    with Crashes() as made:
        yield made


def converge(crashes: Crashes, agent: Agent) -> None:
    run = crashes.run(agent.home, "sync", timeout=600)
    assert run.result.code == 0, str(run.result)


@pytest.mark.parametrize(
    ("kills", "files", "large", "in_flight"),
    [
        pytest.param(8, 300, 64 << 20, IN_FLIGHT, marks=[pytest.mark.slow, pytest.mark.timeout(240)], id="8 kills"),
        pytest.param(100, 5_000, 1 << 30, 0, marks=[pytest.mark.slow, pytest.mark.timeout(1800)], id="100 kills"),
    ],
)
def test_agents_that_are_killed_again_and_again_converge_and_leave_nothing(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    make_server: Callable[..., NatsServer],
    crashes: Crashes,
    kills: int,
    files: int,
    large: int,
    in_flight: int,
) -> None:
    chance = random.Random(SEED)
    print(f"JETSYNC_FAULTS_SEED={SEED}")
    server = make_server()
    agents = [Agent(tmp_path / name, server.url, [mapping(BUCKET)], http=False) for name in "ab"]
    size = make_tree(agents[0].directory(), files=files, large=large)
    spent = []
    for agent in agents:
        before = traffic(server)
        for _ in range(kills // 2):
            run_and_kill(agent, server, size // (kills // 2), chance)
        killed = [now - then for now, then in zip(traffic(server), before, strict=True)]
        print(f"{agent.home.name}: {killed} bytes in and out of the server when it was killed for the last time")
        converge(crashes, agent)
        spent.append([now - then for now, then in zip(traffic(server), before, strict=True)])

    (up, _), (_, down) = spent
    print(f"a tree of {size} bytes: {up} sent ({up / size:.2f}), {down} received ({down / size:.2f})")
    assert digests(agents[0].directory()) == digests(agents[1].directory())
    most = 1.5 * size + kills // 2 * in_flight
    assert up < most, f"{up} bytes were sent for a tree of {size}"
    assert down < most, f"{down} bytes were received for a tree of {size}"
    with Stock(server.url) as stock:
        for _ in range(RUNS_UNTIL_CLEAN):
            if stock.orphans(BUCKET):
                for agent in agents:
                    converge(crashes, agent)
        assert stock.orphans(BUCKET) == {}
    for agent in agents:
        own = agent.directory() / ".jetsync"
        assert sorted(path.name for path in own.iterdir()) in (["root.json"], ["root.json", "staging"])
        assert not list(own.glob("staging/*"))
        assert not list(temporary(agent).iterdir())
        assert {path.name for path in agent.state_dir.rglob("*")} <= {"files.db", "lock", "mappings", "control.sock"}
        plan = crashes.run(agent.home, "plan", "--json").result.json
        assert plan["mappings"][0]["actions"] == []
    eventually(lambda: not server.consumers(), timeout=CONSUMER_SECONDS * 4, interval=0.2)
