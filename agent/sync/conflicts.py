"""What `jetsync conflicts` lists: paths in conflict with both versions, and the conflict copies that exist.

Both are read from the state store alone; nothing is looked at. A *conflict* is a row with that verdict: both versions
are where they were, and nothing happens to the path until a person resolves it (`sync.resolve`) or the cause goes away.
A *copy* is a file that has the name of a conflict copy (`core.names`), whichever agent made it: both versions are in
the tree already, and a person may still want to say which one is right. Copies that a person has looked at and wants to
keep (`resolve --keep both`) are remembered in the store of this agent, and are listed as kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from agent.config.model import Mapping
from agent.core import names
from agent.core.entries import Entry, Obstacle, Row, Side
from agent.core.reconcile import Do, Rules, reconcile
from agent.observe.status import timestamp
from agent.state import StateReader, StateStore

_KEPT = "kept_copies"
_MARKS = re.compile(r"\.conflict-(?P<agent>[A-Za-z0-9-]{1,32})-(?P<time>[0-9]{8}T[0-9]{6}Z)-(?P<digest>[0-9a-f]{8})")
FILE_AGAINST_DIRECTORY = "file against directory"


def rules_of(config: Mapping, agent_name: str) -> Rules:
    """What the mapping's configuration says about deciding."""
    return Rules(
        mode=config.mode,
        policy=config.conflicts,
        permissions=config.permissions,
        agent=agent_name,
        empty_directories=config.empty_directories,
        prefix_bytes=len(config.prefix.encode()),
    )


def listed(store: StateReader, config: Mapping, agent_name: str) -> dict[str, Any]:
    """The mapping's part of `conflicts --json`: {"name", "conflicts": [...], "copies": [...]}."""
    rules = rules_of(config, agent_name)
    rows = store.rows(store.conflicts())
    kept = kept_copies(store)
    return {
        "name": config.name,
        "conflicts": [_conflict(row, rules) for row in rows.values()],
        "copies": [_copy(row, kept) for row in store.conflict_copies()],
    }


def nothing(config: Mapping) -> dict[str, Any]:
    """The same of a mapping that has no state yet."""
    return {"name": config.name, "conflicts": [], "copies": []}


def is_plain(row: Row, rules: Rules) -> bool:
    """Whether the row is in conflict by itself: two versions of one path. Otherwise it is about another path."""
    return reconcile(row, rules).do in (Do.CONFLICT, Do.KEEP_BOTH)


def _conflict(row: Row, rules: Rules) -> dict[str, Any]:
    decision = reconcile(row, rules)
    plain = decision.do in (Do.CONFLICT, Do.KEEP_BOTH)
    remote = version(row.remote_side)
    if remote is not None:
        remote["revision"] = row.revision
    return {
        "path": row.path,
        "reason": decision.reason if plain else FILE_AGAINST_DIRECTORY,
        "local": version(row.local_side),
        "remote": remote,
    }


def version(side: Side) -> dict[str, Any] | None:
    """One side's version: kind, size, mtime (RFC 3339, None = unknown), digest (hex), executable, target of a link."""
    if not isinstance(side, Entry):
        return None
    return {
        "kind": side.kind.value,
        "size": side.size,
        "mtime": _time(side.mtime_ns),
        "digest": side.digest.hex() or None,
        "executable": side.executable,
        "target": side.target or None,
    }


def _time(mtime_ns: int | None) -> str | None:
    try:
        return None if mtime_ns is None else timestamp(mtime_ns / 1e9)
    except (OverflowError, ValueError, OSError):
        return None  # a year that no calendar has


def _copy(row: Row, kept: Iterable[str]) -> dict[str, Any]:
    side = row.local_side if row.local_side is not None else row.remote_side
    marks = _MARKS.search(row.path.rpartition("/")[2])
    assert marks is not None
    return {
        "path": row.path,
        "of": None if names.was_cut(row.path) else names.conflict_base(row.path),
        "agent": marks["agent"],
        "written": _stamp(marks["time"]),
        "version": version(None if isinstance(side, Obstacle) else side),
        "local": row.local is not None,
        "remote": row.remote_side is not None,
        "kept": row.path in kept,
    }


def _stamp(text: str) -> str | None:
    try:
        return timestamp(datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


# -- copies that a person wants to keep ------------------------------------------------------------------------------


def kept_copies(store: StateReader) -> frozenset[str]:
    return frozenset(json.loads(store.kv_get(_KEPT) or "[]"))


def keep_copies(store: StateStore, copies: Iterable[str]) -> None:
    """Remember copies as kept; those that are gone since are forgotten."""
    alive = {row.path for row in store.conflict_copies()}
    store.kv_set(_KEPT, json.dumps(sorted((kept_copies(store) | frozenset(copies)) & alive)))
