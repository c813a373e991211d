"""The planner under fire: one random tree perturbed into correlated ones, plans applied out of order and with failures.

    case = draw(seed)       agents, rules, what was agreed, each directory, the bucket, and what happens meanwhile
    try_case(case)          to the end, and all checks; raises AssertionError
    shrunk = shrink(case)   the same failure with as little as possible

A case is data, so it can be made smaller: paths are dropped, edits are undone, faults are taken away, for as long as it
still fails. One or two agents work on one bucket (`tests.support.world`): each looks, plans and applies in turn, in
shuffled order; actions fail, hints come late, and people and other clients write between a plan and its doing.

Checked in the end (DESIGN sections 4 and 5):
    it ends within 50 rounds, and stays ended when every row is decided again
    the sides are as the mode demands; what is apart has a verdict or is a problem, and obstacles are untouched
    nothing is lost: each version that only one side held, and that nobody overwrote afterwards, is in a directory, in
    the bucket, or where the mode or policy gave it up, in the trash
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agent.core import names
from agent.core.entries import Entry, Gone, Kind, Mode, Obstacle, Policy, Reason, Remote, Row
from agent.core.reconcile import Rules, agreed
from tests.support.world import World, content

ROUNDS = 50
COPY = "g.conflict-edge-19700101T000000Z-6f6e652e"  # the name that a conflict copy of "g" with the content "one" gets
NAMES = f"a a/b a/b/c a/b/d a/e b b/a b/a/x c.txt d/e/f d/e g a/ a/b/ d/ h/i {COPY}".split()
SPELLINGS = ["G", "A/e", "a/B", "C.TXT"]  # other names only where case counts: in the bucket
WORDS = ["one", "two", "three", "four", "five", "six"]
KINDS = [(mode, policy) for mode in Mode for policy in Policy if mode is Mode.TWO_WAY or policy is Policy.KEEP_BOTH]

Tree = dict[str, Entry | Obstacle]
Identity = tuple[Kind, bytes, str]


@dataclass(frozen=True)
class Edit:
    """Before the agents' turn in round `number`, or within it: a directory (by number) or the bucket (-1) changes."""

    number: int
    side: int
    path: str
    entry: Entry | None


@dataclass(frozen=True)
class Case:
    """locals: one directory for each agent. strangers: for each agent the agreed paths that it knows nothing of."""

    seed: int
    rules: tuple[Rules, ...]
    agreed: dict[str, Entry]
    locals: tuple[Tree, ...]
    remote: Tree
    strangers: tuple[frozenset[str], ...]
    gone: dict[str, Gone]
    edits: tuple[Edit, ...] = ()
    failing: float = 0.0
    case_insensitive: bool = False

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: failing {self.failing}, case insensitive: {self.case_insensitive}"]
        lines += [f"  agent {number}: {rules}" for number, rules in enumerate(self.rules)]
        sides: list[tuple[str, Tree]] = [(f"local {number}", tree) for number, tree in enumerate(self.locals)]
        sides = [("agreed", dict(self.agreed)), *sides, ("remote", self.remote)]
        for title, side in sides:
            lines += [f"  {title:8} {path:10} {entry}" for path, entry in sorted(side.items())]
        lines += [f"  unknown to {i}: {sorted(paths)}" for i, paths in enumerate(self.strangers) if paths]
        lines += [f"  gone     {path:10} {how.value}" for path, how in self.gone.items() if path not in self.remote]
        return "\n".join([*lines, *(f"  {edit}" for edit in self.edits)])


# ---- drawing -------------------------------------------------------------------------------------------------------


def draw(seed: int) -> Case:
    """The case of a seed: everything about it, but for the order of things, is drawn here."""
    chance = random.Random(seed)
    mode, policy = KINDS[seed % len(KINDS)]
    pair = mode is Mode.TWO_WAY and chance.random() < 0.5
    permissions, empty = chance.random() < 0.8, chance.random() < 0.8
    first = Rules(mode=mode, policy=policy, permissions=permissions, agent="edge", empty_directories=empty)
    rules: tuple[Rules, ...] = (first,)
    if pair:
        other = policy if chance.random() < 0.5 else chance.choice(list(Policy))
        rules = (first, replace(first, agent="core", policy=other))
    words = _words(chance)
    obstacles = chance.random() < 0.4
    case_insensitive = not pair and chance.random() < 0.2
    base: dict[str, Entry] = {}
    for path in chance.sample(NAMES, chance.randrange(1, 9)):
        if fits(base, path):
            base[path] = _some_entry(chance, path, words)
    agreed_on = {path: entry for path, entry in base.items() if chance.random() < 0.8}
    locals_ = tuple(_perturbed(chance, base, words, local=True, obstacles=obstacles) for _ in rules)
    remote = _perturbed(chance, base, words, local=False, obstacles=obstacles)
    strangers = tuple(
        frozenset(path for path in agreed_on if number and chance.random() < 0.2) for number in range(len(rules))
    )
    gone = {path: chance.choice([Gone.DELETED, Gone.DELETED, Gone.VANISHED]) for path in base if path not in remote}
    if case_insensitive:
        remote |= {path: _some_entry(chance, path, words) for path in SPELLINGS if chance.random() < 0.4}
    edits = tuple(_edits(chance, len(rules), words)) if chance.random() < 0.4 else ()
    failing = chance.choice([0.0, 0.0, 0.4])
    return Case(seed, rules, agreed_on, locals_, remote, strangers, gone, edits, failing, case_insensitive)


def _words(chance: random.Random) -> Iterator[str]:
    """Contents: a few that come again and again (equal files, renames), or never the same twice (losses show)."""
    if chance.random() < 0.5:
        return (chance.choice(WORDS) for _ in itertools.count())
    return (f"w{number}" for number in itertools.count())


def _some_entry(chance: random.Random, path: str, words: Iterator[str]) -> Entry:
    if path.endswith("/"):
        return Entry(Kind.DIRECTORY)
    if chance.random() < 0.1:
        return Entry(Kind.LINK, target=chance.choice(["a", "g", "d/e"]))
    return content(
        next(words),
        size=chance.choice((0, 5, 5, 9)),
        executable=chance.random() < 0.3,
        mtime_ns=chance.randrange(1, 5) * 1_000,
    )


def fits(tree: dict, path: str) -> bool:
    """Whether a directory that holds the tree can also hold the path."""
    bare = path.removesuffix("/")
    if path in tree:
        return True
    if bare in tree or any(parent in tree or f"{parent}/" in tree for parent in names.parents_of(path)):
        return False
    return not any(other.startswith(bare + "/") for other in tree)


def _perturbed(chance: random.Random, tree: dict[str, Entry], words: Iterator[str], *, local: bool, obstacles: bool):
    """Some paths deleted, edited, chmodded, renamed, created; unreadable, when asked for."""
    changed: Tree = dict(tree)
    for path, before in tree.items():
        roll = chance.random()
        if roll < 0.15:
            del changed[path]
        elif roll < 0.3:
            changed[path] = _some_entry(chance, path, words)
        elif roll < 0.35 and before.kind is Kind.FILE:
            changed[path] = replace(before, executable=not before.executable)
        elif roll < 0.4 and before.kind is Kind.FILE:
            changed[path] = replace(before, mtime_ns=9_000)
        elif roll < 0.5:
            entry = changed.pop(path)
            goal = chance.choice(NAMES)
            if not path.endswith("/") and not goal.endswith("/") and (not local or fits(changed, goal)):
                changed[goal] = entry
    for _ in range(chance.randrange(4)):
        path = chance.choice(NAMES)
        if not local or fits(changed, path):
            changed[path] = _some_entry(chance, path, words)
    if not local:
        for path, side in changed.items():
            if isinstance(side, Entry) and side.kind is Kind.FILE and chance.random() < 0.15:
                changed[path] = replace(side, executable=None, mtime_ns=None)
    if obstacles:
        for path in [path for path in changed if not path.endswith("/") and chance.random() < 0.15]:
            changed[path] = Obstacle(chance.choice([Reason.UNREADABLE, Reason.FIFO]) if local else Reason.BAD_META)
    return changed


def _edits(chance: random.Random, agents: int, words: Iterator[str]) -> Iterator[Edit]:
    for _ in range(chance.randrange(1, 4)):
        path = chance.choice(NAMES)
        entry = None if chance.random() < 0.3 else _some_entry(chance, path, words)
        yield Edit(chance.randrange(4), chance.randrange(-1, agents), path, entry)


# ---- running -------------------------------------------------------------------------------------------------------


@dataclass
class Play:
    """A case on the stage. new: versions that somebody made. given_up: those that people or clients overwrote."""

    case: Case
    worlds: list[World]
    new_local: list[set[Identity]]
    new_remote: set[Identity]
    given_up: set[Identity] = field(default_factory=set)
    edited: set[tuple[int, str]] = field(default_factory=set)

    @property
    def remote(self) -> dict[str, Remote]:
        return self.worlds[0].remote

    def edit(self, edit: Edit) -> None:
        """As far as it is possible by now; people don't touch what they can't read."""
        side = self.worlds[edit.side].local if edit.side >= 0 else self.worlds[0].objects()
        before = side.get(edit.path)
        if isinstance(before, Obstacle) or (edit.side >= 0 and edit.entry and not fits(side, edit.path)):
            return
        if before is None and edit.entry is None:
            return
        if isinstance(before, Entry) and not (edit.entry and edit.entry.same_content(before)):
            self.given_up.add(identity(before))
        new = self.new_remote if edit.side < 0 else self.new_local[edit.side]
        was = self.case.agreed.get(edit.path)
        if edit.entry and edit.entry.kind is not Kind.DIRECTORY and not (was and was.same_content(edit.entry)):
            new.add(identity(edit.entry))  # what was agreed on isn't new: a deletion on the other side may take it
        self.edited.add((edit.side, edit.path))
        if edit.side < 0:
            self.worlds[0].put(edit.path, edit.entry)
        else:
            self.worlds[edit.side].write(edit.path, edit.entry)


def stage(case: Case) -> Play:
    """The worlds of a case, before anybody looked."""
    remote: dict[str, Remote] = {}
    ticks = itertools.count(101)
    worlds = [World(rules, remote=remote, ticks=ticks, case_insensitive=case.case_insensitive) for rules in case.rules]
    for path, entry in case.agreed.items():
        worlds[0].put(path, entry)
    for world, local, unknown in zip(worlds, case.locals, case.strangers, strict=True):
        for path, entry in case.agreed.items():
            world.write(path, entry)
            if path not in unknown:
                world.rows[path] = Row(path, agreed(entry, entry, world.rules), world.looks[path], remote[path])
        for path in sorted({*case.agreed, *local}):
            if world.local.get(path) != local.get(path):
                world.write(path, local.get(path))
    for path in sorted({*case.agreed, *case.remote, *case.gone}):
        side = case.remote.get(path)
        if side is None and path not in remote:
            continue
        if path not in remote or remote[path].side != side:
            worlds[0].put(path, side, gone=case.gone.get(path))
    new_local = [_new(local, case.agreed) for local in case.locals]
    return Play(case, worlds, new_local, _new(case.remote, case.agreed))


def try_case(case: Case) -> Play:
    """Play a case to its end, and check it."""
    play = stage(case)
    chance = random.Random(case.seed)
    last = max((edit.number for edit in case.edits), default=-1)
    for number in range(ROUNDS):
        now = [edit for edit in case.edits if edit.number == number]
        for edit in now[1:]:
            play.edit(edit)

        def between(first: list[Edit] = now[:1]) -> None:
            while first:
                play.edit(first.pop())

        order = play.worlds if len(play.worlds) == 1 or chance.random() < 0.5 else play.worlds[::-1]
        quiet = [world.turn(chance, failing=case.failing, between=between) for world in order]
        if all(quiet) and number > last:
            break
    else:
        raise AssertionError(f"not ended after {ROUNDS} rounds")
    check(play)
    return play


# ---- what has to hold ----------------------------------------------------------------------------------------------


def check(play: Play) -> None:
    case = play.case
    for number, world in enumerate(play.worlds):
        _check_ended(world)
        _check_sides(play, number)
        if not case.failing and not case.edits and len(play.worlds) == 1:
            assert not world.refused, world.refused
    _check_obstacles(play)
    _check_nothing_lost(play)
    if _nothing_in_the_way(case):
        trees = [{path: side for path, side in world.local.items() if path[-1] != "/"} for world in play.worlds]
        for world, tree in zip(play.worlds, trees, strict=True):
            apart = {path for path in world.verdicts() if not names.is_conflict_copy(path)}
            assert not apart, f"conflicts that nobody can resolve: {apart}"
            assert not world.problems(), f"problems that nobody made: {world.problems()}"
            assert tree.keys() == trees[0].keys()


def _nothing_in_the_way(case: Case) -> bool:
    """Whether two-way agents that keep both have no reason to leave anything apart."""
    if any(rules.mode is not Mode.TWO_WAY or rules.policy is not Policy.KEEP_BOTH for rules in case.rules):
        return False
    sides = [side for tree in (*case.locals, case.remote) for side in tree.values()]
    if case.case_insensitive or any(isinstance(side, Obstacle) for side in sides):
        return False
    if any(edit.side < 0 for edit in case.edits):
        return False
    if case.failing and any(case.agreed.get(path) != side for path, side in case.remote.items()):
        return False  # an object that no agent holds, and that agents hear of when they have sent what clashes with it
    return all(fits({other: 0 for other in case.remote if other != path}, path) for path in case.remote)


def _check_ended(world: World) -> None:
    """A converged mapping's plan is empty, and stays empty, also when every row is looked at again."""
    if world.case_insensitive:  # a name that went makes place for another spelling of it, which only a full look tells
        world.dirty.update(world.rows)
        world.converge()
    world.look_everywhere()
    world.dirty.update(world.rows)
    before = {path: row.verdict for path, row in world.rows.items()}
    again = world.round()
    assert again.empty, [f"{action.verb} {action.path} {action.reason}" for action in again.actions]
    assert not again.deferred, again.deferred
    assert {row.path: row.verdict for row in again.settled} == before


def _check_sides(play: Play, number: int) -> None:
    world = play.worlds[number]
    mode, policy, rules = world.rules.mode, world.rules.policy, world.rules
    local, remote = world.local, world.objects()
    apart = {*world.verdicts(), *world.problems()}
    apart |= {path for path, side in remote.items() if isinstance(side, Obstacle)}
    hidden = [path for path in apart if not path.endswith("/")]
    for path in {*local, *remote}:
        if path in apart or any(path.startswith(f"{one}/") for one in hidden):
            continue
        mine, theirs = local.get(path), remote.get(path)
        if path.endswith("/") and not rules.empty_directories:
            continue
        if path.endswith("/") and any(other.startswith(path) and other != path for other in local):
            continue  # the entry of an empty directory that isn't empty here
        if path.endswith("/") and any(other.startswith(path) for other in apart):
            continue  # or that would not be, if what is a problem could come
        assert isinstance(mine, Entry), f"{path} is missing locally"
        assert isinstance(theirs, Entry), f"{path} is missing remotely"
        assert mine.same(theirs) if rules.permissions else mine.same_content(theirs), path
    if mode is not Mode.TWO_WAY and not play.case.edits:
        sender, before = (local, play.case.locals[number]) if mode.pushes else (remote, play.case.remote)
        assert sender == before, "the sender's side of a one-way mode changed"
    if mode in (Mode.PUSH_MIRROR, Mode.PULL_MIRROR):
        assert not world.verdicts()
    elif mode is Mode.TWO_WAY and policy is Policy.KEEP_BOTH:
        # A copy never gets a copy; its conflicts are reported.
        assert all(names.is_conflict_copy(path) for path in world.verdicts()), world.verdicts()


def _check_obstacles(play: Play) -> None:
    sides = [(world.local, tree) for world, tree in zip(play.worlds, play.case.locals, strict=True)]
    for now, before in [*sides, (play.worlds[0].objects(), play.case.remote)]:
        for path, side in before.items():
            if isinstance(side, Obstacle):
                assert now.get(path) == side, f"the obstacle {path} was touched"


def _check_nothing_lost(play: Play) -> None:
    worlds = play.worlds
    there = versions(worlds[0].objects()).union(*(versions(world.local) for world in worlds))
    trash = {identity(entry) for world in worlds for entry in world.trash}
    policies = {world.rules.policy for world in worlds}
    mode = worlds[0].rules.mode
    kept = there if policies in ({Policy.KEEP_BOTH}, {Policy.REPORT}) else there | trash
    for world, new in zip(worlds, play.new_local, strict=True):
        allowed = kept | trash if world.rules.mode is Mode.PULL_MIRROR else kept
        lost = new - allowed - play.given_up
        assert not lost, f"lost from the directory of {world.rules.agent}: {lost}"
    if mode is not Mode.PUSH_MIRROR and not policies & {Policy.PREFER_LOCAL, Policy.NEWER}:
        lost = play.new_remote - kept - play.given_up
        assert not lost, f"lost from the bucket: {lost}"


def versions(side: Tree) -> set[Identity]:
    return {identity(entry) for entry in side.values() if isinstance(entry, Entry) and entry.kind is not Kind.DIRECTORY}


def identity(entry: Entry) -> Identity:
    return (entry.kind, entry.digest, entry.target)


def _new(side: Tree, before: dict[str, Entry]) -> set[Identity]:
    """The versions on a side that weren't agreed on for their path."""
    return {
        identity(entry)
        for path, entry in side.items()
        if isinstance(entry, Entry)
        and entry.kind is not Kind.DIRECTORY
        and (path not in before or not entry.same_content(before[path]))
    }


# ---- shrinking -----------------------------------------------------------------------------------------------------


def fails(case: Case) -> Exception | None:
    try:
        try_case(case)
    except Exception as exc:  # noqa: BLE001 - whatever goes wrong is the failure that is looked for
        return exc
    return None


def shrink(case: Case) -> Case:
    """The smallest case that still fails in the same way, found step by step."""
    kind = type(fails(case))
    while True:
        smaller = next((one for one in _smaller(case) if type(fails(one)) is kind), None)
        if smaller is None:
            return case
        case = smaller


def _smaller(case: Case) -> Iterator[Case]:
    """Every case with one thing less."""
    if len(case.rules) > 1:
        for keep in range(2):
            edits = tuple(replace(edit, side=min(edit.side, 0)) for edit in case.edits if edit.side in (-1, keep))
            one = slice(keep, keep + 1)
            yield replace(
                case, rules=case.rules[one], locals=case.locals[one], strangers=case.strangers[one], edits=edits
            )
    for number in range(len(case.edits)):
        yield replace(case, edits=case.edits[:number] + case.edits[number + 1 :])
    for path in sorted({*case.agreed, *case.remote, *(path for tree in case.locals for path in tree)}):
        yield replace(
            case,
            agreed=_without(case.agreed, path),
            locals=tuple(_without(tree, path) for tree in case.locals),
            remote=_without(case.remote, path),
        )
    for path in sorted(case.agreed):
        yield replace(case, agreed=_without(case.agreed, path))
    for path in sorted(case.remote):
        yield replace(case, remote=_without(case.remote, path))
    for number, tree in enumerate(case.locals):
        for path in sorted({*tree, *case.agreed}):
            before = case.agreed.get(path)
            for other in [_without(tree, path), {**tree, path: before} if before else None]:
                if other is not None and len(other) <= len(tree) and other != tree:
                    yield replace(case, locals=(*case.locals[:number], other, *case.locals[number + 1 :]))
    if any(case.strangers):
        yield replace(case, strangers=tuple(frozenset() for _ in case.strangers))
    if case.failing:
        yield replace(case, failing=0.0)
    if case.case_insensitive:
        yield replace(case, case_insensitive=False)


def _without(tree: dict, path: str) -> dict:
    return {other: side for other, side in tree.items() if other != path}
