"""The whole table of modes and policies, against a real bucket: mode x policy x change of each side.

All cases of one mode and policy go through in one mapping, each under a name of its own, so that it takes one sync.
The table itself is tests/support/cases.py; the pure core is tested with the same.
"""

from __future__ import annotations

import itertools
import os
import re

import pytest

from agent.core.entries import Mode
from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, File, read_tree, write_tree
from tests.support.cases import CONFIGURABLE, Case
from tests.support.stock import Stock

GROUPS = {
    f"{mode}-{policy}": list(cases)
    for (mode, policy), cases in itertools.groupby(
        sorted(CONFIGURABLE, key=lambda case: (case.mode, case.policy)), key=lambda case: (case.mode, case.policy)
    )
}

BEFORE, EARLIER, LATER = 1_577_836_800, 1_609_459_200, 1_640_995_200  # 2020, 2021 and 2022, in seconds


def wire_time(seconds: int) -> str:
    return {BEFORE: "2020", EARLIER: "2021", LATER: "2022"}[seconds] + "-01-01T00:00:00.000000000Z"


class Bench:
    """One agent and one bucket, with a name for each case."""

    def __init__(self, agent: Agent, stock: Stock, bucket: str, cases: list[Case]) -> None:
        self.agent, self.stock, self.bucket = agent, stock, bucket
        self.cases = {f"d{number % 3}/case-{number}.txt": case for number, case in enumerate(cases)}

    def agree(self) -> None:
        """Bring the paths that start "agreed" to both sides, by a sync from the side that may send."""
        before = {name: case.before for name, case in self.cases.items() if case.before is not None}
        sending = next(iter(self.cases.values())).mode.pushes
        for name, content in before.items():
            self.write_local(name, content, BEFORE) if sending else self.write_remote(name, content, BEFORE)
        self.agent.sync()
        assert self.local() == self.remote() == before

    def change(self) -> None:
        for name, case in self.cases.items():
            if case.local_now is None:
                (self.agent.directory() / name).unlink(missing_ok=True)
            elif case.local_now != case.before:
                self.write_local(name, case.local_now, EARLIER if case.newer == "remote" else LATER)
            if case.remote_now is None and case.before is not None:
                self.stock.delete(self.bucket, name)
            elif case.remote_now is not None and case.remote_now != case.before:
                self.write_remote(name, case.remote_now, EARLIER if case.newer == "local" else LATER)

    def write_local(self, name: str, content: bytes, seconds: int) -> None:
        write_tree(self.agent.directory(), {name: content})
        os.utime(self.agent.directory() / name, (seconds, seconds))

    def write_remote(self, name: str, content: bytes, seconds: int) -> None:
        self.stock.put_raw(self.bucket, name, content, metadata={"jetsync.mtime": wire_time(seconds)})

    def local(self) -> dict[str, bytes]:
        return {
            name: node.content for name, node in read_tree(self.agent.directory()).items() if isinstance(node, File)
        }

    def remote(self) -> dict[str, bytes]:
        return self.stock.contents(self.bucket)


def told(case: Case) -> str:
    return f"{case.id}: local {case.local_change}, remote {case.remote_change}, expected {case.outcome}"


@pytest.mark.parametrize("group", GROUPS)
def test_every_change_on_each_side_ends_as_the_table_says(make_agent: MakeAgent, stock: Stock, bucket: str, group: str):
    cases = GROUPS[group]
    mode, policy = cases[0].mode, cases[0].policy
    options = {"conflicts": str(policy)} if mode is Mode.TWO_WAY else {}
    bench = Bench(make_agent(mode=str(mode), **options), stock, bucket, cases)
    bench.agree()
    bench.change()
    plan = bench.agent.plan(exit=None)
    result = bench.agent.sync(exit=3 if any(case.expect_conflict for case in cases) else 0)
    local, remote = bench.local(), bench.remote()
    copies = {name: name.partition(".conflict-")[0] + ".txt" for name in local if ".conflict-" in name}

    wrong = {
        told(case): (local.get(name), remote.get(name))
        for name, case in bench.cases.items()
        if (local.get(name), remote.get(name)) != (case.expected_local, case.expected_remote)
    }
    assert wrong == {}
    assert result["conflicts"] == sorted(name for name, case in bench.cases.items() if case.expect_conflict)
    assert result["diverged"] == sum(case.expect_diverged for case in cases)
    assert sorted(copies.values()) == sorted(name for name, case in bench.cases.items() if case.copy is not None)
    assert all(local[copy] == remote[copy] == bench.cases[name].copy for copy, name in copies.items())
    assert sorted(result["conflict_copies"]) == sorted(copies)
    # The name tells the local version's time: the 1st of January of 2021 or 2022.
    assert all(re.search(r"\.conflict-a-202[12]0101T000000Z-[0-9a-f]{8}\.txt$", copy) for copy in copies)
    assert set(local) - set(copies) <= set(bench.cases)

    counters = ("uploads", "downloads", "deletes_local", "deletes_remote", "moves_local", "moves_remote")
    planned = {counter: plan[counter] for counter in counters}
    assert planned == {counter: result[counter] for counter in counters}
    again = bench.agent.sync(exit=result["exit"])
    assert {counter: again[counter] for counter in counters} == dict.fromkeys(counters, 0)
    assert (bench.local(), bench.remote()) == (local, remote)
    assert (again["conflicts"], again["diverged"]) == (result["conflicts"], result["diverged"])


def change(agent: Agent, **options: str) -> None:
    agent.config["mappings"][0].update(options)
    agent.write()


def test_a_mirror_that_was_none_halts_before_it_deletes_what_had_been_left_alone(
    make_agent: MakeAgent, stock: Stock, bucket: str
):
    agent = make_agent(mode="pull-safe")
    for number in range(20):
        stock.put(bucket, f"theirs-{number}", b"theirs")
    ours = {f"ours-{number}": b"ours" for number in range(30)}
    write_tree(agent.directory(), ours)
    assert agent.sync()["diverged"] == 30

    change(agent, mode="pull-mirror")
    assert agent.plan(exit=None)["deletes_local"] == 30
    assert agent.sync(exit=3)["halt"]["reason"] == "max_delete"
    assert len(read_tree(agent.directory())) == 50

    agent.cli("approve", "files", exit=0)
    assert agent.sync()["deletes_local"] == 30
    assert not any(name.startswith("ours") for name in read_tree(agent.directory()))


def test_a_change_of_mode_sends_what_had_been_left_alone(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(mode="pull-safe")
    stock.put(bucket, "theirs", b"theirs")
    agent.sync()
    write_tree(agent.directory(), {"ours": b"ours", "theirs": b"ours now"})
    assert agent.sync()["diverged"] == 2

    change(agent, mode="two-way")
    assert agent.sync()["uploads"] == 2
    assert stock.contents(bucket) == {"ours": b"ours", "theirs": b"ours now"}


def test_another_policy_settles_the_conflicts_that_are_there(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent(conflicts="report")
    write_tree(agent.directory(), {"file": b"ours"})
    stock.put(bucket, "file", b"theirs")
    assert agent.sync(exit=3)["conflicts"] == ["file"]

    change(agent, conflicts="prefer-remote")
    assert agent.sync()["conflicts"] == []
    assert (agent.directory() / "file").read_bytes() == b"theirs"
