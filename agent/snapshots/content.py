"""Objects that must have certain bytes: what is there and right is used, the rest is put, by compare-and-swap.

In a repository these are the contents, `sha256/<hex>`, shared by all snapshots; in the bucket of a snapshot with
`content: copies` the files themselves. For each wanted object the leader is asked what is there:

    whole       (see `stored`): used as it is. When its meta is older than half the grace, it is stamped anew first (its
                own meta again, by compare-and-swap), so that no pruning that began before takes it away
    missing     nothing, or a delete marker: put, expecting just that
    damaged     anything else under this name: somebody has written there, or chunks are gone. Put again over exactly
                this revision. A right content is never overwritten

Two publishers that put one content at once: one of them is refused, looks again, and finds it whole.

Every nuid is in the journal of the state store before a chunk is sent under it. What a crash left is purged at a later
start, when a fresh read has shown that no meta names it (`sweep`; DESIGN section 6, "Store").
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from agent.core.manifest import Manifest, content_name
from agent.errors import ObjectNotFoundError, RevisionError, SnapshotError, StoreError
from agent.objectstore import Bucket, new_nuid
from agent.snapshots.many import each
from agent.snapshots.report import Progress, no_progress
from agent.snapshots.stored import Found, Stored, Verdict
from agent.state import JournalEntry
from agent.sync.db import Db
from agent.sync.limits import SMALL, Limits

GRACE = 24 * 3600.0
_ATTEMPTS = 4
_JOURNAL_NS = 300 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object. digest: 32 raw bytes. open: its bytes, StaleError when they can't be had any more."""

    name: str
    digest: bytes
    size: int
    open: Callable[[], AsyncIterator[bytes]]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """uploads, bytes_up: objects that were put. reused, bytes_reused: those that were there already. healed: of the
    uploads, those that were damaged."""

    uploads: int = 0
    bytes_up: int = 0
    reused: int = 0
    bytes_reused: int = 0
    healed: int = 0


class Objects:
    """The wanted objects of one bucket. stamps: whether old ones are stamped anew; `grace`: seconds.

    on_progress: bytes stored, and to be stored.
    """

    def __init__(
        self,
        bucket: Bucket,
        db: Db,
        *,
        limits: Limits,
        stamps: bool,
        grace: float = GRACE,
        now: Callable[[], float],
        on_progress: Progress = no_progress,
    ) -> None:
        self._bucket = bucket
        self._stored = Stored(bucket)
        self._db = db
        self._limits = limits
        self._stamps = stamps
        self._grace = grace
        self._now = now
        self._on_progress = on_progress
        self._sent = self._to_send = 0
        self.tally = Tally()

    async def ensure(self, wanted: list[Wanted]) -> None:
        """Have all of them there and whole.

        :raises StaleError: bytes to put can't be had any more
        """
        await self._stored.expect(len(wanted))
        nuids = {one.name: new_nuid() for one in wanted}
        missing: list[tuple[Wanted, Found]] = []

        async def look(one: Wanted) -> None:
            found = await self._stored.look(one.name, one.digest, one.size)
            if found.verdict is Verdict.WHOLE and (not self._is_old(found) or await self._stamped(one, found)):
                self.tally.reused += 1
                self.tally.bytes_reused += one.size
            else:
                missing.append((one, found))

        await each(wanted, look)
        await self._journal([(nuids[one.name], one.name, found.revision) for one, found in missing])
        self._to_send += sum(one.size for one, _ in missing)
        await each(missing, lambda item: self._put(*item, nuid=nuids[item[0].name]))
        await self._db(lambda store: store.journal_remove([nuids[one.name] for one, _ in missing]))

    # -- writing ---------------------------------------------------------------------------------------------------

    def _is_old(self, found: Found) -> bool:
        """Whether a pruning may be about to take it away."""
        assert found.info is not None
        return self._stamps and self._now() - found.info.time_ns / 1e9 > self._grace / 2

    async def _stamped(self, one: Wanted, found: Found) -> bool:
        """Make the meta a new one; False when somebody else has written there meanwhile."""
        try:
            await self._bucket.update_meta(one.name, expected_revision=found.revision)
        except (RevisionError, ObjectNotFoundError):
            return False
        return True

    async def _put(self, one: Wanted, found: Found, *, nuid: str) -> None:
        revision = found.revision
        counted = 0

        def stored(size: int) -> None:
            nonlocal counted
            self._sent += size - counted
            counted = size
            self._on_progress(self._sent, self._to_send)

        for _ in range(_ATTEMPTS):
            try:
                async with self._limits.transfer(one.size):
                    source = await _whole(one) if one.size <= SMALL else one.open()
                    await self._bucket.put(
                        one.name,
                        source,
                        size=one.size,
                        metadata=one.metadata,
                        expected_revision=revision,
                        nuid=nuid,
                        purge_old=bool(revision),
                        on_progress=stored,
                    )
            except RevisionError as error:
                found = await self._stored.look(one.name, one.digest, one.size)
                if found.verdict is Verdict.WHOLE:
                    self.tally.reused += 1
                    self.tally.bytes_reused += one.size
                    stored(one.size)
                    return
                revision = found.revision or error.actual or 0
                nuid = new_nuid()
                await self._journal([(nuid, one.name, revision)])
                continue
            stored(one.size)
            self.tally.uploads += 1
            self.tally.bytes_up += one.size
            self.tally.healed += found.verdict is Verdict.DAMAGED
            return
        raise SnapshotError(
            f"{self._bucket.name}/{one.name} is written by somebody else again and again",
            remedy="only publishers should write to a repository",
        )

    async def _journal(self, nuids: list[tuple[str, str, int]]) -> None:
        now = time.time_ns()
        bucket = self._bucket.name
        await self._db(
            lambda store: store.journal_add(
                JournalEntry(nuid, bucket, name, "upload", revision, now + _JOURNAL_NS, now)
                for nuid, name, revision in nuids
            )
        )


async def sweep(bucket: Bucket, db: Db) -> None:
    """Purge what earlier runs have left in this bucket: chunks in the journal that are due and that no meta names."""
    due = await db(lambda store: store.journal_due(time.time_ns()))
    done: list[str] = []
    for entry in due:
        if entry.bucket != bucket.name:
            continue
        try:
            named = (await bucket.info(entry.name)).nuid == entry.nuid
        except ObjectNotFoundError:
            named = False
        except StoreError:
            continue
        if not named:
            await bucket.purge_chunks(entry.nuid)
        done.append(entry.nuid)
    await db(lambda store: store.journal_remove(done))


def contents_of(tree: Manifest, open_: Callable[[str], AsyncIterator[bytes]]) -> list[Wanted]:
    """The contents that a snapshot needs in its repository, each once; `open_`: the bytes of a path."""
    first: dict[bytes, str] = {}
    for path, entry in tree.files:
        first.setdefault(entry.digest, path)

    def opening(path: str) -> Callable[[], AsyncIterator[bytes]]:
        return lambda: open_(path)

    return [
        Wanted(content_name(digest), digest, tree.contents[digest], opening(path)) for digest, path in first.items()
    ]


async def _whole(one: Wanted) -> bytes:
    return b"".join([block async for block in one.open()])
