"""Clashes: decisions that are right for each path alone and impossible together.

    structure   "a" and "a/b". A directory tree can't hold both; a bucket can, which is why it happens
    case        "README" and "readme" on a root that takes them for one name

Judged by what each side would hold after the plan: a file that turned into a directory on one side is no clash, only an
order (deletes that clear the way come early). What to do when there is one (DESIGN section 4):

    both objects in the bucket          the directory wins and "a" becomes a problem; unless the local side already
                                        holds the file "a": then all of "a/..." become problems, or, two-way with
                                        keep-both, the object "a" is renamed to a conflict copy and the file follows it
    file here, directory there          two-way with keep-both: the file becomes a conflict copy, on the side that has
                                        it. Otherwise a conflict. (In mirror modes the receiver's own is deleted anyway)
    an obstacle stands in the way       it isn't touched; what can't come is a problem
    the local side holds both           impossible: one of them is old news. All of it is deferred: look again

A path that becomes a problem gets an obstacle as local side (STRUCTURE_CLASH, CASE_CLASH). The next plan that meets the
row, as a dirty one or as context of another, takes that obstacle away again and decides anew.

Cost: one sort, and constant time per path that has something below it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from agent.core import names
from agent.core.conflicts import Copies
from agent.core.draft import ACTS, DELETES, Draft
from agent.core.entries import Entry, Mode, Obstacle, Policy, Reason
from agent.core.reconcile import Do, Rules, reconcile

# Obstacles that are directories, or may be: what is below is as unknown as they are.
_MAY_HIDE = frozenset({Reason.UNREADABLE, Reason.OTHER_FILE_SYSTEM})


def resolve_structure(drafts: Sequence[Draft], rules: Rules, copies: Copies) -> None:
    """Change the drafts (sorted by key) that can't stand together with what is above or below them."""
    if not any(_above(upper, lower) for upper, lower in pairwise(drafts)):
        return  # whatever is below a path stands directly behind it
    _Structure(drafts, rules, copies).resolve()


def _above(upper: Draft, lower: Draft) -> bool:
    if not lower.key.startswith(upper.key):
        return False
    return upper.key.endswith("\0") or lower.key.startswith("\0", len(upper.key))


class _Structure:
    def __init__(self, drafts: Sequence[Draft], rules: Rules, copies: Copies) -> None:
        self.drafts = drafts
        self.rules = rules
        self.copies = copies
        self.keys = [draft.key for draft in drafts]
        # How many of the drafts before each position are so: any range is then counted at once. What is resolved later
        # changes only a path and everything below it together, so the counts of what is still ahead stay true.
        self.local_now = self._count(lambda draft: draft.row.local is not None)
        self.final_local = self._count(lambda draft: draft.final_local)
        self.final_local_entry = self._count(
            lambda draft: draft.final_local and not isinstance(draft.row.local_side, Obstacle)
        )
        self.final_remote = self._count(lambda draft: draft.final_remote)
        self.new_local = self._count(lambda draft: draft.new_local)
        self.new_remote = self._count(lambda draft: draft.new_remote)
        self.remote_kept = self._count(lambda draft: draft.final_remote and isinstance(draft.row.remote_side, Entry))

    def _count(self, predicate: Callable[[Draft], bool]) -> list[int]:
        return list(accumulate(map(predicate, self.drafts), initial=0))

    def resolve(self) -> None:
        position = 0
        tangled_to = 0
        while position < len(self.drafts):
            upper = self.drafts[position]
            start = position + 1
            end = bisect_left(self.keys, f"{upper.key.removesuffix(chr(0))}\1", lo=start)
            position = start
            if start == end:
                continue
            if end > tangled_to:
                for draft in self.drafts[start - 1 : end]:
                    draft.tangled = True
                tangled_to = end
            if upper.path.endswith("/"):
                self._directory_entry(upper, start, end)
            elif self._wins(upper, start, end):
                position = end

    def _directory_entry(self, entry: Draft, start: int, end: int) -> None:
        """The entry of an empty directory, with something below it: it isn't empty, so the entry means nothing."""
        if not self.final_local[end] - self.final_local[start]:
            self._order(entry, start, end, replaced=False)
            return
        if entry.do in (Do.UPLOAD, Do.DOWNLOAD):
            entry.leave(Do.NOTHING, "not empty")
        elif entry.do is Do.DELETE_LOCAL:
            entry.leave(Do.AGREE, "not empty")

    def _wins(self, upper: Draft, start: int, end: int) -> bool:
        """Settle a path against all that is below it. True when everything below is settled by that."""

        def below(counts: list[int]) -> bool:
            return counts[end] > counts[start]

        here = upper.row.local_side
        if isinstance(here, Obstacle):
            self._hidden(upper, here, start, end)
            return True
        if here is not None and below(self.local_now):
            for draft in self.drafts[start - 1 : end]:
                draft.deferred = draft.acts or draft.row.local is not None
            return True
        clash_local = (upper.new_local and below(self.final_local)) or (upper.final_local and below(self.new_local))
        clash_remote = (upper.new_remote and below(self.final_remote)) or (
            upper.final_remote and below(self.new_remote)
        )
        if not clash_local and not clash_remote:
            self._order(upper, start, end, replaced=below(self.new_local) or below(self.new_remote))
            return False
        if upper.final_remote and isinstance(upper.row.remote_side, Entry) and below(self.remote_kept):
            return clash_local and self._both_in_bucket(upper, start, end)
        return self._file_against_directory(upper, start, end, entries_below=below(self.final_local_entry))

    def _order(self, upper: Draft, start: int, end: int, *, replaced: bool) -> None:
        """No clash, but a file and a directory change places: the deletes come first."""
        if upper.do in DELETES:
            upper.early = upper.early or replaced
        elif upper.new_local or upper.new_remote:
            for draft in self.drafts[start:end]:
                draft.early = draft.early or draft.do in DELETES

    def _hidden(self, upper: Draft, obstacle: Obstacle, start: int, end: int) -> None:
        """Something that isn't to be touched stands at the path of a directory: nothing can be done below it.

        Not even a deletion that the other side asks for or that seems to have happened here (promise 3).
        """
        reason = obstacle.reason if obstacle.reason in _MAY_HIDE else Reason.STRUCTURE_CLASH
        detail = f"{upper.path} is in its way ({obstacle.reason.value}); {obstacle.detail or 'move it away'}"
        for draft in self.drafts[start:end]:
            if not draft.acts:
                continue
            forgotten = reconcile(replace(draft.row, ancestor=None), self.rules)
            if forgotten.do in ACTS:
                draft.block(Obstacle(reason, detail))
            else:  # what it will be next time, without its ancestor: the receiver's own in a safe mode
                draft.leave(forgotten.do, forgotten.reason)

    def _both_in_bucket(self, upper: Draft, start: int, end: int) -> bool:
        if upper.row.local is None:
            below = self.drafts[start].path
            detail = f"the bucket holds this object and {below}, which would be in it; rename one of them"
            upper.block(Obstacle(Reason.STRUCTURE_CLASH, detail))
            return False
        if self._keeps_both and upper.do in (Do.NOTHING, Do.AGREE) and upper.ancestor:
            # Two agents have sent the one and the other at once. It is for those that have the file to give way: the
            # object is renamed, the file here will follow it, and then what is below has its place.
            entry = upper.row.remote_side
            assert isinstance(entry, Entry)
            name = self.copies.name(upper.path, entry)
            if name:
                upper.copy, upper.to, upper.reason = "remote", name, "file against directory"
                for draft in self.drafts[start:end]:
                    draft.deferred = draft.new_local
                return True
        elif self._keeps_both and upper.acts:
            for draft in self.drafts[start:end]:
                draft.deferred = draft.new_local or draft.new_remote  # until the file is as it is in the bucket
            return True
        self._block_below(upper, start, end)
        return True

    def _block_below(self, upper: Draft, start: int, end: int) -> None:
        detail = f"{upper.path} is a file here, so it can't be a directory; rename one of them"
        for draft in self.drafts[start:end]:
            if draft.new_local or draft.new_remote:
                draft.block(Obstacle(Reason.STRUCTURE_CLASH, detail))

    def _file_against_directory(self, upper: Draft, start: int, end: int, *, entries_below: bool) -> bool:
        if isinstance(upper.row.remote_side, Obstacle):
            self._block_below(upper, start, end)
            return True
        new = upper.new_local or upper.new_remote
        if new and (self._mirrors or (upper.new_local and not entries_below)):
            detail = "a directory of that name holds what isn't to be touched; rename one of them"
            upper.block(Obstacle(Reason.STRUCTURE_CLASH, detail))
            return False
        if self._mirrors:
            self._block_below(upper, start, end)
            return True
        if self._keeps_both:
            side = "local" if upper.row.local else "remote"
            entry = upper.row.local_side if upper.row.local else upper.row.remote_side
            assert isinstance(entry, Entry)
            name = self.copies.name(upper.path, entry)
            if name:
                upper.copy, upper.to, upper.reason = side, name, "file against directory"
                for draft in self.drafts[start:end]:
                    draft.deferred = draft.new_remote  # were the rename to fail, the bucket would hold both
                return False
        for draft in self.drafts[start - 1 : end]:
            if draft is upper or draft.new_local or draft.new_remote or draft.do in (Do.DIVERGED, Do.CONFLICT):
                draft.conflict("file against directory")
        return True

    @property
    def _keeps_both(self) -> bool:
        return self.rules.mode is Mode.TWO_WAY and self.rules.policy is Policy.KEEP_BOTH

    @property
    def _mirrors(self) -> bool:
        return self.rules.mode.mirrors


def resolve_case(drafts: Sequence[Draft], spelling: Callable[[str], str | None]) -> None:
    """On a case-insensitive root: what is there keeps its name, then the first in path order; the rest are problems.

    Compared are whole paths and all directories above them. spelling: how the local side spells a path, None when it
    isn't there. Deletes of a name that comes back in another spelling are done early.
    """
    coming = [draft for draft in drafts if draft.new_local]
    if not coming:
        return
    spelled: dict[str, str] = {}
    leaving: set[str] = set()
    for draft in drafts:
        if draft.final_local and not draft.new_local:
            spelled.update((names.fold(name), name) for name in _names(draft.path))
        elif draft.row.local is not None:
            leaving.add(draft.path)  # the directories above it may hold more than this plan knows of
    kept: set[str] = set()
    for draft in coming:
        ours = _names(draft.path)
        for name in ours:
            if names.fold(name) not in spelled:
                there = spelling(name)
                spelled[names.fold(name)] = name if there is None or there in leaving else there
        clash = next((name for name in ours if spelled[names.fold(name)] != name), None)
        if clash:
            detail = f"{clash} and {spelled[names.fold(clash)]} are one name on this file system; rename one of them"
            draft.block(Obstacle(Reason.CASE_CLASH, detail))
            continue
        kept.add(names.fold(draft.path))
    for draft in drafts:
        if draft.do is Do.DELETE_LOCAL and names.fold(draft.path) in kept:
            draft.early = True


def _names(path: str) -> list[str]:
    return [*names.parents_of(path), path.removesuffix("/")]
