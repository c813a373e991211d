"""Everything that writes the state. One transaction per commit; what it says is either all there or not at all.

A transaction that changes ancestors must be durable, which is the default; for what was merely seen pass durable=False
(why: agent/state/database.py). The numbers that `counts` gives are kept in memory, written with each commit, and taken
back with each rollback.

A lost, older or corrupt store never deletes anything by itself: where there is no ancestor there is no deletion, and
each method here that forgets a side also forgets the ancestor.
"""

# ruff: noqa: S608 - the texts of statements are put together from constants; values are always bound

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from agent.core.entries import Reason, Row
from agent.errors import StateError
from agent.state import counts as counting
from agent.state import journal, names, rows
from agent.state.database import Database
from agent.state.files import begin_anew, create_private, move_aside, open_database
from agent.state.journal import JournalEntry
from agent.state.names import OtherName
from agent.state.reader import StateReader
from agent.state.schema import Schema, packaged

_LOT = 2000  # rows that are written with one statement, and summed up with one


class StateStore(StateReader):
    """The state of one mapping. Used by one thread at a time, whichever that is.

    `recovered` says what had to be given up when it was opened; "" = nothing. All methods raise StateError when the
    file can't be written; for a full disk it is transient.
    """

    def __init__(self, database: Database, *, recovered: str = "") -> None:
        super().__init__(database)
        self.path = database.path
        self.recovered = recovered
        kept = counting.load(database)
        self._kept = kept or {}  # what isn't there is written with the next commit
        self._numbers = dict(kept) if kept else counting.recount(database)
        self._prefix = super().prefix
        self.dirtied = 0
        """Grows whenever rows have become dirty; may be read by any thread."""

    @classmethod
    def open(cls, path: Path, *, schema: Schema | None = None) -> StateStore:
        """Open the store at `path`, made when missing, migrated when older, begun anew when corrupt.

        :raises StateError: it is of a newer jetsync, isn't a store of jetsync, or can't be opened
        """
        schema = schema or packaged()
        database, recovered = open_database(path, schema)
        try:
            return cls(database, recovered=recovered)
        except StateError as error:
            database.close()
            if not database.corrupt:
                raise
            why = str(error.__cause__)
        database, recovered = begin_anew(path, schema, why=why)
        return cls(database, recovered=recovered)

    def close(self) -> None:
        super().close()
        if self._db.corrupt:
            move_aside(self.path)

    def reader(self) -> StateReader:
        """A read-only connection of its own, for another thread."""
        return StateReader.of(self.path)

    def copy_to(self, target: Path) -> None:
        """Make a copy of the store as it is now, for a dry run. The target must not exist."""
        create_private(target)
        try:
            with closing(sqlite3.connect(target)) as copy:
                self._db.connection.backup(copy)
        except sqlite3.Error as error:
            self._db.fail(error)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All that is written inside is committed at the end, or taken back when the block raises.

        Inside another transaction it is a part of that one: taken back alone, made durable as the outer one says.
        """
        before = dict(self._numbers)
        try:
            with self._db.transaction(durable=durable):
                outermost = self._db.depth == 1
                yield
                if outermost and self._numbers != self._kept:
                    counting.save(self._db, self._numbers)
            if outermost:
                self._kept = dict(self._numbers)
        except BaseException:
            self._numbers = before
            raise

    # -- rows ----------------------------------------------------------------------------------------------------

    def put(self, rows_: Iterable[Row], *, dirty: bool | None) -> None:
        """Store whole rows. dirty: what the rows are from now on; None leaves the mark as it is (new rows: clean).

        A row with nothing on it is deleted; one of which only a delete marker is left stays, for its revision. A name
        that was among the others becomes a path.
        """
        with self.transaction():
            remaining = iter(rows_)
            while lot := {row.path: row for row in islice(remaining, _LOT)}:
                self._put(list(lot.values()), dirty)
                self.dirtied += bool(dirty)

    def _put(self, lot: list[Row], dirty: bool | None) -> None:
        paths = json.dumps([row.path for row in lot])
        before = counting.sums(self._db, paths) if self._numbers["rows"] else None
        if dirty is None:
            marked = {
                path
                for (path,) in self._db.all(
                    "SELECT path FROM paths WHERE dirty = 1 AND path IN (SELECT value FROM json_each(?))", (paths,)
                )
            }
            kept = [rows.encode(row, row.path in marked) for row in lot if rows.is_kept(row)]
        else:
            kept = [rows.encode(row, dirty) for row in lot if rows.is_kept(row)]
        try:
            self._db.many(rows.REPLACE, kept)
        except OverflowError:
            self._db.many(rows.REPLACE, map(rows.narrow, kept))
        if len(kept) < len(lot):
            self._delete(json.dumps([row.path for row in lot if not rows.is_kept(row)]))
        if self._numbers["others"]:
            named = [row.path for row in lot if row.remote is not None and (row.remote.revision > 0 or row.remote.side)]
            self._numbers["others"] -= names.drop_paths(self._db, self._prefix, named)
        self._count(before, counting.sums(self._db, paths))

    def drop(self, path: str) -> None:
        """Delete a row whatever is on it: nothing is known of the path any more, so nothing is done to it."""
        with self.transaction():
            self._drop(json.dumps([path]))

    def _drop(self, paths: str) -> None:
        before = counting.sums(self._db, paths)
        self._delete(paths)
        self._count(before, counting.sums(self._db, paths))

    def _delete(self, paths: str) -> None:
        self._db.run("DELETE FROM paths WHERE path IN (SELECT value FROM json_each(?))", (paths,))

    def mark_dirty(self, paths: Iterable[str]) -> None:
        """Paths without a row are passed over: there is nothing to reconcile."""
        self.dirtied += 1
        clean = "FROM paths WHERE dirty = 0 AND path IN (SELECT value FROM json_each(?))"
        chosen = (json.dumps(list(paths)),)
        with self.transaction(durable=False):
            number, size = self._db.one(f"SELECT count(*), total({counting.SIZE}) {clean}", chosen)
            if number:
                self._db.run(f"UPDATE paths SET dirty = 1 WHERE path IN (SELECT path {clean})", chosen)
                self._numbers["dirty"] += int(number)
                self._numbers["dirty_bytes"] += int(size)

    def mark_all_dirty(self) -> None:
        self.dirtied += 1
        with self.transaction(durable=False):
            self._db.run("UPDATE paths SET dirty = 1 WHERE dirty = 0")
            self._numbers = counting.recount(self._db)

    # -- forgetting ----------------------------------------------------------------------------------------------

    def forget_ancestors(self) -> None:
        """A first contact: nothing that exists on one side only is taken for deleted on the other."""
        with self.transaction():
            self._db.run(f"UPDATE paths SET {rows.NO_ANCESTOR}, dirty = 1, verdict = 0 WHERE a_kind > 0")
            self._tidy()

    def forget_remote(self) -> None:
        """The bucket isn't the one that was: its sides, its other names, the cursor, and with them the ancestors."""
        with self.transaction():
            self._db.run(f"UPDATE paths SET {rows.NO_SIDES_BUT_LOCAL}, dirty = 1, verdict = 0")
            self._db.run("DELETE FROM others")
            self._set_cursor(0)
            self._tidy()

    def forget_sides(self) -> None:
        """Both sides have to be looked at again in full, since what belongs to the mapping may have changed.

        Nothing becomes absent by this, so ancestors stay. The metas are all read again: rows keep their remote side but
        for its revision. Locally, what isn't a file is looked at again; which files belong is for the next scan.
        """
        with self.transaction():
            self._db.run("UPDATE paths SET r_revision = 0 WHERE r_revision > 0")
            self._db.run(f"UPDATE paths SET flags = flags | {rows.RACY} WHERE l_kind > {rows.FILE}")
            self._db.run("DELETE FROM others")
            self._set_cursor(0)
            self._tidy()

    def forget_all(self) -> None:
        """As a new store, but for the journal: its chunks are still there."""
        with self.transaction():
            for table in ("paths", "others", "kv"):
                self._db.run(f"DELETE FROM {table}")
            self._prefix = ""
            self._tidy()

    def _tidy(self) -> None:
        """After a statement over all rows: no row without anything on it, and all numbers anew."""
        self.dirtied += 1
        self._db.run("DELETE FROM paths WHERE l_kind = 0 AND a_kind = 0 AND r_kind = 0 AND r_revision <= 0")
        self._numbers = counting.recount(self._db)

    # -- names of the bucket -------------------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        return self._prefix

    def put_other(
        self, name: str, revision: int, nuid: str = "", reason: Reason | None = None, detail: str = ""
    ) -> None:
        """A name of the bucket that is no path of the mapping. nuid: "" for a marker. Its row, if it had one, goes."""
        self.put_others([OtherName(name, revision, nuid, reason, detail)])

    def put_others(self, others: Iterable[OtherName]) -> None:
        """The same for many."""
        with self.transaction(durable=False):
            remaining = iter(others)
            while lot := {other.name: other for other in islice(remaining, _LOT)}:
                if self._numbers["rows"]:
                    size = len(self._prefix)
                    self._drop(json.dumps([name[size:] for name in lot if name.startswith(self._prefix)]))
                self._numbers["others"] += names.put(self._db, list(lot.values()))

    def begin_listing(self) -> None:
        """Begin to mark names. What an earlier listing had marked is forgotten."""
        names.begin_listing(self._db)

    def seen(self, listed: Iterable[str]) -> None:
        """Mark the full names of objects and markers that the listing told."""
        with self.transaction(durable=False):
            names.seen(self._db, listed)

    def unseen(self, *, up_to: int) -> list[str]:
        """End the listing: the paths that it didn't meet. Other names that it didn't meet are forgotten.

        up_to: the stream's last sequence before the listing began; names with a newer revision don't count.
        """
        with self.transaction(durable=False):
            paths, dropped = names.sweep(self._db, self._prefix, up_to)
            self._numbers["others"] -= dropped
            return paths

    # -- the rest ------------------------------------------------------------------------------------------------

    def kv_set(self, key: str, value: str | None) -> None:
        """None removes the key."""
        with self.transaction():
            if value is None:
                self._db.run("DELETE FROM kv WHERE key = ?", (key,))
            else:
                self._db.run("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

    def set_identity(self, identity: Mapping[str, Any]) -> None:
        """`identity["prefix"]`, when there, is the mapping's prefix: the name of a path's object is prefix + path."""
        with self.transaction():
            self.kv_set("identity", json.dumps(identity, sort_keys=True))
            self._prefix = str(identity.get("prefix", ""))

    @property
    def cursor(self) -> int:
        """The stream sequence up to which the rows have the bucket's metas; 0 = nothing was read yet."""
        return int(self.kv_get("cursor") or 0)

    @cursor.setter
    def cursor(self, sequence: int) -> None:
        with self.transaction(durable=False):
            self._set_cursor(sequence)

    def _set_cursor(self, sequence: int) -> None:
        self._db.run("INSERT OR REPLACE INTO kv VALUES ('cursor', ?)", (str(sequence),))

    def journal_add(self, entries: Iterable[JournalEntry]) -> None:
        """Must be committed before the first chunk of an upload is sent. An entry of the same nuid is replaced."""
        with self.transaction(durable=False):
            journal.add(self._db, entries)

    def journal_give_up(self, entry: JournalEntry) -> bool:
        """Make an upload's entry `old`: its nuid isn't used again. False when it isn't as given any more."""
        with self.transaction(durable=False):
            return journal.give_up(self._db, entry)

    def journal_remove(self, nuids: Iterable[str]) -> None:
        with self.transaction(durable=False):
            journal.remove(self._db, nuids)

    def _tally(self) -> counting.Tally:
        return self._numbers

    def _count(self, before: list[int] | None, after: list[int]) -> None:
        for i, number in enumerate(after):
            self._numbers[counting.FIELDS[i]] += number - (before[i] if before else 0)
