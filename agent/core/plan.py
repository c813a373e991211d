"""Plan: the actions of one round, in the order in which they may run.

`plan(rows, rules)` reconciles each dirty row, then looks at what needs more than one path: structural and case clashes
(`core.clashes`), conflict copies (`core.conflicts`), renames by digest (`core.renames`). It is pure, and its cost is
one sort of the rows. The result:

    stages     run one after the other; within a stage in any order and at once
               0  moves and conflict copies      what has to be out of the way, and is nowhere else
               1  deletes that clear the way     a directory where a file comes, or the other way round
               2  transfers and metadata
               3  all other deletes              so that a delete never runs before what depends on the old version
    settled    rows that need no IO, as they are to be stored
    problems   of those, the paths that are problems because of other paths
    deferred   paths whose rows contradict each other: look at them again, then plan again; they stay dirty

Every action carries its expectation with it: the row's local signature and remote revision. An action whose
expectation fails does nothing, and its row stays dirty; so any subset of a plan may succeed, and planning again
after it converges (tests/faults/planner.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.core.clashes import resolve_case, resolve_structure
from agent.core.conflicts import Copies
from agent.core.draft import DELETES, Draft, unsettled, without_planned_obstacle
from agent.core.entries import Entry, Obstacle, Row
from agent.core.names import fold
from agent.core.reconcile import Do, Rules, reconcile
from agent.core.renames import pair_renames
from agent.core.values import light

__all__ = ["Action", "Plan", "Verb", "plan", "unsettled"]


class Verb(StrEnum):
    UPLOAD = "upload"
    DOWNLOAD = "download"
    DELETE_LOCAL = "delete-local"
    DELETE_REMOTE = "delete-remote"
    MOVE_LOCAL = "move-local"
    MOVE_REMOTE = "move-remote"
    UPDATE_METADATA = "update-metadata"
    CONFLICT_COPY = "conflict-copy"


@light
@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One step, with the expectation under which it may run: `row` (and `to_row`) as they are in it.

    entry: what the receiving side shall hold afterwards, for all but deletes; `executable` None = keep what is there
    (not executable when nothing is), `mtime_ns` None = don't set.
    bytes: how many will be transferred. loses: a deletion that counts for `max_delete`: not one that makes room for an
    entry of another kind, and not that of an expired object.

        UPLOAD, DOWNLOAD      at row.path
        DELETE_*              at row.path
        MOVE_*                from row.path to `to`, whose row is to_row; then `entry`'s metadata
        UPDATE_METADATA       local=True: mode and mtime of the local file; False: metadata of the object
        CONFLICT_COPY         local=True: the local file is renamed to `to`; and where the remote side is there, its
                              version (`entry`) takes row.path in the same step. local=False: the object is renamed
    """

    verb: Verb
    row: Row
    reason: str
    to: str = ""
    to_row: Row | None = None
    entry: Entry | None = None
    bytes: int = 0
    local: bool = False
    loses: bool = False

    @property
    def path(self) -> str:
        return self.row.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do (see the module). conflicts, diverged: paths of settled rows with that verdict."""

    stages: tuple[tuple[Action, ...], ...] = ()
    settled: tuple[Row, ...] = ()
    conflicts: tuple[str, ...] = ()
    diverged: tuple[str, ...] = ()
    problems: tuple[tuple[str, Obstacle], ...] = ()
    deferred: tuple[str, ...] = ()

    @property
    def actions(self) -> Iterator[Action]:
        for stage in self.stages:
            yield from stage

    @property
    def empty(self) -> bool:
        """Whether there is nothing to carry out."""
        return not self.stages


def plan(
    rows: Sequence[Row],
    rules: Rules,
    *,
    clashes: Sequence[Row] = (),
    taken: Callable[[str], bool] = lambda _: False,
    holds: Callable[[str, Entry], bool] = lambda *_: False,
    copies: Callable[[str], int] = lambda _: 0,
    case_insensitive: bool = False,
    spelling: Callable[[str], str | None] = lambda _: None,
) -> Plan:
    """Plan one round for the dirty rows.

    clashes: rows that aren't dirty and stand structurally near a dirty one. For a dirty "a/b": the rows "a" and "a/".
    For a dirty "a" or "a/", and for each row that was found so: of the rows below "a/" all that are `unsettled`, and of
    the others at least one with a local entry (or else with any local side) and one with a remote entry, where there
    are such. Unsettled rows are decided anew as if they were dirty, so the same should be given for them; the others
    are only looked at. What isn't given can't be considered: at worst an action finds its way blocked when it is
    applied. taken: whether a path is in use on any side; holds: whether it has this very content, and only locally.
    copies: how many live conflict copies a path has.
    case_insensitive: of the local root; then `spelling` tells how a path is spelled there, or None (asked for what is
    to be created, and for the directories above it).

    Raises nothing; the same input gives the same plan.
    """
    drafts = _drafts(rows, clashes, rules)
    dirty = {row.path for row in rows}
    giver = Copies(rules, lambda path: path in dirty or taken(path), holds, copies)
    resolve_structure(drafts, rules, giver)
    if case_insensitive and rules.mode.pulls:
        resolve_case(drafts, spelling)
    for draft in drafts:
        if draft.do is Do.KEEP_BOTH:
            _name_copy(draft, giver)
    copied = {draft.to for draft in drafts if draft.to}
    for draft in drafts:
        if draft.path in copied:
            draft.deferred = draft.acts  # a copy that is there already: it is sent when it has been looked at again
    ready = [draft for draft in drafts if not draft.deferred and not draft.context]
    pair_renames(ready, fold=fold if case_insensitive else None)
    return _assemble(drafts)


def _drafts(rows: Sequence[Row], clashes: Sequence[Row], rules: Rules) -> list[Draft]:
    """One draft per path, sorted so that what is below a path stands directly behind it."""
    originals: dict[str, tuple[Row, bool]] = {row.path: (row, False) for row in clashes}
    originals.update((row.path, (row, True)) for row in rows)
    drafts = []
    for original, dirty in originals.values():
        row = without_planned_obstacle(original)
        drafts.append(Draft.of(original, row, reconcile(row, rules), dirty=dirty))
    drafts.sort(key=lambda draft: draft.key)
    return drafts


def _name_copy(draft: Draft, giver: Copies) -> None:
    local = draft.row.local_side
    assert isinstance(local, Entry)
    name = giver.name(draft.path, local, kept=True)
    if name:
        draft.to = name
    else:
        draft.conflict(draft.reason)


def _assemble(drafts: Sequence[Draft]) -> Plan:
    stages: tuple[list[Action], ...] = ([], [], [], [])
    settled: list[Row] = []
    conflicts: list[str] = []
    diverged: list[str] = []
    problems: list[tuple[str, Obstacle]] = []
    deferred: list[str] = []
    for draft in drafts:
        if draft.deferred:
            deferred.append(draft.path)
        elif draft.moved_from or (draft.context and draft.acts and not draft.copy):
            continue  # the source carries the action; or it waits for its own turn as a dirty row
        elif draft.acts:
            action = _action(draft)
            stages[_stage(draft, action)].append(action)
        else:
            row = draft.settled()
            if not draft.dirty and row == draft.original:
                continue
            settled.append(row)
            if draft.problem:
                problems.append((draft.path, draft.problem))
            if draft.do is Do.CONFLICT:
                conflicts.append(draft.path)
            if draft.do is Do.DIVERGED:
                diverged.append(draft.path)
    return Plan(
        stages=tuple(tuple(stage) for stage in stages if stage),
        settled=tuple(settled),
        conflicts=tuple(conflicts),
        diverged=tuple(diverged),
        problems=tuple(problems),
        deferred=tuple(deferred),
    )


_VERBS = {
    Do.UPLOAD: Verb.UPLOAD,
    Do.DOWNLOAD: Verb.DOWNLOAD,
    Do.DELETE_LOCAL: Verb.DELETE_LOCAL,
    Do.DELETE_REMOTE: Verb.DELETE_REMOTE,
    Do.SET_LOCAL_METADATA: Verb.UPDATE_METADATA,
    Do.SET_REMOTE_METADATA: Verb.UPDATE_METADATA,
    Do.KEEP_BOTH: Verb.CONFLICT_COPY,
}


def _action(draft: Draft) -> Action:
    row, reason = draft.row, draft.reason
    if draft.copy:
        return Action(verb=Verb.CONFLICT_COPY, row=row, reason=reason, to=draft.to, local=draft.copy == "local")
    goal = draft.moved_to
    if goal:
        verb = Verb.MOVE_LOCAL if draft.do is Do.DELETE_LOCAL else Verb.MOVE_REMOTE
        where = "remotely" if verb is Verb.MOVE_LOCAL else "locally"
        return Action(
            verb=verb,
            row=row,
            reason=f"renamed {where}",
            to=goal.path,
            to_row=goal.row,
            entry=goal.entry,
            local=verb is Verb.MOVE_LOCAL,
        )
    local = draft.do in (Do.DOWNLOAD, Do.DELETE_LOCAL, Do.SET_LOCAL_METADATA, Do.KEEP_BOTH)
    transfers = draft.do in (Do.UPLOAD, Do.DOWNLOAD, Do.KEEP_BOTH)
    return Action(
        verb=_VERBS[draft.do],
        row=row,
        reason=reason,
        to=draft.to,
        entry=draft.entry,
        bytes=draft.entry.size if transfers and draft.entry else 0,
        local=local,
        loses=draft.do in DELETES and not draft.early and not draft.expired,
    )


def _stage(draft: Draft, action: Action) -> int:
    if action.verb in (Verb.MOVE_LOCAL, Verb.MOVE_REMOTE, Verb.CONFLICT_COPY):
        return 0
    if action.verb in (Verb.DELETE_LOCAL, Verb.DELETE_REMOTE):
        return 1 if draft.early else 3
    return 2
