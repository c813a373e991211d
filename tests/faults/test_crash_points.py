"""Promise 6, exhaustively: the agent is stopped hard at every step of every scenario, restarted, and compared.

For each scenario one run goes to its end: it tells the steps there are, and what both sides hold afterwards. Then, on a
fresh copy of the same world each time, a run is stopped right before step N (or right after it: a message is out, its
answer isn't read), and further runs bring the mapping to convergence. What has to be so then is `check`.

The numbers of the steps vary a little from run to run, since much is done at once: N is the N-th step of *this* run,
and the failure's message names it. A sample of the points, chosen by a seed, is tried by default; all of them with
`-m slow`, or with JETSYNC_FAULTS=all. JETSYNC_FAULTS="before 12" tries one point of the chosen scenarios.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.crash import CONSUMER_SECONDS, Crashes, Run
from tests.faults.crash_scenarios import KEPT, LONG_AGO, SCENARIOS, Place, Scenario
from tests.support.agent import Agent, EmptyDirectory, File, Link, mapping, read_tree, validate
from tests.support.server import NatsServer
from tests.support.stock import Stock

WANTED = os.environ.get("JETSYNC_FAULTS", "")
SEED = os.environ.get("JETSYNC_FAULTS_SEED") or str(random.SystemRandom().randrange(1_000_000))
SAMPLE = 1  # of each scenario's points, where not all are asked for
RECENT_NS = LONG_AGO + 366 * 86_400 * 1_000_000_000  # a scenario's own times are older
MESSAGES = ("chunk", "meta", "marker", "STREAM", "CONSUMER")
RUNS_UNTIL_CLEAN = 3  # the first that converges purges what is due; what it overwrote itself is due for the next


# Steps at which a stop has left something behind, before that was mended: scenario, where, how the step is called.
ONCE_BAD = [
    ("upload over an object", "after", "meta of a.txt"),  # chunks of the old version
    ("delete remote", "after", "marker of d/a.txt"),  # the same
    ("keep both", "before", "exchange"),  # a second conflict copy
    ("keep both without renameat2", "before", "rename ~"),  # the same
    ("first contact: the bucket is made", "before", "link root.json"),  # a temporary file in .jetsync
]


@dataclass(frozen=True)
class Outcome:
    """What both sides hold. kept: digests of all contents that still exist in a tree, a conflict copy or the trash."""

    local: dict[str, Any]
    remote: dict[str, Any]
    kept: frozenset[str]
    code: int
    state_files: frozenset[str]


class Worlds:
    """Makes copies of scenarios' worlds, runs agents in them, and looks at what came out."""

    def __init__(self, base: Path, server: NatsServer, stock: Stock, crashes: Crashes, prefix: str) -> None:
        self._base = base
        self._server = server
        self._stock = stock
        self._crashes = crashes
        self._prefix = prefix
        self._number = 0
        self._leaving: list[str] = []  # buckets that are kept until their last consumer has gone

    def make(self, scenario: Scenario) -> Place:
        self._number += 1
        bucket = f"{self._prefix}-{self._number}"
        home = self._base / str(self._number)
        entry = mapping(bucket, name="files", max_delete="100%", **scenario.options)
        made_by_others = not scenario.atomic or scenario.name == "first contact: files on both sides"
        if made_by_others:
            self._stock.create(bucket)
        buckets: dict[str, Any] = {} if made_by_others else {bucket: {}}
        agent = Agent(home, self._server.url, [entry], name="a", buckets=buckets, http=False)
        place = Place(agent, self._stock, bucket, prefix=scenario.options.get("prefix", ""))
        for path, content in {KEPT: b"kept", **scenario.base}.items():
            match content:
                case None:
                    (place.root / path).mkdir()
                case str():
                    place.link(path, content)
                case _:
                    place.write(path, content, mtime_ns=LONG_AGO)
        if scenario.known:
            first = self._crashes.run(home, "sync")
            assert first.result.code == 0, f"the base isn't brought up: {first.result}"
        scenario.change(place)
        return place

    def run(self, place: Place, scenario: Scenario, *argv: str, at: int | None = None, after: int | None = None) -> Run:
        return self._crashes.run(place.agent.home, *argv, at=at, after=after, poor=scenario.poor)

    def finish(self, place: Place, scenario: Scenario) -> tuple[Run, dict[str, int]]:
        """Run until the mapping has converged and nothing is left in the bucket; the last run, and what is left."""
        for number in range(1, RUNS_UNTIL_CLEAN + 1):
            run = self.run(place, scenario, "sync")
            left = self._stock.orphans(place.bucket)
            if not left or number == RUNS_UNTIL_CLEAN:
                return run, left
        raise AssertionError("unreachable")

    def outcome(self, place: Place, scenario: Scenario, code: int) -> Outcome:
        kept = {_digest(node.content) for node in read_tree(place.root).values() if isinstance(node, File)}
        trash = place.root / ".jetsync" / "trash"
        kept |= {_digest(path.read_bytes()) for path in trash.rglob("*") if path.is_file() and not path.is_symlink()}
        state = place.agent.state_dir
        return Outcome(
            local={path: _local(place.root, path, node) for path, node in read_tree(place.root).items()},
            remote={
                name: _remote(meta.payload)
                for name, meta in self._stock.metas(place.bucket).items()
                if not meta.deleted
            },
            kept=frozenset(kept),
            code=code,
            state_files=frozenset(str(path.relative_to(state)) for path in state.rglob("*")),
        )

    def chunks_are_whole(self, place: Place) -> bool:
        """Whether every object has the chunks that its meta says, and no two share them."""
        stored = self._stock.chunks(place.bucket)
        live = [meta.payload for meta in self._stock.metas(place.bucket).values() if not meta.deleted]
        nuids = [payload["nuid"] for payload in live if payload["chunks"]]
        return len(set(nuids)) == len(nuids) and all(
            stored.get(payload["nuid"], 0) == payload["chunks"] for payload in live
        )

    def consumers(self, bucket: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._stock.api(f"CONSUMER.LIST.OBJ_{bucket}").get("consumers") or []
        return [consumer["config"] for consumer in found]

    def leave(self, place: Place) -> None:
        """Done with this world. Its bucket goes when its last consumer has gone, which is waited for at the end."""
        shutil.rmtree(place.agent.home)
        self._leaving.append(place.bucket)
        self.sweep()

    def sweep(self) -> None:
        for bucket in list(self._leaving):
            if not self.consumers(bucket):
                self._stock.api(f"STREAM.DELETE.OBJ_{bucket}")
                self._leaving.remove(bucket)

    def close(self) -> None:
        deadline = time.monotonic() + CONSUMER_SECONDS * 3
        while self._leaving and time.monotonic() < deadline:
            time.sleep(0.2)
            self.sweep()
        left = {bucket: self.consumers(bucket) for bucket in self._leaving}
        assert not left, f"consumers are left on the server: {left}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _local(root: Path, path: str, node: File | Link | EmptyDirectory) -> Any:
    if not isinstance(node, File):
        return node
    mtime_ns = (root / path).stat().st_mtime_ns
    return _digest(node.content), node.executable, mtime_ns if mtime_ns < RECENT_NS else "now"


def _remote(payload: dict[str, Any]) -> Any:
    metadata = dict(payload.get("metadata") or {})
    if metadata.get("jetsync.mtime", "") > "2021":
        metadata["jetsync.mtime"] = "now"
    link = (payload.get("options") or {}).get("link")
    return payload["size"], payload.get("digest"), link and link.get("name"), metadata


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer, worker_id: str) -> Iterator[Worlds]:
    with Stock(nats_server.url) as stock, Crashes() as crashes:
        made = Worlds(tmp_path_factory.mktemp("crashes"), nats_server, stock, crashes, f"crash-{worker_id}")
        yield made
        made.close()


def reference(worlds: Worlds, scenario: Scenario) -> tuple[Outcome, list[str]]:
    """What comes out when nothing stops the run, and its steps."""
    place = worlds.make(scenario)
    before = {_digest(node.content) for node in read_tree(place.root).values() if isinstance(node, File)}
    run = worlds.run(place, scenario, "sync")
    outcome = worlds.outcome(place, scenario, run.result.code)
    lost = before - outcome.kept - {_digest(content) for content in scenario.forgets}
    assert not lost, f"{scenario.name}: contents of the directory are gone"
    check(worlds, place, scenario, outcome)
    worlds.leave(place)
    return outcome, run.steps


def check(worlds: Worlds, place: Place, scenario: Scenario, expected: Outcome) -> None:
    """Whatever has happened before: both sides are as they would be without it, and nothing lies about."""
    last, orphans = worlds.finish(place, scenario)
    found = worlds.outcome(place, scenario, last.result.code)
    assert _tree(found, expected, scenario) == expected.local, f"the directory: {last.result}"
    assert found.remote == expected.remote, f"the bucket: {last.result}"
    assert found.code == expected.code, str(last.result)
    assert expected.kept <= found.kept, f"a content is in no tree and not in the trash: {last.result}"
    assert worlds.chunks_are_whole(place), f"chunks are missing or shared: {last.result}"
    assert not orphans, f"orphan chunks are left after {RUNS_UNTIL_CLEAN} runs"
    assert found.state_files <= expected.state_files, "files are left in the state directory"
    own = place.root / ".jetsync"
    assert not list((own / "staging").glob("*")), "files are left in staging"
    assert {path.name for path in own.glob("*")} <= {"staging", "trash", "root.json"}
    assert not list((place.agent.home / "tmp").iterdir()), "temporary files are left"
    for consumer in worlds.consumers(place.bucket):
        assert consumer["inactive_threshold"] <= CONSUMER_SECONDS * 1_000_000_000, consumer
    plan = worlds.run(place, scenario, "plan", "--json")
    assert plan.result.code == expected.code, str(plan.result)
    validate(plan.result.json, "plan")
    assert plan.result.json["mappings"][0]["actions"] == [], f"the plan isn't empty: {plan.result}"


def _tree(found: Outcome, expected: Outcome, scenario: Scenario) -> dict[str, Any]:
    """The directory, without directories that a stop has kept from being removed right after they were emptied.

    Those stay, as directories do that people have emptied (DESIGN section 4). They are in nobody's way.
    """
    if scenario.options.get("empty_directories"):
        return found.local
    return {
        path: node
        for path, node in found.local.items()
        if path in expected.local or not isinstance(node, EmptyDirectory)
    }


def points(steps: list[str]) -> list[tuple[str, int]]:
    """Every place to stop: before each step; and after each message, which has left the process then.

    After any other step nothing is different from before the next one.
    """
    found = [("before", number) for number in range(len(steps))]
    return found + [("after", number) for number, name in enumerate(steps) if name.startswith(MESSAGES)]


def stop_at(worlds: Worlds, scenario: Scenario, where: str, number: int, expected: Outcome) -> None:
    place = worlds.make(scenario)
    run = worlds.run(place, scenario, "sync", at=number if where == "before" else None,
                     after=number if where == "after" else None)  # fmt: skip
    step = run.steps[number] if run.stopped else "none: the run had fewer steps"
    try:
        check(worlds, place, scenario, expected)
    except AssertionError as error:
        steps = json.dumps(run.steps[: number + 1], indent=1, ensure_ascii=False)
        raise AssertionError(
            f"{scenario.name!r}, stopped {where} step {number} ({step}); again: JETSYNC_FAULTS='{where} {number}' "
            f"pytest {Path(__file__).name} -k {scenario.name!r}\n{error}\nthe steps: {steps}"
        ) from error
    worlds.leave(place)


def chosen(scenario: Scenario, steps: list[str]) -> list[tuple[str, int]]:
    everything = points(steps)
    if WANTED == "all":
        return everything
    if WANTED:
        where, number = WANTED.split()
        return [(where, int(number))]
    return random.Random(f"{SEED} {scenario.name}").sample(everything, min(SAMPLE, len(everything)))


every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@every_scenario
@pytest.mark.timeout(3600 if WANTED == "all" else 120)
def test_a_run_that_is_stopped_at_some_steps_loses_nothing_and_the_next_converges(
    worlds: Worlds, scenario: Scenario
) -> None:
    expected, steps = reference(worlds, scenario)
    for where, number in chosen(scenario, steps):
        stop_at(worlds, scenario, where, number, expected)


@pytest.mark.parametrize(("name", "where", "step"), ONCE_BAD)
def test_steps_at_which_something_was_left_once(worlds: Worlds, name: str, where: str, step: str) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    expected, steps = reference(worlds, scenario)
    number = next(number for number, named in enumerate(steps) if named.startswith(step))
    stop_at(worlds, scenario, where, number, expected)


@pytest.mark.slow
@every_scenario
@pytest.mark.timeout(3600)
def test_a_run_that_is_stopped_at_any_step_loses_nothing_and_the_next_converges(
    worlds: Worlds, scenario: Scenario
) -> None:
    expected, steps = reference(worlds, scenario)
    failures = []
    for where, number in points(steps):
        try:
            stop_at(worlds, scenario, where, number, expected)
        except AssertionError as error:
            failures.append(str(error))
    heads = ["; ".join(failure.splitlines()[:2]) for failure in failures]
    assert not failures, "\n".join([f"{len(failures)} of {len(points(steps))} points:", *heads, *failures[:2]])


@pytest.mark.slow
@every_scenario
@pytest.mark.timeout(600)
def test_runs_that_are_stopped_again_and_again_lose_nothing_and_the_next_converges(
    worlds: Worlds, scenario: Scenario
) -> None:
    expected, steps = reference(worlds, scenario)
    chance = random.Random(f"{SEED} {scenario.name}")
    place = worlds.make(scenario)
    stops = []
    for _ in range(12):
        where, number = chance.choice(("before", "after")), chance.randrange(max(4, len(steps) // 4))
        run = worlds.run(place, scenario, "sync", at=number if where == "before" else None,
                         after=number if where == "after" else None)  # fmt: skip
        stops.append(f"{where} {number}: {run.steps[number] if run.stopped else 'none'}")
    try:
        check(worlds, place, scenario, expected)
    except AssertionError as error:
        raise AssertionError(f"{scenario.name!r} (seed {SEED}), stopped {stops}\n{error}") from error
    worlds.leave(place)
