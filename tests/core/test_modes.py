"""Every mode, every policy, every change on each side: what DESIGN section 4 says comes out, carried out to the end."""

from __future__ import annotations

import pytest

from agent.core import names
from agent.core.entries import Entry, Kind, Verdict
from agent.core.reconcile import Rules
from tests.support.cases import CASES, Case
from tests.support.world import World

MTIMES = {"local": (2_000, 1_000), "remote": (1_000, 2_000), "tie": (1_000, 1_000)}


def entry(data: bytes | None, mtime_ns: int) -> Entry | None:
    return Entry(Kind.FILE, data.ljust(32), len(data), False, mtime_ns) if data else None


def data_of(side: object) -> bytes | None:
    return side.digest.rstrip(b" ") if isinstance(side, Entry) else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_mode_and_policy_gives_what_the_table_says(case: Case):
    world = World(Rules(mode=case.mode, policy=case.policy, agent="edge"))
    local_mtime, remote_mtime = MTIMES[case.newer]
    if case.before:
        before = entry(case.before, 500)
        assert before
        world.agree("dir/file.txt", before)
    if case.local_now != case.before:
        world.write("dir/file.txt", entry(case.local_now, local_mtime))
    if case.remote_now != case.before:
        world.put("dir/file.txt", entry(case.remote_now, remote_mtime))

    world.converge()

    row = world.rows.get("dir/file.txt")
    verdict = row.verdict if row else Verdict.NONE
    assert data_of(world.local.get("dir/file.txt")) == case.expected_local
    assert data_of(world.objects().get("dir/file.txt")) == case.expected_remote
    assert (verdict is Verdict.CONFLICT, verdict is Verdict.DIVERGED) == (case.expect_conflict, case.expect_diverged)
    copies = {path for path in {*world.local, *world.objects()} if names.is_conflict_copy(path)}
    assert len(copies) == (1 if case.copy else 0)
    for path in copies:
        assert names.conflict_base(path) == "dir/file.txt"
        assert data_of(world.local[path]) == data_of(world.objects()[path]) == case.copy
    assert not world.refused
