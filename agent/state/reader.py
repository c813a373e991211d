"""Everything that only reads the state; also the second connection, for a scan in its own thread.

Long reads (all rows, all local sides) go page by page, each page one statement that begins after the last path of the
page before. So no read transaction stays open for long (the log could not be cut meanwhile), rows may be written
between two pages, by this connection too, and a page is as new as the moment it is read. The order is bytewise by path.

`below` names a directory without trailing slash; "" is the root. The range of a directory has all paths that begin with
it and a slash, its own entry as an empty directory ("a/") included.
"""

# ruff: noqa: S608 - the texts of statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.core.entries import Local, Obstacle, Reason, Row, Sighting
from agent.core.names import copy_prefix, is_conflict_copy, is_copy_of, parents_of
from agent.state import counts as counting
from agent.state import journal, names
from agent.state.counts import Counts
from agent.state.database import Database
from agent.state.journal import JournalEntry
from agent.state.names import OtherName
from agent.state.rows import FILE, IS_VANISHED, LOCAL_SELECT, REASONS, SELECT, decode, decode_local, obstacle_of

_PAGE = 2048
# Rows below one path that `clashes` gives back: the planner only needs to know that there are some.
_FEW_CLASHES = 4

_SIGHTINGS = "SELECT path, l_kind, s_size, s_mtime, s_ctime, s_inode, s_mode, flags & 1 FROM paths"
_INODE = 5
# SQLite, which knows nothing of how few rows a partial index has, is told where to look.
_DIRTY = f"{SELECT} INDEXED BY paths_dirty WHERE dirty = 1 AND path > ? ORDER BY path LIMIT ?"
_MAY_LOSE = (
    "SELECT total(l_kind > 0 AND r_kind = 0), total(l_kind = 0 AND r_kind > 0)"
    " FROM paths INDEXED BY paths_dirty WHERE dirty = 1 AND (a_kind > 0 OR ?)"
)
_VANISHED = f"SELECT 1 FROM paths INDEXED BY paths_dirty WHERE dirty = 1 AND a_kind > 0 AND {IS_VANISHED} LIMIT 1"
_CONFLICTS = "SELECT path FROM paths INDEXED BY paths_verdict WHERE verdict = 1 AND verdict > 0 ORDER BY path LIMIT ?"
_COPIES = f"{SELECT} WHERE instr(path, '.conflict-') AND (l_kind > 0 OR r_kind > 0) ORDER BY path"


class StateReader:
    """Reads what is committed (and, on the writing connection, what its open transaction wrote).

    All methods raise StateError when the file can't be read or is corrupt.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    @classmethod
    def of(cls, path: Path) -> StateReader:
        """A read-only connection of its own to an existing store."""
        return StateReader(Database(path, read_only=True))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- rows ----------------------------------------------------------------------------------------------------

    def row(self, path: str) -> Row:
        """The row of a path; one with nothing on any side when there is none."""
        found = self._db.one(f"{SELECT} WHERE path = ?", (path,))
        return decode(found) if found else Row(path)

    def rows(self, paths: Iterable[str]) -> dict[str, Row]:
        """The same for many paths, each of which is in the result."""
        rows = {path: Row(path) for path in paths}
        listed = json.dumps(list(rows))
        for found in self._db.all(f"{SELECT} WHERE path IN (SELECT value FROM json_each(?))", (listed,)):
            rows[found[0]] = decode(found)
        return rows

    def revisions(self, paths: Iterable[str]) -> dict[str, int]:
        """The revision in the row of each path that has a row; 0 where no meta was ever seen."""
        listed = json.dumps(list(paths))
        sql = "SELECT path, max(r_revision, 0) FROM paths WHERE path IN (SELECT value FROM json_each(?))"
        return dict(self._db.all(sql, (listed,)))

    def dirty(self, limit: int, *, after: str = "", skip: Container[str] = ()) -> list[Row]:
        """Up to `limit` rows that are to be reconciled, by path, from behind `after` on, without those in `skip`."""
        rows: list[Row] = []
        while len(rows) < limit:
            wanted = min(limit - len(rows), _PAGE)
            page = self._db.all(_DIRTY, (after, wanted))
            rows += [decode(found) for found in page if found[0] not in skip]
            if len(page) < wanted:
                break
            after = page[-1][0]
        return rows

    def clashes(self, paths: Iterable[str]) -> list[Row]:
        """Rows that stand structurally in the way of `paths`: "a" of "a/b", and of what is below "a" a few.

        Only rows with something on the local or the remote side, and none of `paths` themselves.
        """
        given = set(paths)
        above: set[str] = set()
        below: dict[str, None] = {}
        for path in given:
            above.update(parents_of(path))
            if path.endswith("/"):
                above.add(path[:-1])
        for path in self._with_something_below(given):
            found = self._db.stream(
                "SELECT path FROM paths WHERE path >= ? AND path < ? AND (l_kind > 0 OR r_kind > 0)", bounds(path)
            )
            few = 0
            for (inner,) in found:
                if inner not in given:
                    below[inner] = None
                    few += 1
                    if few == _FEW_CLASHES:
                        break
        rows = self.rows([*(above - given), *below])
        return [row for _, row in sorted(rows.items()) if row.local is not None or row.remote_side is not None]

    def _with_something_below(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` that are above rows; one statement for all, since that is hardly ever one of them."""
        listed = json.dumps([path for path in paths if not path.endswith("/")])
        sql = (
            "SELECT value FROM json_each(?) WHERE EXISTS"
            " (SELECT 1 FROM paths WHERE path >= value || '/' AND path < value || '0')"
        )
        return [path for (path,) in self._db.all(sql, (listed,))]

    def live_copies(self, path: str) -> int:
        """How many conflict copies of a path exist on either side."""
        low = copy_prefix(path)
        found = self._db.all(
            "SELECT path FROM paths WHERE path >= ? AND path < ? AND (l_kind > 0 OR r_kind > 0)",
            (low, low + "\U0010ffff" * 2),
        )
        return sum(is_copy_of(copy, path) for (copy,) in found)

    # -- ordered passes ------------------------------------------------------------------------------------------

    def below(self, directory: str) -> Iterator[str]:
        """The paths of all rows below a directory."""
        return (found[0] for found in self._pages("SELECT path FROM paths", directory))

    def below_any(self, paths: Iterable[str]) -> list[str]:
        """The paths of all rows below any of these."""
        return [inner for path in self._with_something_below(paths) for inner in self.below(path)]

    def all_rows(self, below: str = "") -> Iterator[Row]:
        return map(decode, self._pages(SELECT, below))

    def page(self, after: str, limit: int) -> list[Row]:
        """Up to `limit` rows, by path, from behind `after` on."""
        return [
            decode(found) for found in self._db.all(f"{SELECT} WHERE path > ? ORDER BY path LIMIT ?", (after, limit))
        ]

    def local_sides(self, below: str = "") -> Iterator[tuple[str, Local]]:
        """The path and local side of every path that isn't absent locally. About 150,000/s; see local_signatures."""
        return map(decode_local, self._pages(LOCAL_SELECT, below, "AND l_kind > 0"))

    def local_side(self, path: str) -> Local | None:
        """The local side of one path; None when it is absent locally."""
        found = self._db.one(f"{LOCAL_SELECT} WHERE path = ? AND l_kind > 0", (path,))
        return decode_local(found)[1] if found else None

    def local_files(self, after: str, limit: int) -> list[tuple[str, Local]]:
        """Up to `limit` paths, by path, from behind `after` on, that are files locally; with their local sides."""
        found = self._db.all(f"{LOCAL_SELECT} WHERE path > ? AND l_kind = {FILE} ORDER BY path LIMIT ?", (after, limit))
        return [decode_local(columns) for columns in found]

    def local_signatures(self, below: str = "") -> Iterator[Sighting]:
        """What a scan needs to know of the same paths, as plain tuples, several times as fast. kind: as in state.rows.

        A local side without signature has inode 0 and mode 0, which no file has. Times before 1677 and after 2262 are
        given as the nearest time that fits 64 bits, and so differ from what lstat says.
        """
        return chain.from_iterable(self._signature_pages(below))

    def _signature_pages(self, below: str) -> Iterator[list[Any]]:
        for page in self._page_lists(_SIGHTINGS, below, "AND l_kind > 0"):
            if min(found[_INODE] for found in page) < 0:
                yield [(*found[:_INODE], found[_INODE] % (1 << 64), *found[_INODE + 1 :]) for found in page]
            else:
                yield page

    def _pages(self, select: str, below: str, condition: str = "") -> Iterator[Any]:
        return chain.from_iterable(self._page_lists(select, below, condition))

    def _page_lists(self, select: str, below: str, condition: str) -> Iterator[list[Any]]:
        low, high = bounds(below)
        end = f"AND path < ? {condition} ORDER BY path LIMIT {_PAGE}"
        page = self._db.all(f"{select} WHERE path >= ? {end}", (low, high))
        while page:
            yield page
            if len(page) < _PAGE:
                return
            page = self._db.all(f"{select} WHERE path > ? {end}", (page[-1][0], high))

    # -- names of the bucket -------------------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        """The mapping's prefix, from the identity: the name of a path's object is prefix + path."""
        return str(self.identity.get("prefix", ""))

    def find_nuid(self, nuid: str) -> list[str]:
        """The full names of the live objects with this nuid."""
        return names.with_nuid(self._db, nuid, self.prefix)

    def known_nuids(self, nuids: Iterable[str]) -> set[str]:
        """Those of the nuids that live objects have."""
        return names.known_nuids(self._db, nuids)

    def known_names(self) -> int:
        """How many names of the bucket are known: live objects and markers, paths and others. O(1)."""
        tally = self._tally()
        return tally["named"] + tally["others"]

    def others(self) -> list[OtherName]:
        """The names of the bucket that are no path of the mapping, by name."""
        return names.everything(self._db)

    # -- what a person wants to know -----------------------------------------------------------------------------

    def counts(self) -> Counts:
        return counting.counts(self._db, self._tally())

    def dirty_count(self) -> int:
        return self._tally()["dirty"]

    def diverged_count(self) -> int:
        return self._tally()["diverged"]

    def ancestors(self) -> int:
        """How many paths both sides have agreed on."""
        return self._tally()["ancestors"]

    def may_lose(self, *, without_ancestor: bool) -> tuple[int, int]:
        """Of the dirty paths, how many may be deletions: of local entries, of remote ones.

        The other side has nothing there, and something was agreed on (or needn't be: `without_ancestor`). What is a
        rename or expired is among them; the planner tells.
        """
        (local, remote) = self._db.all(_MAY_LOSE, (without_ancestor,))[0]
        return int(local), int(remote)

    def any_vanished(self) -> bool:
        """Whether something that was agreed on is gone from the bucket without a delete marker."""
        return self._db.one(_VANISHED) is not None

    def conflicts(self, limit: int = -1) -> list[str]:
        """The paths in conflict, by path; up to `limit` of them, when that isn't negative."""
        return [path for (path,) in self._db.all(_CONFLICTS, (limit,))]

    def conflict_copies(self) -> list[Row]:
        """The rows of all conflict copies that exist on either side, by path. One pass over the paths."""
        return [decode(found) for found in self._db.all(_COPIES) if is_conflict_copy(found[0])]

    def problems(self, limit: int) -> list[tuple[str, Obstacle]]:
        """Up to `limit` paths or names with an obstacle that somebody should see to; not those left out on purpose."""
        skipped = json.dumps([reason.value for reason in Reason if reason.skipped])
        wanted = "reason <> '' AND reason NOT IN (SELECT value FROM json_each(?)) LIMIT ?"
        found = self._db.all(f"SELECT path, more FROM paths INDEXED BY paths_reason WHERE {wanted}", (skipped, limit))
        problems = [(path, obstacle_of(more)) for path, more in found]
        of_others = f"SELECT name, reason, detail FROM others INDEXED BY others_reason WHERE {wanted}"
        found = self._db.all(of_others, (skipped, limit - len(problems)))
        problems += [
            (names.printable(name), Obstacle(REASONS.get(reason, Reason.UNREADABLE), detail))
            for name, reason, detail in found
        ]
        return sorted(problems, key=lambda problem: problem[0])

    def _tally(self) -> counting.Tally:
        return counting.load(self._db) or counting.recount(self._db)

    # -- the rest ------------------------------------------------------------------------------------------------

    def kv_get(self, key: str) -> str | None:
        found = self._db.one("SELECT value FROM kv WHERE key = ?", (key,))
        return str(found[0]) if found else None

    @property
    def identity(self) -> dict[str, Any]:
        """What the ancestors belong to (root, bucket, prefix ...), as set by `set_identity`; {} in a new store."""
        found: dict[str, Any] = json.loads(self.kv_get("identity") or "{}")
        return found

    def journal_due(self, now_ns: int) -> list[JournalEntry]:
        return journal.due(self._db, now_ns)

    def journal_all(self) -> list[JournalEntry]:
        return journal.everything(self._db)


def bounds(directory: str) -> tuple[str, str | bytes]:
    """The range [low, high) of the paths below a directory. "0" is what follows "/"."""
    directory = directory.rstrip("/")
    if not directory:
        return "", b""  # to SQLite every BLOB is greater than every TEXT
    return directory + "/", directory + "0"
