"""Opening the file: who may read it, and what happens to a corrupt one.

The state holds paths and digests of all files of a mapping, so its directory is made with mode 0700 and the file with
0600 (SQLite gives the log the same mode).

A file that SQLite calls malformed is moved aside with its log, never deleted, and a new one is begun: without ancestors
nothing is ever deleted (promise 4), and what is equal on both sides is found equal. After a crash (the log is still
there) all pages are checked before the file is trusted; after a clean close that isn't needed. A file that turns out to
be corrupt only while it is used is moved aside when it is closed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from agent.errors import StateError
from agent.state.database import Database
from agent.state.schema import Schema, bring_up

_PARTS = ("", "-wal", "-shm")


def open_database(path: Path, schema: Schema) -> tuple[Database, str]:
    """The database at `path`, made or migrated, and what had to be given up for it ("" = nothing).

    :raises StateError: it can't be opened, is of a newer jetsync, or isn't one of jetsync at all
    """
    _prepare(path)
    try:
        return _open(path, schema), ""
    except _CorruptError as error:
        return begin_anew(path, schema, why=str(error))


def begin_anew(path: Path, schema: Schema, *, why: str) -> tuple[Database, str]:
    """Move a corrupt file aside; a new database, and what happened in words. :raises StateError:"""
    aside = move_aside(path)
    _prepare(path)
    return _open(path, schema), f"the state store {path} was corrupt ({why}); it is now {aside.name}"


class _CorruptError(Exception):
    pass


def _open(path: Path, schema: Schema) -> Database:
    crashed = _size(path.with_name(path.name + "-wal")) > 0
    database = None
    try:
        database = Database(path)
        try:
            if crashed and (found := database.one("PRAGMA quick_check(1)")[0]) != "ok":
                raise _CorruptError(found)
            bring_up(database.connection, schema, name=str(path))
        except sqlite3.Error as error:
            database.fail(error)
    except StateError as error:
        corrupt = database.corrupt if database else _is_corrupt(error)
        if database:
            database.close()
        if corrupt:
            raise _CorruptError(str(error.__cause__)) from error
        raise
    except _CorruptError:
        if database:
            database.close()
        raise
    return database


def _is_corrupt(error: StateError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def move_aside(path: Path) -> Path:
    """Rename the file and its log; gives back the file's new path. :raises StateError:"""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    try:
        for part in _PARTS:
            old = path.with_name(path.name + part)
            if old.exists():
                old.rename(aside.with_name(aside.name + part))
    except OSError as error:
        raise _unusable(path, error) from error
    return aside


def make_private_directory(directory: Path) -> None:
    """Make the directory, and those above it, for the agent's user alone. One that exists is left as it is."""
    if directory.is_dir():
        return
    make_private_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def create_private(path: Path) -> None:
    """Make an empty file for the agent's user alone. :raises StateError: it exists, or can't be made"""
    try:
        make_private_directory(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _unusable(path, error) from error


def _prepare(path: Path) -> None:
    # Only when it is missing: closing a second descriptor of a file drops all locks that this process has on it.
    if not path.exists():
        create_private(path)


def _unusable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"the state store {path} can't be opened: {error.strerror}",
        remedy="check that state_dir can be written by the agent's user",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
