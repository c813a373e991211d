"""What came of actions, into the rows: many outcomes in one transaction, each set of rows by one statement.

Chunks that nobody needs any more are not purged here: they go to the journal with the time from which they may be,
since readers of the object that was replaced may still be at them. A full bucket doesn't wait for those (DESIGN
section 6).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from agent.core.entries import Row
from agent.errors import StoreFullError
from agent.state import JournalEntry, StateStore
from agent.sync.guard import Guard
from agent.sync.outcome import Change, Outcome, has_gone, merged, whole

OLD_CHUNKS_SECONDS = 30


def write(store: StateStore, outcomes: list[Outcome], *, guard: Guard, bucket: str, full: bool) -> None:
    """Store the changes of all outcomes. full: the bucket has no room, so what is old needn't wait to be purged."""
    changes = [change for outcome in outcomes for change in outcome.changes]
    filled = any(isinstance(outcome.error, StoreFullError) for outcome in outcomes)
    with store.transaction():
        guard.carried_out(store, outcomes, time.time())
        _merge(store, outcomes, changes)
        store.journal_remove(nuid for outcome in outcomes for nuid in outcome.settled_nuids)
        store.journal_add(_replaced(outcomes, bucket, full=full or filled))
        if filled:
            _hurry(store)


def old_chunks(bucket: str, name: str, nuid: str, *, now: int, unread: bool = False) -> JournalEntry:
    """To be purged a while after `now` (nanoseconds since 1970), at once when nobody reads them; unless a meta names
    them then."""
    due = now if unread else now + OLD_CHUNKS_SECONDS * 1_000_000_000
    return JournalEntry(
        nuid=nuid, bucket=bucket, name=name, kind="old", expected_revision=0, due_ns=due, created_ns=now
    )


def _merge(store: StateStore, outcomes: list[Outcome], changes: list[Change]) -> None:
    """Most changes say what the whole row is from now on: of those only the revision is read that the row has."""
    revisions = store.revisions([change.path for change in changes])
    clean: list[Row] = []
    others: list[Change] = []
    for change in changes:
        row = whole(change, revisions.get(change.path, 0)) if len(revisions) == len(changes) else None
        if row is not None:
            clean.append(row)
        else:
            others.append(change)
    rows = store.rows([change.path for change in others]) if others else {}
    for outcome in outcomes if others else ():
        outcome.vanished += [one.path for one in outcome.changes if one.path in rows and has_gone(rows[one.path], one)]
    dirty: dict[str, bool] = {}
    for change in others:
        rows[change.path], dirty[change.path] = merged(rows[change.path], change)
    store.put([*clean, *(rows[path] for path, marked in dirty.items() if not marked)], dirty=False)
    store.put([rows[path] for path, marked in dirty.items() if marked], dirty=True)


def _replaced(outcomes: list[Outcome], bucket: str, *, full: bool) -> Iterator[JournalEntry]:
    now = time.time_ns()
    for outcome in outcomes:
        for old in outcome.old_chunks:
            yield old_chunks(bucket, old.name, old.nuid, now=now, unread=old.unread or full)


def _hurry(store: StateStore) -> None:
    """The bucket is full: its old chunks aren't kept for readers any longer."""
    now = time.time_ns()
    old = [entry for entry in store.journal_all() if entry.kind == "old" and entry.due_ns > now]
    store.journal_add(replace(entry, due_ns=now) for entry in old)
