"""Which shape the database has, and how it gets there.

`PRAGMA user_version` holds the version of the schema. `sql/schema.sql` makes the latest one in an empty file;
`sql/migrations/NNN.sql` brings a file of version NNN-1 to NNN. All that is missing runs in one transaction, so that a
crash leaves the old version whole. A file that is newer than this program is refused: an older program would not know
what the new columns promise, and might delete by them. `PRAGMA application_id` tells our files from others.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from agent.errors import StateError

VERSION = 2
APPLICATION_ID = 0x6A657473  # "jets"
_MIGRATION = re.compile(r"(\d{3,})\.sql")


@dataclass(frozen=True)
class Schema:
    """`latest` makes version `version` from nothing; `migrations[n]` makes version n from n - 1."""

    version: int
    latest: str
    migrations: Mapping[int, str] = field(default_factory=dict)


def packaged() -> Schema:
    """The schema of this program, read from the package's data files."""
    root = files(__package__).joinpath("sql")
    migrations = {
        int(match.group(1)): file.read_text("utf-8")
        for file in root.joinpath("migrations").iterdir()
        if (match := _MIGRATION.fullmatch(file.name))
    }
    return Schema(VERSION, root.joinpath("schema.sql").read_text("utf-8"), migrations)


def bring_up(connection: sqlite3.Connection, schema: Schema, *, name: str) -> None:
    """Make or migrate the database to `schema`. `name` is for messages.

    The connection must be in autocommit mode. Raises StateError for a file that isn't ours or is newer, and
    sqlite3.Error as it comes.
    """
    version = _pragma(connection, "user_version")
    if version == schema.version and _pragma(connection, "application_id") == APPLICATION_ID:
        return
    if version == 0 and not _is_empty(connection):
        raise StateError(f"{name} is a database, but not one of jetsync", remedy="choose another state_dir")
    if version > schema.version:
        raise StateError(
            f"the state store {name} has schema version {version}; this jetsync knows up to {schema.version}",
            remedy="run the newer jetsync, or remove the file: both sides are compared anew, and nothing is deleted",
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in _scripts(schema, version, name):
            for statement in statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {schema.version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def statements(script: str) -> Iterator[str]:
    """The statements of an SQL script one by one. (`executescript` would commit the open transaction first.)"""
    text = ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            yield text
            text = ""
    if text.strip():
        yield text  # a comment, or an unfinished statement: SQLite says which


def _scripts(schema: Schema, version: int, name: str) -> list[str]:
    if version == 0:
        return [schema.latest]
    missing = [n for n in range(version + 1, schema.version + 1) if n not in schema.migrations]
    if missing:
        raise StateError(
            f"the state store {name} has schema version {version}, and there is no way from it to {schema.version}",
            remedy="remove the file: both sides are then compared anew, and nothing is deleted",
        )
    return [schema.migrations[n] for n in range(version + 1, schema.version + 1)]


def _is_empty(connection: sqlite3.Connection) -> bool:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]) == 0


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
