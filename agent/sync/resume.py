"""Which interrupted transfers may go on, and which leftovers are nobody's any more.

An upload of more than 8 MiB is journalled with its source: the file's signature and digest. A later upload takes over
the nuid only when it reads the same, to the same name, on the same expected revision; the chunks that are stored are
looked at before anything is sent (`objectstore.prefix`). So the outcome of an earlier attempt's meta, if that was sent
at all, stays decidable: both attempts want the same object on the same revision.

A download's partial is wanted while the bucket's version of its path has its digest and the file hasn't.

What isn't taken up again is kept for a day at most.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from agent.core.entries import Entry, Row
from agent.core.plan import Action
from agent.directory import Kept
from agent.objectstore import new_nuid
from agent.state import JournalEntry, StateStore
from agent.sync.limits import RESUMED

KEPT_SECONDS = 86_400.0


def source_of(row: Row) -> str:
    """What an upload of the row's file reads; "" when it is not one that may go on."""
    local, side = row.local, row.local_side
    if local is None or local.signature is None or not isinstance(side, Entry) or side.size <= RESUMED:
        return ""
    signature = local.signature
    facts = (signature.size, signature.mtime_ns, signature.ctime_ns, signature.inode, signature.mode)
    return ":".join([*map(str, facts), side.digest.hex()])


def journal_uploads(store: StateStore, bucket: str, prefix: str, uploads: Sequence[Action]) -> dict[str, str]:
    """Give every upload a nuid (by path), and write it down before a chunk is sent under it: that of an interrupted
    upload that can go on with the action, or a new one."""
    nuids = _interrupted(store, bucket, prefix, uploads)
    now = time.time_ns()
    entries = [
        JournalEntry(
            nuid=nuids.setdefault(action.row.path, new_nuid()),
            bucket=bucket,
            name=prefix + action.row.path,
            kind="upload",
            expected_revision=action.row.revision,
            due_ns=now,
            created_ns=now,
            source=source_of(action.row),
        )
        for action in uploads
    ]
    store.journal_add(entries)
    return nuids


def _interrupted(store: StateStore, bucket: str, prefix: str, uploads: Sequence[Action]) -> dict[str, str]:
    """path -> nuid of the interrupted upload that goes on with the action."""
    wanted = {}
    for action in uploads:
        if source := source_of(action.row):
            wanted[prefix + action.row.path, source, action.row.revision] = action.row.path
    if not wanted:
        return {}
    found = {}
    for entry in store.journal_all():
        path = wanted.get((entry.name, entry.source, entry.expected_revision))
        if path is not None and entry.kind == "upload" and entry.bucket == bucket:
            found[path] = entry.nuid
    return found


def forget(store: StateStore, nuids: Collection[str]) -> None:
    """Nothing was sent for these uploads now. What an earlier attempt may have stored isn't forgotten."""
    old = {entry.nuid for entry in store.journal_all() if entry.source} if nuids else set()
    store.journal_remove(nuid for nuid in nuids if nuid not in old)


def is_wanted(store: StateStore, prefix: str, entry: JournalEntry) -> bool:
    """Whether the upload of this entry may still go on: the file and the name are as they were."""
    if not entry.source or not entry.name.startswith(prefix):
        return False
    row = store.row(entry.name[len(prefix) :])
    return source_of(row) == entry.source and row.revision == entry.expected_revision


def unwanted(store: StateStore, partials: Sequence[Kept], now: float) -> list[Kept]:
    """The partials that no download will go on with. now: seconds since 1970."""

    def is_unwanted(kept: Kept) -> bool:
        if not 0 <= now - kept.used < KEPT_SECONDS:
            return True
        row = store.row(kept.path)
        remote, local = row.remote_side, row.local_side
        if not isinstance(remote, Entry) or remote.digest != kept.digest:
            return True
        return isinstance(local, Entry) and local.digest == kept.digest

    return [kept for kept in partials if is_unwanted(kept)]
