"""A world in memory for the planner: a directory, a bucket, and the rows between them.

It does what the shell around the core does (look, plan, apply with expectations, commit), without IO and with faults on
request: actions that fail or never run, hints that come late, people who write between a plan and its doing, in any
order. Worlds that share `remote` and `ticks` are several agents on one bucket. A world keeps the rules of the real
sides: a directory can't hold "a" and "a/b", a bucket can; every write of an object has a new revision; a path is
written only if it still is what the row says.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from agent.core import names
from agent.core.entries import (
    Ancestor,
    Entry,
    Gone,
    Kind,
    Local,
    Obstacle,
    Reason,
    Remote,
    Row,
    Side,
    Signature,
    Verdict,
)
from agent.core.names import fold
from agent.core.plan import Action, Plan, Verb, plan, unsettled
from agent.core.reconcile import Rules, agreed


def content(name: str, *, size: int = 5, executable: bool | None = False, mtime_ns: int | None = 1_000) -> Entry:
    """A file whose content is told by a word."""
    return Entry(Kind.FILE, name.encode().ljust(32, b"."), size, executable, mtime_ns)


class RefusedError(Exception):
    """The world doesn't allow it: the expectation failed, or a file and a directory would have one name."""


@dataclass
class World:
    rules: Rules
    local: dict[str, Entry | Obstacle] = field(default_factory=dict)
    remote: dict[str, Remote] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    trash: list[Entry] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    ticks: Iterator[int] = field(default_factory=lambda: itertools.count(101))  # revisions and times; shared by worlds
    case_insensitive: bool = False
    looks: dict[str, Local] = field(default_factory=dict)  # what a look at each local path gives
    unreadable: set[str] = field(default_factory=set)  # local paths that hide what is below them

    # ---- people and other clients ----

    def write(self, path: str, side: Entry | Obstacle | None) -> None:
        """The local side becomes this; parents that are in the way are the caller's problem."""
        stamp = self._tick()
        self.unreadable.discard(path)
        if side is None:
            self.local.pop(path, None)
            self.looks.pop(path, None)
            return
        self.local[path] = side
        size = side.size if isinstance(side, Entry) else 0
        self.looks[path] = Local(side, Signature(size=size, mtime_ns=0, ctime_ns=0, inode=stamp))
        if isinstance(side, Obstacle) and side.reason is Reason.UNREADABLE:
            self.unreadable.add(path)

    def put(self, path: str, side: Side, *, gone: Gone | None = None) -> None:
        """The remote side becomes this; None with `gone` leaves a marker's revision."""
        self.remote[path] = Remote(side, self._tick(), gone=(gone or Gone.DELETED) if side is None else None)

    def agree(self, path: str, entry: Entry) -> None:
        """Both sides hold the entry, and a sync has seen that."""
        self.write(path, entry)
        self.put(path, entry)
        ancestor = agreed(entry, entry, self.rules)
        self.rows[path] = Row(path, ancestor, self._look(path), self.remote[path])

    def _tick(self) -> int:
        return next(self.ticks)

    # ---- what the shell does ----

    def _look(self, path: str) -> Local | None:
        if self.unreadable:
            for parent in names.parents_of(path):
                if parent in self.unreadable:
                    return Local(self.local[parent])
        return self.looks.get(path)

    def look(self, path: str) -> None:
        """Refresh a row; dirty when a side isn't what the row says."""
        row = self.rows.get(path) or Row(path)
        local, remote = self._look(path), self.remote.get(path)
        if row.local != local or row.remote != remote:
            self.rows[path] = Row(path, row.ancestor, local, remote, row.verdict)
            self.dirty.add(path)

    def changed(self) -> list[str]:
        """Paths whose row isn't what the sides are now."""
        changed = []
        for path in {*self.local, *self.remote, *self.rows}:
            row = self.rows.get(path) or Row(path)
            there = self._look(path)
            if row.remote != self.remote.get(path) or (row.local != there and not (_planned(row) and there is None)):
                changed.append(path)
        return sorted(changed)

    def look_everywhere(self) -> None:
        """A full look. Paths that planning made a problem differ from the disk, and so are decided anew."""
        for path in {*self.local, *self.remote, *self.rows}:
            self.look(path)

    def context(self, dirty: set[str]) -> list[Row]:
        """What state gives beside the dirty rows, as `core.plan.plan` asks for it."""
        found: dict[str, Row] = {}
        ordered = sorted(self.rows)
        waiting = sorted(dirty)
        while waiting:
            path = waiting.pop()
            near: dict[str, Row] = {}
            for name in [path, *_above(path)]:
                if name != path:
                    if name not in self.rows:
                        continue
                    near[name] = self.rows[name]
                near.update(self._below(name, ordered, dirty))
            for name, row in near.items():
                if name not in found:
                    found[name] = row
                    if name not in dirty and unsettled(row):
                        waiting.append(name)
        return [row for path, row in found.items() if path not in dirty]

    def _below(self, path: str, ordered: list[str], dirty: set[str]) -> dict[str, Row]:
        """The unsettled rows below a path, and of the settled ones one of each kind that planning has to know of."""
        inside = _inside(path)
        near: dict[str, Row] = {}
        wanted = [_local_entry, _local_any, _remote_entry]
        for name in ordered[bisect_left(ordered, inside) :]:
            if not name.startswith(inside):
                break
            if name == path:
                continue
            row = self.rows[name]
            if unsettled(row):
                near[name] = row
            elif name not in dirty:
                for kind in [kind for kind in wanted if kind(row)]:
                    near[name] = row
                    wanted.remove(kind)
        return near

    def plan(self) -> Plan:
        dirty = [self.rows[path] for path in sorted(self.dirty)]
        return plan(
            dirty,
            self.rules,
            clashes=self.context(self.dirty),
            taken=lambda path: path in self.local or self._object(path) is not None,
            copies=lambda path: sum(names.is_copy_of(copy, path) for copy in {*self.local, *self.objects()}),
            case_insensitive=self.case_insensitive,
            spelling=self._spelling,
        )

    def _spelling(self, path: str) -> str | None:
        """As a case-insensitive directory answers: each name that is there, and the directories above it."""
        there = {name for one in self.local for name in [*names.parents_of(one), one.removesuffix("/")]}
        return next((name for name in sorted(there) if fold(name) == fold(path)), None)

    def round(
        self, chance: random.Random | None = None, *, failing: float = 0.0, between: Callable[[], None] = lambda: None
    ) -> Plan:
        """Plan, settle, apply. Each action fails with the probability `failing`; what fails stays dirty."""
        made = self.plan()
        between()
        for row in made.settled:
            self.rows[row.path] = row
            self.dirty.discard(row.path)
        for path in made.deferred:
            self.dirty.add(path)
            self.look(path)
        for stage in made.stages:
            actions = list(stage)
            if chance:
                chance.shuffle(actions)
            for action in actions:
                if chance and chance.random() < failing:
                    self.dirty.add(action.path)
                    continue
                self.run(action)
        return made

    def run(self, action: Action) -> None:
        self.dirty.add(action.path)
        try:
            self._expect(action.row)
            if action.to_row:
                self._expect(action.to_row)
            self._apply(action)
        except RefusedError as exc:
            self.refused.append(f"{action.verb} {action.path} {action.to}: {exc}")

    def turn(
        self, chance: random.Random | None = None, *, failing: float = 0.0, between: Callable[[], None] = lambda: None
    ) -> bool:
        """Look, plan, call `between`, apply. Whether there was nothing left to do."""
        late = self.changed()
        if chance and failing:
            late = [path for path in late if chance.random() > failing]
        for path in late:
            self.look(path)
        if not self.dirty and not self.changed():
            between()
            return True
        made = self.round(chance, failing=failing, between=between)
        return made.empty and not made.deferred and not self._open()

    def converge(self, chance: random.Random | None = None, *, failing: float = 0.0, rounds: int = 50) -> int:
        """Look and plan until nothing is left to do; the number of rounds. Fails when that takes too many."""
        for number in range(rounds):
            if self.turn(chance, failing=failing):
                return number
        raise AssertionError(f"not converged after {rounds} rounds")

    def _open(self) -> bool:
        return bool(self.dirty) or any(not _planned(self.rows.get(path, Row(path))) for path in self.changed())

    def _object(self, path: str) -> Entry | Obstacle | None:
        return self.remote[path].side if path in self.remote else None

    def _expect(self, row: Row) -> None:
        if self._look(row.path) != row.local:
            raise RefusedError("the local side isn't as expected")
        if self.remote.get(row.path) != row.remote:
            raise RefusedError("the remote side isn't as expected")

    # ---- applying ----

    def _apply(self, action: Action) -> None:
        path, row, entry = action.path, action.row, action.entry
        match action.verb:
            case Verb.UPLOAD:
                self._send(path, self._local_entry(path), entry)
            case Verb.DOWNLOAD:
                self._receive(path, entry)
            case Verb.DELETE_LOCAL:
                self.trash.append(self._local_entry(path))
                self.write(path, None)
                self._commit(path, None)
            case Verb.DELETE_REMOTE:
                self.put(path, None)
                self._commit(path, None)
            case Verb.MOVE_LOCAL:
                before = self._local_entry(path)
                assert entry
                self.write(path, None)
                self._commit(path, None)
                self._place(action.to, entry, keeps=before)
                self._commit_agreed(action.to)
            case Verb.MOVE_REMOTE:
                self.put(path, None)
                self._commit(path, None)
                self._send(action.to, self._local_entry(action.to), entry)
            case Verb.UPDATE_METADATA if action.local:
                assert entry
                self._place(path, entry, keeps=self._local_entry(path))
                self._commit_agreed(path)
            case Verb.UPDATE_METADATA:
                assert entry
                self.put(path, entry)
                self._commit_agreed(path)
            case Verb.CONFLICT_COPY if action.local:
                self._free(action.to)
                kept = self._local_entry(path)
                self.write(path, None)
                self._place(action.to, kept)
                if isinstance(row.remote_side, Entry):
                    self._receive(path, entry)
                else:
                    self._commit(path, None)
            case Verb.CONFLICT_COPY:
                self._free(action.to)
                self.put(action.to, row.remote_side)
                self.put(path, None)
                self._commit(path, row.ancestor)
                self.dirty.add(path)

    def _free(self, path: str) -> None:
        if path in self.local or self._object(path) is not None:
            raise RefusedError(f"{path} is in use")

    def _local_entry(self, path: str) -> Entry:
        side = self.local.get(path)
        if not isinstance(side, Entry):
            raise RefusedError("there is no local entry")
        return side

    def _send(self, path: str, local: Entry, entry: Entry | None) -> None:
        assert entry
        assert local.same_content(entry)
        self.put(path, entry)
        self._commit_agreed(path)

    def _receive(self, path: str, entry: Entry | None) -> None:
        assert entry
        before = self.local.get(path)
        remote = self._object(path)
        assert isinstance(remote, Entry)
        assert remote.same_content(entry)
        self._place(path, entry)
        if isinstance(before, Entry) and not before.same_content(entry):
            self.trash.append(before)
        self._commit_agreed(path)

    def _place(self, path: str, entry: Entry, *, keeps: Entry | None = None) -> None:
        """Put an entry into the directory, as its rules are."""
        for parent in [*names.parents_of(path), *([path[:-1]] if path.endswith("/") else [])]:
            if parent in self.local:
                raise RefusedError(f"{parent} is a file")
            if f"{parent}/" != path and f"{parent}/" in self.local:
                self.write(f"{parent}/", None)
        if any(other.startswith(path.removesuffix("/") + "/") and other != path for other in self.local):
            raise RefusedError(f"{path} is a directory")
        executable = entry.executable
        if executable is None and entry.kind is Kind.FILE:
            executable = keeps.executable if keeps else False
        mtime_ns = entry.mtime_ns if entry.mtime_ns is not None else (keeps.mtime_ns if keeps else self._tick())
        self.write(path, replace(entry, executable=executable, mtime_ns=mtime_ns))

    def _commit(self, path: str, ancestor: Ancestor | None) -> None:
        self.rows[path] = Row(path, ancestor, self._look(path), self.remote.get(path))
        self.dirty.discard(path)

    def _commit_agreed(self, path: str) -> None:
        remote = self._object(path)
        assert isinstance(remote, Entry)
        self._commit(path, agreed(self._local_entry(path), remote, self.rules))

    # ---- what came out ----

    def objects(self) -> dict[str, Entry | Obstacle]:
        return {path: remote.side for path, remote in self.remote.items() if remote.side is not None}

    def problems(self) -> dict[str, Reason]:
        return {
            path: row.local.side.reason
            for path, row in self.rows.items()
            if row.local and isinstance(row.local.side, Obstacle)
        }

    def verdicts(self) -> dict[str, Verdict]:
        return {path: row.verdict for path, row in self.rows.items() if row.verdict is not Verdict.NONE}


def _above(path: str) -> list[str]:
    """All rows that can stand above a path: files, and entries of empty directories."""
    parents = [*names.parents_of(path), *([path[:-1]] if path.endswith("/") else [])]
    return [name for parent in parents for name in (parent, f"{parent}/") if name != path]


def _inside(path: str) -> str:
    return path.removesuffix("/") + "/"


def _planned(row: Row) -> bool:
    side = row.local_side
    return isinstance(side, Obstacle) and bool(side.detail)


def _local_entry(row: Row) -> bool:
    return isinstance(row.local_side, Entry)


def _local_any(row: Row) -> bool:
    return row.local is not None


def _remote_entry(row: Row) -> bool:
    return isinstance(row.remote_side, Entry)
