"""The names of the bucket: those that are no path of the mapping, and the sweep after a full listing.

A bucket has more names than the mapping has paths: outside its prefix or filters, or not fit to be a path. They are
kept in table `others`, with revision and nuid only, for two reasons: the number of names on the server must equal the
number of names known, or something was missed (DESIGN section 6); and an object that moved out of the mapping is a
rename, not an expiry.

A full listing is mark and sweep: every name that the server tells is marked in a temporary table; what is known, isn't
marked and isn't newer than the listing's start has gone. A listing that was broken off is simply begun again.
"""

# ruff: noqa: S608 - the texts of statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.core.entries import Reason
from agent.state.database import Database
from agent.state.rows import REASONS

# The mark before a subject that has no name in it.
_NAMELESS = "\udc00".encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class OtherName:
    """A name of the bucket that is no path. nuid: "" for a delete marker. reason: None = nothing to tell anybody."""

    name: str
    revision: int
    nuid: str = ""
    reason: Reason | None = None
    detail: str = ""


def to_bytes(name: str) -> bytes:
    """A name as stored. Names come from subjects that anybody may have made, so lone surrogates are possible."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def to_text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def printable(name: bytes) -> str:
    """For people and JSON. It can't be taken for a path, since a path has no backslash.

    A meta under a subject without a name has that subject for one, behind a mark that no name has (`MetaMessage.key`).
    """
    return name.removeprefix(_NAMELESS).decode("utf-8", "backslashreplace")


def put(database: Database, others: Sequence[OtherName]) -> int:
    """How many names are new."""
    values = [
        (to_bytes(other.name), other.revision, other.nuid, other.reason.value if other.reason else "", other.detail)
        for other in others
    ]
    new = database.many("INSERT OR IGNORE INTO others VALUES (?, ?, ?, ?, ?)", values)
    if new < len(values):
        database.many("INSERT OR REPLACE INTO others VALUES (?, ?, ?, ?, ?)", values)
    return new


def drop_paths(database: Database, prefix: str, paths: list[str]) -> int:
    """These names have become paths. How many were others."""
    return database.run(
        "DELETE FROM others WHERE name IN (SELECT CAST(? || value AS BLOB) FROM json_each(?))",
        (prefix, json.dumps(paths)),
    )


def everything(database: Database) -> list[OtherName]:
    return [
        OtherName(to_text(name), revision, nuid, REASONS.get(reason), detail)
        for name, revision, nuid, reason, detail in database.all(
            "SELECT name, revision, nuid, reason, detail FROM others ORDER BY name"
        )
    ]


def with_nuid(database: Database, nuid: str, prefix: str) -> list[str]:
    """The names of live objects with this nuid: at most one, but for the moment of a rename."""
    if not nuid:
        return []
    paths = database.all("SELECT path FROM paths WHERE r_nuid = ? AND r_nuid <> '' AND r_kind > 0", (nuid,))
    others = database.all("SELECT name FROM others WHERE nuid = ? AND nuid <> ''", (nuid,))
    return [prefix + path for (path,) in paths] + [to_text(name) for (name,) in others]


def known_nuids(database: Database, nuids: Iterable[str]) -> set[str]:
    """Those of the nuids that a live object has, by one statement."""
    listed = json.dumps([nuid for nuid in nuids if nuid])
    given = "(SELECT value FROM json_each(?))"
    paths = database.all(f"SELECT r_nuid FROM paths WHERE r_nuid IN {given} AND r_nuid <> '' AND r_kind > 0", (listed,))
    others = database.all(f"SELECT nuid FROM others WHERE nuid IN {given} AND nuid <> ''", (listed,))
    return {nuid for (nuid,) in [*paths, *others]}


# -- mark and sweep ----------------------------------------------------------------------------------------------


def begin_listing(database: Database) -> None:
    database.run("DROP TABLE IF EXISTS temp.seen")
    database.run("CREATE TEMP TABLE seen (name BLOB NOT NULL PRIMARY KEY) WITHOUT ROWID")


def seen(database: Database, names: Iterable[str]) -> None:
    database.many("INSERT OR IGNORE INTO temp.seen VALUES (?)", ((to_bytes(name),) for name in names))


def sweep(database: Database, prefix: str, up_to: int) -> tuple[list[str], int]:
    """Paths that the listing didn't meet, and how many other names it didn't meet, which are forgotten here.

    Only names whose revision is at most `up_to` count, the stream's last sequence before the listing began: a name that
    came or changed later may be missing in it for no fault of its own.
    """
    paths = database.all(
        "SELECT path FROM paths WHERE (r_revision > 0 OR r_kind > 0) AND r_revision <= ?"
        " AND CAST(? || path AS BLOB) NOT IN (SELECT name FROM temp.seen) ORDER BY path",
        (up_to, prefix),
    )
    dropped = database.run(
        "DELETE FROM others WHERE revision <= ? AND name NOT IN (SELECT name FROM temp.seen)", (up_to,)
    )
    database.run("DROP TABLE temp.seen")
    return [path for (path,) in paths], dropped
