"""Renames: a file that is gone under one name and new under another, with the same digest, is moved and not sent.

A rename is only a cheaper way to what the plan does anyway: a pair of a delete and a put on the same side, 1:1. So it
needs no more proof than those two had, and when a move fails, both rows are simply planned again. Not moved: links and
empty files (nothing to save; equal by chance), content behind a link that leads out of the mapping, a destination that
isn't new on both sides, and one that something else of this plan stands above or below of.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from agent.core.draft import Draft
from agent.core.entries import Entry, Kind
from agent.core.reconcile import Do


def pair_renames(drafts: Iterable[Draft], *, fold: Callable[[str], str] | None = None) -> None:
    """Pair deletes with puts, in both directions; marks the drafts. `drafts` are in path order.

    fold: on a case-insensitive root, what makes two names equal: a file is not moved to a name that stands for itself.
    """
    drafts = list(drafts)
    for side, delete, put in (("remote", Do.DELETE_REMOTE, Do.UPLOAD), ("local", Do.DELETE_LOCAL, Do.DOWNLOAD)):
        sources = [draft for draft in drafts if draft.do is delete and _content(draft, side)]
        if not sources:
            continue
        occupied = {fold(draft.path) for draft in sources} if fold and side == "local" else set()
        goals: defaultdict[bytes, list[Draft]] = defaultdict(list)
        for draft in drafts:
            if draft.do is put and _is_new(draft, side) and not (occupied and fold and fold(draft.path) in occupied):
                assert draft.entry
                goals[draft.entry.digest].append(draft)
        _pair(sources, goals, side)


def _content(draft: Draft, side: str) -> Entry | None:
    """What a delete would take away, when moving it instead is worth it."""
    entry = draft.row.remote_side if side == "remote" else draft.row.local_side
    if not isinstance(entry, Entry) or entry.kind is not Kind.FILE or not entry.size or not entry.digest:
        return None
    if side == "remote" and draft.row.remote and draft.row.remote.via_link:
        return None
    return entry


def _is_new(draft: Draft, side: str) -> bool:
    new = draft.new_remote if side == "remote" else draft.new_local
    return new and not draft.tangled and draft.row.ancestor is None and _is_file(draft.entry)


def _is_file(entry: Entry | None) -> bool:
    return entry is not None and entry.kind is Kind.FILE and entry.size > 0


def _pair(sources: list[Draft], goals: dict[bytes, list[Draft]], side: str) -> None:
    """Same last components first, since a moved directory keeps them; then in path order."""
    by_digest: defaultdict[bytes, list[Draft]] = defaultdict(list)
    for source in sources:
        entry = _content(source, side)
        assert entry
        if entry.digest in goals:
            by_digest[entry.digest].append(source)
    for digest, candidates in by_digest.items():
        named: defaultdict[str, deque[Draft]] = defaultdict(deque)
        for goal in goals[digest]:
            named[_basename(goal.path)].append(goal)
        unmatched = []
        for source in candidates:
            same_name = named.get(_basename(source.path))
            if same_name:
                _join(source, same_name.popleft())
            else:
                unmatched.append(source)
        left = [goal for goal in goals[digest] if goal.moved_from is None]
        for source, goal in zip(unmatched, left, strict=False):
            _join(source, goal)


def _join(source: Draft, goal: Draft) -> None:
    source.moved_to = goal
    goal.moved_from = source


def _basename(path: str) -> str:
    return path.rpartition("/")[2]
