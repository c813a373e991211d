"""The journal: nuids of chunks that may have to be purged, written before the chunks are.

upload   an upload under this nuid has begun. After a crash, or when the outcome of its meta is unknown, the entry
         says which chunks to purge if no meta names them (DESIGN section 6, Store)
old      an object was replaced; its chunks are purged when readers have had time to finish

An upload that may go on after a crash says in `source` what it reads (the file's signature and digest): only an upload
of the same may use the nuid again. Whoever wants to purge its chunks makes it `old` first (`give_up`), in the thread in
which plans are made, so that no plan takes the nuid meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

from agent.core.values import light
from agent.state.database import Database

_SELECT = "SELECT nuid, bucket, name, kind, expected_revision, due_ns, created_ns, source FROM journal"


@light
@dataclass(frozen=True, slots=True)
class JournalEntry:
    """name: the object's. expected_revision: the precondition of the upload's meta. due_ns, created_ns: Unix time.
    source: what a resumable upload reads, "" for others."""

    nuid: str
    bucket: str
    name: str
    kind: Literal["upload", "old"]
    expected_revision: int
    due_ns: int
    created_ns: int
    source: str = ""


_values = attrgetter(*JournalEntry.__slots__)


def add(database: Database, entries: Iterable[JournalEntry]) -> None:
    """An entry of the same nuid is replaced."""
    database.many("INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_values, entries))


def remove(database: Database, nuids: Iterable[str]) -> None:
    if listed := list(nuids):
        database.run("DELETE FROM journal WHERE nuid IN (SELECT value FROM json_each(?))", (json.dumps(listed),))


def give_up(database: Database, entry: JournalEntry) -> bool:
    """Make the entry `old`, if it still is as given."""
    found = database.all(f"{_SELECT} WHERE nuid = ?", (entry.nuid,))
    if [JournalEntry(*values) for values in found] != [entry]:
        return False
    add(database, [replace(entry, kind="old", source="")])
    return True


def due(database: Database, now_ns: int) -> list[JournalEntry]:
    return [JournalEntry(*found) for found in database.all(f"{_SELECT} WHERE due_ns <= ? ORDER BY due_ns", (now_ns,))]


def everything(database: Database) -> list[JournalEntry]:
    return [JournalEntry(*found) for found in database.all(f"{_SELECT} ORDER BY due_ns, nuid")]
