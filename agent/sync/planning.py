"""Which dirty rows are planned together, and the plan over them. Runs in the state's thread; starts nothing.

The halves of a rename are found one by one, and a rename costs nothing where a deletion and a transfer cost the
content: `Hold` says which halves wait for the other ones. Rows that stand structurally above or below a path that has
to wait wait with it (`without_touching`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from agent.core.entries import Entry, Kind, Row
from agent.core.names import parents_of
from agent.core.plan import Plan, plan
from agent.core.reconcile import Rules
from agent.state import StateStore

EVERYTHING = 10_000_000


@dataclass(frozen=True, slots=True)
class Hold:
    """What isn't planned yet, since it may be one half of a rename whose other half hasn't been looked at."""

    deletions: bool
    creations: bool

    def holds(self, row: Row) -> bool:
        return (self.deletions and is_deletion(row)) or (self.creations and is_creation(row))


def make_plan(store: StateStore, rows: list[Row], clashes: list[Row], rules: Rules, *, case_insensitive: bool) -> Plan:
    """Plan over the state's rows."""

    def taken(path: str) -> bool:
        row = store.row(path)
        return row.local is not None or row.remote_side is not None

    def holds(path: str, entry: Entry) -> bool:
        row = store.row(path)
        side = row.local_side
        return row.remote_side is None and isinstance(side, Entry) and side.same_content(entry)

    return plan(
        rows,
        rules,
        clashes=clashes,
        taken=taken,
        holds=holds,
        copies=store.live_copies,
        case_insensitive=case_insensitive,
    )


def plan_all(store: StateStore, rules: Rules, *, case_insensitive: bool) -> Plan:
    """Plan over everything that is dirty: about 1 KiB of memory for each row."""
    rows = store.dirty(EVERYTHING)
    clashes = store.clashes([row.path for row in rows])
    return make_plan(store, rows, clashes, rules, case_insensitive=case_insensitive)


def is_creation(row: Row) -> bool:
    """A local file that nobody else has: what a rename looks like at its new name."""
    side = row.local_side
    if row.ancestor is not None or row.remote_side is not None or not isinstance(side, Entry):
        return False
    return side.kind is Kind.FILE and side.size > 0


def is_deletion(row: Row) -> bool:
    return row.ancestor is not None and (row.local is None or row.remote_side is None)


def stands_in_the_way(row: Row) -> bool:
    """Whether the path is a file or link on a side; the entry of an empty directory is in nobody's way."""
    return not row.path.endswith("/") and (row.local is not None or row.remote_side is not None)


def without_touching(rows: list[Row], waiting: Iterable[str]) -> list[Row]:
    """The rows that can be planned without `waiting`: none that stands above or below one of them.

    A row that has to wait keeps others waiting in turn when it is in their way: what is planned without it would find
    the way blocked, again and again.
    """
    blocked = Blocked(waiting)
    while True:
        kept = [row for row in rows if row.path not in blocked]
        late = {row.path for row in rows} - {row.path for row in kept}
        if not late:
            return kept
        blocked = Blocked(row.path for row in rows if row.path in late and stands_in_the_way(row))
        rows = kept


class Blocked(Container[str]):
    """Holds every path that stands structurally above or below one of `paths`, by set lookups alone."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._here = {path.rstrip("/") for path in paths}
        self._above = {parent for path in self._here for parent in parents_of(path)}

    def __contains__(self, path: object) -> bool:
        assert isinstance(path, str)
        return path.rstrip("/") in self._above or not self._here.isdisjoint(parents_of(path))
