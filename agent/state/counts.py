"""Numbers about a mapping that cost nothing to read, however many rows there are.

They are kept as rows change: one SELECT sums up the rows of the written paths before and after the write, in SQLite,
and the difference is added, in the same transaction. The same SELECT without its condition sums up the whole table
(`recount`). Only problems are counted when asked: they are few, and have an index.
"""

# ruff: noqa: S608 - the texts of statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.entries import Reason
from agent.state.database import Database
from agent.state.rows import DIRECTORY, FILE, REASONS

KEY = "counts"

FIELDS = (
    "rows",
    "dirty",
    "named",  # rows of names that are on the server: a live object or a marker
    "local_objects",
    "local_bytes",
    "remote_objects",
    "remote_bytes",
    "conflicts",
    "diverged",
    "ancestors",
    "dirty_bytes",
    "others",
)
# Of the larger side, where it is a file.
SIZE = f"max(CASE l_kind WHEN {FILE} THEN s_size ELSE 0 END, CASE r_kind WHEN {FILE} THEN r_size ELSE 0 END)"
# total() and not sum(): the sizes come from metas that anybody may have written, and sum() fails beyond 64 bits.
_SUMS = f"""
    SELECT count(*), total(dirty), total(r_revision > 0 OR r_kind > 0),
      total(l_kind BETWEEN {FILE} AND {DIRECTORY}), total(CASE l_kind WHEN {FILE} THEN s_size END),
      total(r_kind BETWEEN {FILE} AND {DIRECTORY}), total(CASE r_kind WHEN {FILE} THEN r_size END),
      total(verdict = 1), total(verdict = 2), total(a_kind > 0), total(CASE dirty WHEN 1 THEN {SIZE} END)
    FROM paths"""
SUMS_OF_PATHS = _SUMS + " WHERE path IN (SELECT value FROM json_each(?))"

Tally = dict[str, int]


@dataclass(frozen=True)
class Counts:
    """What `status` and the metrics tell of a mapping.

    objects and bytes are of entries; obstacles are in problems (to be seen to) or skipped (left out on purpose), each
    path once. dirty: rows to be reconciled; dirty_bytes: of the larger side of each. names: names of the bucket that
    are known, markers and others included.
    """

    local_objects: int = 0
    local_bytes: int = 0
    remote_objects: int = 0
    remote_bytes: int = 0
    conflicts: int = 0
    diverged: int = 0
    dirty: int = 0
    dirty_bytes: int = 0
    names: int = 0
    rows: int = 0
    problems: Mapping[Reason, int] = field(default_factory=dict)
    skipped: Mapping[Reason, int] = field(default_factory=dict)


def sums(database: Database, paths: str) -> list[int]:
    """The numbers of some rows; `paths` is a JSON array."""
    return [int(number) for number in database.one(SUMS_OF_PATHS, (paths,))]


def recount(database: Database) -> Tally:
    """All numbers from the tables themselves: one pass."""
    others = database.one("SELECT count(*) FROM others")[0]
    return dict(zip(FIELDS, [*map(int, database.one(_SUMS)), others], strict=True))


def load(database: Database) -> Tally | None:
    """The numbers as last committed; None in a new store, or one of another version of this program."""
    found = database.one("SELECT value FROM kv WHERE key = ?", (KEY,))
    tally = json.loads(found[0]) if found else {}
    return tally if tally.keys() == set(FIELDS) else None


def save(database: Database, tally: Tally) -> None:
    database.run("INSERT OR REPLACE INTO kv VALUES (?, ?)", (KEY, json.dumps(tally)))


def counts(database: Database, tally: Tally) -> Counts:
    problems: dict[Reason, int] = {}
    skipped: dict[Reason, int] = {}
    for table in ("paths", "others"):
        index = f"{table} INDEXED BY {table}_reason"
        for word, number in database.all(f"SELECT reason, count(*) FROM {index} WHERE reason <> '' GROUP BY reason"):
            reason = REASONS.get(word, Reason.UNREADABLE)
            group = skipped if reason.skipped else problems
            group[reason] = group.get(reason, 0) + number
    return Counts(
        local_objects=tally["local_objects"],
        local_bytes=tally["local_bytes"],
        remote_objects=tally["remote_objects"],
        remote_bytes=tally["remote_bytes"],
        conflicts=tally["conflicts"],
        diverged=tally["diverged"],
        dirty=tally["dirty"],
        dirty_bytes=tally["dirty_bytes"],
        names=tally["named"] + tally["others"],
        rows=tally["rows"],
        problems=problems,
        skipped=skipped,
    )
