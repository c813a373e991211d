"""Guards: when a mapping has to stop and ask a person (DESIGN section 6, "Brakes").

The closed list of reasons, and the arithmetic of `max_delete`. Deletions count per side that would lose entries, over a
sliding window of ten minutes, against the number of ancestors that there were when the window began:

    the window     deletions that were carried out, each lot with its time and the ancestors there were before it
    pending        deletions that are planned and not carried out yet
    allowed        that many of the pending ones a person has approved; they count neither now nor in the window later.
                   Until the first of them is carried out, more than were shown aren't approved at all

What is counted is decided by the planner (`Action.loses`): renames, type changes and expired objects lose nothing.
Neither do entries that came and went within the window, as in a spool: as many deletions as entries were added since
its start are left out, of those that were carried out already.
A deletion that nobody has approved is never split from the others: all that are pending are judged at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

WINDOW_SECONDS = 600.0
# A share never fires below so many deletions: of a handful of files a person deletes most without thinking.
SHARE_FLOOR = 10
# A directory that held so many entries and holds none any more was emptied, or isn't mounted.
EMPTIED_FLOOR = 2


class HaltReason(StrEnum):
    """Why a mapping is halted; the closed list of DESIGN section 6."""

    ROOT_VANISHED = "root_vanished"
    ROOT_EMPTIED = "root_emptied"
    ROOT_REPLACED = "root_replaced"
    BUCKET_MISSING = "bucket_missing"
    BUCKET_RECREATED = "bucket_recreated"
    BUCKET_PURGED = "bucket_purged"
    BUCKET_ROLLED_BACK = "bucket_rolled_back"
    MAX_DELETE = "max_delete"


@dataclass(frozen=True, slots=True)
class Limit:
    """`max_delete`: a share of the ancestors (1.0 = never fires) or a count; exactly one isn't None."""

    share: float | None = None
    count: int | None = None

    @property
    def floor(self) -> int:
        """Fewer deletions than this never exceed the limit, however few ancestors there are."""
        return SHARE_FLOOR if self.count is None else self.count + 1

    def exceeded(self, deletions: int, ancestors: int) -> bool:
        if deletions < self.floor:
            return False
        if self.share is None:
            return True
        return self.share < 1.0 and deletions > self.share * ancestors


@dataclass(frozen=True, slots=True)
class Lot:
    """Deletions that were carried out: when (seconds since 1970), how many, and the ancestors there were before."""

    at: float
    count: int
    ancestors: int


@dataclass(frozen=True, slots=True)
class Window:
    """One side's deletions of the last ten minutes, oldest first. allowed: how many more a person has approved;
    begun: some of those were carried out."""

    lots: tuple[Lot, ...] = ()
    allowed: int = 0
    begun: bool = False

    def at(self, now: float) -> Window:
        """Without what is older than the window, or from a future that a clock set back has left behind."""
        return replace(self, lots=tuple(lot for lot in self.lots if 0 <= now - lot.at < WINDOW_SECONDS))

    def add(self, count: int, *, ancestors: int, now: float) -> Window:
        """Deletions were carried out. ancestors: how many there were before. Approved ones leave no trace but that."""
        counted = max(0, count - self.allowed)
        left = max(0, self.allowed - count)
        current = replace(self.at(now), allowed=left, begun=left > 0)
        if not counted:
            return current
        return replace(current, lots=_merged([*current.lots, Lot(now, counted, ancestors)]))

    def still(self, pending: int) -> Window:
        """An approval ends with what it was given for: what isn't pending any more needs another one next time."""
        if pending >= self.allowed:
            return self
        return replace(self, allowed=pending, begun=self.begun and pending > 0)

    def total(self, pending: int, *, added: int = 0) -> int:
        """What counts against the limit, `pending` deletions included. added: entries that came since the window began;
        as many of the earlier deletions are taken for theirs."""
        if pending <= self.allowed:
            pending = 0
        elif self.begun:
            pending -= self.allowed
        return max(0, self._earlier - added) + pending

    @property
    def _earlier(self) -> int:
        return sum(lot.count for lot in self.lots)

    def base(self, ancestors: int) -> int:
        """The ancestors at the window's start; `ancestors`: those that there are now."""
        return self.lots[0].ancestors if self.lots else ancestors

    def exceeds(self, limit: Limit, pending: int, *, ancestors: int) -> bool:
        added = max(0, ancestors + self._earlier - self.base(ancestors))
        return pending > self.allowed and limit.exceeded(self.total(pending, added=added), self.base(ancestors))


def _merged(lots: Iterable[Lot]) -> tuple[Lot, ...]:
    """Lots of the same second are one, so that a window has at most as many as it has seconds."""
    merged: list[Lot] = []
    for lot in lots:
        if merged and int(merged[-1].at) == int(lot.at):
            merged[-1] = replace(merged[-1], count=merged[-1].count + lot.count)
        else:
            merged.append(lot)
    return tuple(merged)
