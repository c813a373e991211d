"""Draft: one path's decision while the planner is still working on it. The only mutable thing in `core`.

The planner starts with what `reconcile` said of each path alone, and changes those drafts that don't fit together.
What fits together is judged by what each side would hold *after* the plan (`final_*`), and what is new there (`new_*`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.core.entries import Ancestor, Entry, Gone, Local, Obstacle, Reason, Row, Verdict
from agent.core.reconcile import Decision, Do

PUTS = frozenset({Do.UPLOAD, Do.DOWNLOAD, Do.KEEP_BOTH, Do.SET_LOCAL_METADATA, Do.SET_REMOTE_METADATA})
DELETES = frozenset({Do.DELETE_LOCAL, Do.DELETE_REMOTE})
ACTS = PUTS | DELETES

# The obstacles that planning itself puts in a row's local side. They are decided anew each time.
PLANNED = frozenset({Reason.STRUCTURE_CLASH, Reason.CASE_CLASH})


def without_planned_obstacle(row: Row) -> Row:
    """The row as the sides really are: where the planner refused an entry, nothing is there."""
    return replace(row, local=None) if _is_planned(row) else row


def unsettled(row: Row) -> bool:
    """Whether what was decided about the row may have been for the sake of another path, and can end with it.

    That is: it has a verdict or an obstacle of the planner; or it is the entry of an empty directory that only one side
    has, since the other has something in it.
    """
    if row.path.endswith("/") and (row.local is None) is not (row.remote_side is None):
        return True
    return row.verdict is not Verdict.NONE or _is_planned(row)


def _is_planned(row: Row) -> bool:
    side = row.local_side
    return isinstance(side, Obstacle) and side.reason in PLANNED


@dataclass(slots=True, eq=False)
class Draft:
    """What is going to be done about one row.

    original: as given; row: without obstacles of earlier plans. dirty: asked for. context: neither dirty nor unsettled,
    and given only to be seen: it gets no action of its own. copy: "local" or "remote" when that version is renamed to
    `to`. early: a delete that clears the way. tangled: something else of this plan stands above or below the path.
    """

    original: Row
    row: Row
    dirty: bool
    context: bool
    do: Do
    ancestor: Ancestor | None
    reason: str
    entry: Entry | None
    key: str
    problem: Obstacle | None = None
    deferred: bool = False
    copy: str = ""
    to: str = ""
    moved_to: Draft | None = None
    moved_from: Draft | None = None
    early: bool = False
    tangled: bool = False

    @classmethod
    def of(cls, original: Row, row: Row, decision: Decision, *, dirty: bool) -> Draft:
        # "/" sorts before everything else, so that what is below a path stands directly behind it.
        key = row.path.replace("/", "\0")
        return cls(
            original=original,
            row=row,
            dirty=dirty,
            context=not dirty and not unsettled(original),
            do=decision.do,
            ancestor=decision.ancestor,
            reason=decision.reason,
            entry=decision.entry,
            key=key,
        )

    @property
    def path(self) -> str:
        return self.row.path

    @property
    def final_local(self) -> bool:
        if self.copy or self.do in DELETES:
            return False
        return self.do in PUTS or self.row.local is not None

    @property
    def final_remote(self) -> bool:
        """An obstacle in the bucket takes no place: objects of any name stand beside each other there."""
        if self.copy or self.do in DELETES:
            return False
        return self.do in PUTS or isinstance(self.row.remote_side, Entry)

    @property
    def new_local(self) -> bool:
        return not self.copy and self.do is Do.DOWNLOAD and self.row.local is None

    @property
    def new_remote(self) -> bool:
        return not self.copy and self.do is Do.UPLOAD and self.row.remote_side is None

    @property
    def expired(self) -> bool:
        return self.row.remote is not None and self.row.remote.gone is Gone.EXPIRED

    @property
    def acts(self) -> bool:
        return bool(self.copy) or self.do in ACTS

    # ---- changes of mind ----

    def leave(self, do: Do, reason: str, *, ancestor: Ancestor | None = None) -> None:
        """Do nothing; `do` (NOTHING, CONFLICT, ...) says as what the row is left."""
        self.do, self.reason, self.entry, self.copy, self.to = do, reason, None, "", ""
        self.ancestor = ancestor

    def conflict(self, reason: str) -> None:
        self.leave(Do.CONFLICT, reason, ancestor=self.ancestor)

    def block(self, obstacle: Obstacle) -> None:
        """The path is a problem: it is not touched on either side and loses its ancestor."""
        self.leave(Do.NOTHING, obstacle.reason.value)
        self.problem = obstacle

    def settled(self) -> Row:
        """The row as it is to be stored when nothing is carried out for it."""
        if self.problem:
            return Row(self.path, None, Local(self.problem), self.row.remote)
        verdict = {Do.CONFLICT: Verdict.CONFLICT, Do.DIVERGED: Verdict.DIVERGED}.get(self.do, Verdict.NONE)
        ancestor = None if self.do is Do.FORGET else self.ancestor
        return replace(self.row, ancestor=ancestor, verdict=verdict)
