"""What really happened to an action, and how that is written into the rows.

An `Outcome` carries `Change`s: the sides of a path as they are after the action. While an action ran, newer metas of
the same name may have been stored in its row, or it may have been found to be gone; `merged` keeps what is newer, so
that an outcome never takes a row back in time, and the row then is dirty and is planned again, also when the action
had nothing to do with the bucket. The local side of an outcome always wins: a path with an
action in flight isn't looked at before the outcome is committed, and is looked at again when a hint asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.core.entries import Ancestor, Gone, Local, Obstacle, Remote, Row
from agent.core.plan import Action
from agent.core.values import light
from agent.errors import JetsyncError


class Keep(StrEnum):
    """The side isn't changed by the action."""

    SAME = "same"


SAME: Final = Keep.SAME


class Result(StrEnum):
    APPLIED = "applied"
    STALE = "stale"  # the expectation didn't hold: look again, plan again
    FAILED = "failed"


@light
@dataclass(frozen=True, slots=True)
class Change:
    """The sides of `path` after an action. `seen` = the revision that the action was planned on."""

    path: str
    ancestor: Ancestor | Keep | None = SAME
    local: Local | Keep | None = SAME
    remote: Remote | Keep | None = SAME
    seen: int = 0
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class OldChunks:
    """Chunks that no meta of ours names any more: to be purged once readers had their time.

    unread: nobody can have begun to read them (an upload whose meta was refused): to be purged at once.
    """

    nuid: str
    name: str
    unread: bool = False


@dataclass(slots=True)
class Outcome:
    """Bytes are those of contents that were transferred. seconds: how long it took, of a lot each as long as the lot.

    `look` are local paths that must be looked at again. `vanished`: paths whose objects weren't there any more, without
    a marker; nothing follows before that is confirmed.
    """

    action: Action
    result: Result
    changes: list[Change] = field(default_factory=list)
    error: JetsyncError | None = None
    reason: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    look: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    settled_nuids: list[str] = field(default_factory=list)
    old_chunks: list[OldChunks] = field(default_factory=list)

    @property
    def paths(self) -> tuple[str, ...]:
        action = self.action
        return (action.row.path, action.to) if action.to else (action.row.path,)

    @property
    def leaves_problem(self) -> bool:
        """Whether a side of its paths is an obstacle now, because of what was found."""
        remotes = [change.remote for change in self.changes if isinstance(change.remote, Remote)]
        return self.result is Result.FAILED and any(isinstance(remote.side, Obstacle) for remote in remotes)


def merged(row: Row, change: Change) -> tuple[Row, bool]:
    """The row with the change written into it, and whether it is to be planned again."""
    newer = _is_newer(row, change)
    dirty = change.dirty or newer
    remote = row.remote if newer or isinstance(change.remote, Keep) else change.remote
    ancestor = row.ancestor if isinstance(change.ancestor, Keep) else change.ancestor
    local = row.local if isinstance(change.local, Keep) else change.local
    return Row(row.path, ancestor, local, remote), dirty


def whole(change: Change, revision: int) -> Row | None:
    """The row as the change leaves it, when that doesn't depend on anything of the row but its revision; else None."""
    ancestor, local, remote = change.ancestor, change.local, change.remote
    if isinstance(ancestor, Keep) or isinstance(local, Keep) or not isinstance(remote, Remote) or change.dirty:
        return None
    if remote.gone is not None or revision > remote.revision or revision < change.seen:
        return None
    return Row(change.path, ancestor, local, remote)


def has_gone(row: Row, change: Change) -> bool:
    """Whether the object that was fetched may be gone by now: there was nothing but it, and its row is empty."""
    remote = change.remote
    return row.remote is None and isinstance(remote, Remote) and 0 < remote.revision <= change.seen


def _is_newer(row: Row, change: Change) -> bool:
    """Whether the row's remote side is newer than the one that the action saw or made."""
    remote = change.remote
    if not isinstance(remote, Remote) or remote.gone is Gone.VANISHED:
        return row.revision > change.seen
    went = row.remote is not None and row.remote.gone in (Gone.VANISHED, Gone.EXPIRED)
    return row.revision > remote.revision or (went and remote.revision <= change.seen)
