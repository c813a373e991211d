"""One SQLite connection: how it is set up, how durable its commits are, and what its errors become.

The journal is a write-ahead log. A commit is atomic and survives the end of the process (kill -9 too) as soon as it is
in the log; it survives the loss of power once the log is synced. So there are two kinds of transaction:

    durable=True   the log is synced at the commit (synchronous=FULL, about 1 ms). For whatever changes an ancestor.
    durable=False  it is not (synchronous=NORMAL). For what was merely seen: sides, dirty marks, the cursor.

Why: after a power failure the log ends at some commit, and the store is as it was then, whole but older. What was
merely seen is seen again: the scan compares the directory with the older local sides, and the cursor went back with the
remote sides, so that the follower reads the newer metas again. An older ancestor is different. Say both sides agreed on
A, then on B, and the second agreement is lost; while the power is off somebody puts A back into the bucket on purpose.
The directory still has B. By the older ancestor, A, the bucket looks untouched and the directory edited, and B would be
sent over that change (promise 4). With the ancestor B on disk it is a remote edit, as it should be. A durable commit
also makes all commits before it durable: there is one log. Files are synced by directory/ before their row is
committed, so the state is never newer than the disk.

Where the file system has no shared memory for the log (some network file systems), SQLite stays with its rollback
journal; that is slower but as safe.

Every call maps sqlite3's errors to StateError here, so that nothing else needs to know them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from agent.errors import StateError

# A page cache of 16 MiB per connection holds the inner pages of a million rows; the rest is the kernel's cache.
_CACHE_KIB = 16 * 1024
_BUSY_SECONDS = 10.0
# A log of 4,000 pages (16 MiB) is copied back into the database; a larger file is cut to this size afterwards.
_CHECKPOINT_PAGES = 4000
_LOG_BYTES = 64 << 20

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FULL = frozenset({sqlite3.SQLITE_FULL})

Values = Sequence[Any]


class Database:
    """A connection in autocommit mode; used by one thread at a time, whichever that is.

    `corrupt` is set for good once SQLite has called the file malformed.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """:raises StateError: the file can't be opened"""
        self.path = path
        self.corrupt = False
        self._depth = 0
        self._full = False
        try:
            self.connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS, cached_statements=256
            )
        except sqlite3.Error as error:
            self.fail(error)
        try:
            self._set_up(read_only)
        except sqlite3.Error as error:
            self.connection.close()
            self.fail(error)

    def _set_up(self, read_only: bool) -> None:
        run = self.connection.execute
        run("PRAGMA journal_mode = WAL").fetchone()
        run("PRAGMA synchronous = NORMAL")
        run(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # Temporary tables stay in memory: a container may have no place for temporary files.
        run("PRAGMA temp_store = MEMORY")
        run(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        run(f"PRAGMA journal_size_limit = {_LOG_BYTES}").fetchone()
        # Freed content isn't overwritten: digests and paths aren't secrets to those who may read the file.
        run("PRAGMA secure_delete = OFF").fetchone()
        if read_only:
            run("PRAGMA query_only = ON")

    def close(self) -> None:
        self.connection.close()

    # -- statements ----------------------------------------------------------------------------------------------

    def all(self, sql: str, values: Values = ()) -> list[Any]:
        try:
            return self.connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self.fail(error)

    def one(self, sql: str, values: Values = ()) -> Any:
        """The first row of the result, or None."""
        try:
            return self.connection.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            self.fail(error)

    def stream(self, sql: str, values: Values = ()) -> Iterator[Any]:
        """The rows of the result one by one, for a reader that may stop early; not to be kept across a write."""
        try:
            yield from self.connection.execute(sql, values)
        except sqlite3.Error as error:
            self.fail(error)

    def run(self, sql: str, values: Values = ()) -> int:
        """The number of rows that were changed."""
        try:
            return self.connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            self.fail(error)

    def many(self, sql: str, rows: Iterable[Values]) -> int:
        """The same statement for many rows. OverflowError passes through: an integer is beyond 64 bits."""
        try:
            return self.connection.executemany(sql, rows).rowcount
        except sqlite3.Error as error:
            self.fail(error)

    # -- transactions --------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """All or nothing. Inside another one it is a savepoint of that one, whose durability counts."""
        name = f"t{self._depth}"
        if self._depth == 0:
            if durable is not self._full:  # can't be changed inside a transaction
                self.run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._full = durable
            undo: tuple[str, ...]
            begin, commit, undo = "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)
        else:
            begin, commit, undo = f"SAVEPOINT {name}", f"RELEASE {name}", (f"ROLLBACK TO {name}", f"RELEASE {name}")
        self.run(begin)
        self._depth += 1
        try:
            yield
            self.run(commit)
        except BaseException:
            for statement in undo:
                if self.connection.in_transaction:  # SQLite may have rolled back by itself (disk full)
                    self.run(statement)
            raise
        finally:
            self._depth -= 1

    @property
    def depth(self) -> int:
        """0 outside of transactions, 1 in one, 2 in one inside it."""
        return self._depth

    # -- errors --------------------------------------------------------------------------------------------------

    def fail(self, error: sqlite3.Error) -> NoReturn:
        """Raise the StateError for an error of SQLite."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _CORRUPT:
            self.corrupt = True
            raise StateError(
                f"the state store {self.path} is corrupt: {error}",
                remedy="start again: the file is moved aside, both sides are compared anew, and nothing is deleted",
            ) from error
        if code in _FULL:
            full = StateError(
                f"there is no space left for the state store {self.path}", remedy="free space in state_dir"
            )
            full.transient = True
            raise full from error
        raise StateError(
            f"the state store {self.path} can't be used: {error}",
            remedy="check that state_dir exists, belongs to the agent's user, and isn't on a full or read-only disk",
        ) from error
