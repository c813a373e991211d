"""Our own metas, as the stream brings them back: known for what they are without being read.

A small upload ends twice: with the answer to its meta, and with the meta itself, which the stream delivers to us as to
everybody. Which comes first is chance. To decode the meta, and to compare it with the row, costs as much as all else
that is done for a small file; so

    a meta of a revision that an outcome has brought, which is committed    is dropped
    a meta of a name whose small upload is under way                        waits for the outcome to be committed, then
                                                                            is dropped, or stored as any other
    any other meta                                                          is stored at once, behind what waits

The last is for renames by other clients: they are found by the nuid that the old name has in its row, so that has to
be there first. While metas wait, the cursor stays before them (`cursor`): a restart reads them again. So a row never
misses a meta that the cursor has passed. What waits is bounded by the lots under way, and waits for as long as they
take; a name is kept once, with its newest meta.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.core.entries import Remote
from agent.objectstore import MetaMessage
from agent.sync.outcome import Outcome


class Echoes:
    """Of one session. `prefix` + path is an object's name."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._under_way: set[str] = set()  # names
        self._waiting: dict[str, MetaMessage] = {}
        self._ours: set[int] = set()  # committed revisions whose metas are still to come
        self._seen = 0
        self.late: list[MetaMessage] = []
        """Metas that have waited and weren't ours: to be stored."""

    def expect(self, paths: Iterable[str]) -> None:
        """Small uploads of these paths begin; each will have an outcome."""
        self._under_way.update([self._prefix + path for path in paths])

    def sift(self, metas: Sequence[MetaMessage], last_seq: int) -> list[MetaMessage]:
        """What is to be stored now that a batch has come, in the order of the stream."""
        self._seen = max(self._seen, last_seq)
        if not (self._under_way or self._ours or self.late):
            return list(metas)
        kept = []
        for meta in metas:
            if meta.revision in self._ours:
                self._ours.remove(meta.revision)
            elif self._under_way and meta.name in self._under_way:
                self._waiting[meta.name] = meta
            else:
                kept.append(meta)
        if kept and (self._waiting or self.late):
            kept += [*self._waiting.values(), *self.late]
            kept.sort(key=lambda meta: meta.revision)
            self._waiting.clear()
            self.late = []
        if self._ours and min(self._ours) <= self._seen:  # others wrote at once: such a meta never comes any more
            self._ours = {revision for revision in self._ours if revision > self._seen}
        return kept

    def committed(self, outcomes: Iterable[Outcome]) -> None:
        """The outcomes are in the rows."""
        if not self._under_way:
            return
        for outcome in outcomes:
            name = self._prefix + outcome.action.row.path
            if name not in self._under_way:
                continue
            self._under_way.remove(name)
            meta = self._waiting.pop(name, None)
            remote = outcome.changes[0].remote if outcome.changes else None
            revision = remote.revision if isinstance(remote, Remote) else 0
            if meta is not None and meta.revision > revision:
                self.late.append(meta)
            elif meta is None and revision > self._seen:
                self._ours.add(revision)

    def cursor(self, last_seq: int) -> int:
        """How far the cursor may go, when all up to last_seq has been sifted."""
        pending = [meta.revision for meta in (*self._waiting.values(), *self.late)]
        return min(last_seq, *(revision - 1 for revision in pending)) if pending else last_seq
