"""The planner against itself: random trees, plans applied in shuffled order with failures, until nothing is left to do.

One random tree is perturbed into three correlated ones (what was agreed, the directory, the bucket), with obstacles,
links, empty directories, objects "a" and "a/b", equal contents, unknown bits. Then plans are made and applied; actions
fail at random and hints come late. Checked in the end, for each mode: it ends within 50 rounds and stays ended; the
sides are as the mode demands; no version that only one side held is lost.

SIMULATIONS=n runs more (per test); SIMULATION=seed runs one, and says what it began with.
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass, replace

import pytest

from agent.core import names
from agent.core.entries import Entry, Gone, Kind, Mode, Obstacle, Policy, Reason, Side, Verdict
from agent.core.reconcile import Rules
from tests.support.world import World, content

RUNS = int(os.environ.get("SIMULATIONS", "100"))
NAMES = [
    "a",
    "a/b",
    "a/b/c",
    "a/b/d",
    "a/e",
    "b",
    "b/a",
    "b/a/x",
    "c.txt",
    "d/e/f",
    "d/e",
    "g",
    "a/",
    "a/b/",
    "d/",
    "h/i",
]
WORDS = ["one", "two", "three", "four", "five", "six"]
KINDS = [(mode, policy) for mode in Mode for policy in Policy if mode is Mode.TWO_WAY or policy is Policy.KEEP_BOTH]


@dataclass
class Setting:
    """A world before the first plan, and what was in it."""

    world: World
    local: dict[str, Entry | Obstacle]
    remote: dict[str, Entry | Obstacle]
    agreed: dict[str, Entry]
    obstacles: bool


def some_entry(chance: random.Random, path: str) -> Entry:
    if path.endswith("/"):
        return Entry(Kind.DIRECTORY)
    if chance.random() < 0.1:
        return Entry(Kind.LINK, target=chance.choice(["a", "g", "d/e"]))
    return content(
        chance.choice(WORDS),
        size=chance.choice([0, 5, 5, 9]),
        executable=chance.random() < 0.3,
        mtime_ns=chance.randrange(1, 5) * 1_000,
    )


def fits(tree: dict, path: str) -> bool:
    """Whether a directory that holds the tree can also hold the path."""
    above = names.parents_of(path)
    below = path.removesuffix("/") + "/"
    if any(parent in tree or f"{parent}/" in tree for parent in above) or path.removesuffix("/") in tree:
        return path in tree
    return not any(other.startswith(below) for other in tree if other != path)


def perturbed(chance: random.Random, tree: dict[str, Entry], *, local: bool, obstacles: bool) -> dict:
    """Some paths deleted, edited, chmodded, renamed, created; unreadable, when asked for."""
    changed: dict = dict(tree)
    for path in sorted(tree):
        roll = chance.random()
        if roll < 0.15:
            del changed[path]
        elif roll < 0.3:
            changed[path] = some_entry(chance, path)
        elif roll < 0.35 and tree[path].kind is Kind.FILE:
            changed[path] = replace(tree[path], executable=not tree[path].executable)
        elif roll < 0.4 and tree[path].kind is Kind.FILE:
            changed[path] = replace(tree[path], mtime_ns=9_000)
        elif roll < 0.5:
            entry = changed.pop(path)
            goal = chance.choice(NAMES)
            if entry.kind is Kind.FILE and not goal.endswith("/") and (not local or fits(changed, goal)):
                changed[goal] = entry
    for _ in range(chance.randrange(4)):
        path = chance.choice(NAMES)
        if not local or fits(changed, path):
            changed[path] = some_entry(chance, path)
    if not local:
        for path, entry in changed.items():
            if isinstance(entry, Entry) and entry.kind is Kind.FILE and chance.random() < 0.15:
                changed[path] = replace(entry, executable=None, mtime_ns=None)
    if obstacles:
        for path in [path for path in changed if not path.endswith("/") and chance.random() < 0.15]:
            changed[path] = Obstacle(chance.choice([Reason.UNREADABLE, Reason.FIFO]) if local else Reason.BAD_META)
    return changed


def make_setting(seed: int, mode: Mode, policy: Policy, *, obstacles: bool) -> Setting:
    chance = random.Random(seed)
    rules = Rules(mode=mode, policy=policy, agent="edge", empty_directories=True, permissions=chance.random() < 0.8)
    base: dict[str, Entry] = {}
    for path in chance.sample(NAMES, chance.randrange(1, 9)):
        if fits(base, path):
            base[path] = some_entry(chance, path)
    world = World(rules, case_insensitive=chance.random() < 0.2)
    agreed = {path: entry for path, entry in base.items() if chance.random() < 0.8}
    for path, entry in agreed.items():
        world.agree(path, entry)
    local = perturbed(chance, base, local=True, obstacles=obstacles)
    remote = perturbed(chance, base, local=False, obstacles=obstacles)
    for path in {*base, *local}:
        if world.local.get(path) != local.get(path):
            world.write(path, local.get(path))
    for path in {*base, *remote}:
        side: Side = remote.get(path)
        if path not in world.remote and side is None:
            continue
        if world.objects().get(path) != side:
            world.put(path, side, gone=chance.choice([Gone.DELETED, Gone.DELETED, Gone.VANISHED]))
    return Setting(world, local, remote, agreed, obstacles)


def seeds():
    one = os.environ.get("SIMULATION")
    return [int(one)] if one else range(RUNS)


def versions(side: dict) -> set[tuple]:
    return {identity(entry) for entry in side.values() if isinstance(entry, Entry) and entry.kind is not Kind.DIRECTORY}


def identity(entry: Entry) -> tuple:
    return (entry.kind, entry.digest, entry.target)


def tell(setting: Setting, seed: int) -> str:
    world = setting.world
    lines = [f"SIMULATION={seed} {world.rules}"]
    for title, side in (("agreed", setting.agreed), ("local", setting.local), ("remote", setting.remote)):
        lines += [f"  {title:7} {path:8} {side[path]}" for path in sorted(side)]
    for title, end in (("local", world.local), ("remote", world.objects())):
        lines += [f"  end {title:7} {path:8} {end[path]}" for path in sorted(end)]
    lines += [f"  row {row}" for row in world.rows.values() if row.verdict or row.path in world.problems()]
    return "\n".join(lines + [f"  refused {what}" for what in world.refused])


def check_ended(setting: Setting) -> None:
    """A converged mapping's plan is empty, and stays empty, also when every row is looked at again."""
    world = setting.world
    world.look_everywhere()
    world.dirty.update(world.rows)
    before = {path: row.verdict for path, row in world.rows.items()}
    again = world.round()
    assert again.empty, [f"{action.verb} {action.path} {action.reason}" for action in again.actions]
    assert not again.deferred
    assert {row.path: row.verdict for row in again.settled} == before


def check_sides(setting: Setting) -> None:
    world = setting.world
    mode, policy = world.rules.mode, world.rules.policy
    apart = {*world.verdicts(), *world.problems()}
    apart |= {path for path, side in world.objects().items() if isinstance(side, Obstacle)}
    hidden = [path for path in apart if not path.endswith("/")]
    local, remote = world.local, world.objects()
    for path in {*local, *remote}:
        if path in apart or any(path.startswith(f"{one}/") for one in hidden):
            continue
        mine, theirs = local.get(path), remote.get(path)
        if path.endswith("/") and any(other.startswith(path) and other != path for other in local):
            continue  # the entry of an empty directory that isn't empty here
        assert isinstance(mine, Entry), f"{path} is missing locally"
        assert isinstance(theirs, Entry), f"{path} is missing remotely"
        assert mine.same(theirs) if world.rules.permissions else mine.same_content(theirs), path
    if mode is not Mode.TWO_WAY:
        sender, before = (local, setting.local) if mode.pushes else (remote, setting.remote)
        assert sender == before, "the sender's side of a one-way mode changed"
        if mode in (Mode.PUSH_MIRROR, Mode.PULL_MIRROR):
            assert Verdict.CONFLICT not in world.verdicts().values()
            assert Verdict.DIVERGED not in world.verdicts().values()
    elif policy is Policy.KEEP_BOTH:
        assert set(world.verdicts().values()) <= {Verdict.NONE}
    if not setting.obstacles and mode is not Mode.TWO_WAY and mode.pushes:
        assert not world.problems()


def check_nothing_lost(setting: Setting) -> None:
    """Each version that is new on a side (not what was agreed) is still somewhere, unless the mode gives it up."""
    world = setting.world
    mode, policy = world.rules.mode, world.rules.policy
    there = versions(world.local) | versions(world.objects())
    trash = {identity(entry) for entry in world.trash}
    new_local = {path: side for path, side in setting.local.items() if is_new(side, setting.agreed.get(path))}
    new_remote = {path: side for path, side in setting.remote.items() if is_new(side, setting.agreed.get(path))}
    local_allowed = there
    if mode is Mode.PULL_MIRROR or policy in (Policy.PREFER_REMOTE, Policy.NEWER):
        local_allowed = there | trash
    assert versions(new_local) <= local_allowed
    if mode is not Mode.PUSH_MIRROR and policy not in (Policy.PREFER_LOCAL, Policy.NEWER):
        assert versions(new_remote) <= there
    for path, side in setting.local.items():
        if isinstance(side, Obstacle):
            assert world.local[path] == side
    for path, side in setting.remote.items():
        if isinstance(side, Obstacle):
            assert world.objects()[path] == side


def is_new(side: Entry | Obstacle, before: Entry | None) -> bool:
    return isinstance(side, Entry) and (before is None or not side.same_content(before))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("mode", "policy"), KINDS)
@pytest.mark.parametrize("failing", [0.0, 0.4], ids=["nothing fails", "actions fail"])
def test_it_ends_as_the_mode_demands_and_loses_nothing(mode, policy, failing):
    for seed, obstacles in itertools.product(seeds(), (False, True)):
        setting = make_setting(seed, mode, policy, obstacles=obstacles)
        try:
            setting.world.converge(random.Random(seed), failing=failing)
            if not failing:
                assert not setting.world.refused
            check_ended(setting)
            check_sides(setting)
            check_nothing_lost(setting)
        except Exception:
            print(tell(setting, seed))
            raise
