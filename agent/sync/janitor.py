"""What is cleaned up behind the work: chunks that no meta names, staging files, the trash.

Every upload's nuid is in the journal before its first chunk. A commit of its outcome takes it out when the upload
succeeded, and makes it an entry of old chunks, due at once, when the store has refused its meta. What a crash, a lost
connection or an unknown outcome leaves there is decided by a fresh read of the name's meta (DESIGN section 6):

    the meta has our nuid                     the upload was successful: forget the entry
    the revision isn't the expected one       our meta can never be accepted any more: purge the chunks
    otherwise, after 5 minutes                nobody is sending any more: purge the chunks

The time counts from when nobody worked on the upload any more. Old chunks (of an object that we overwrote or deleted)
are purged 30 s after the new meta, so that readers can finish; at once when the bucket is full. They are in the journal
before that meta is sent, and are forgotten when they still have a name after 5 minutes.

No chunk is purged that a meta may name: another client may have renamed the object, and the nuid with it. So nothing is
purged before the metas have been followed to the newest of all, and no known name has the nuid then.

An upload that may go on (`resume`) is waited for: its chunks stay for a day while its file and its name are as they
were. So do the partial files of downloads, while they are wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from contextlib import suppress

from agent.config.model import Mapping
from agent.directory import Directory
from agent.errors import JetsyncError, ObjectNotFoundError, StoreUnavailableError
from agent.objectstore import Bucket
from agent.state import JournalEntry
from agent.sync import resume
from agent.sync.db import Db

ORPHAN_SECONDS = 300
# Entries of an earlier session: whatever it had sent has arrived or never will.
DEAD_SESSION_SECONDS = 30
PURGES_AT_ONCE = 32
TIDY_SECONDS = 10.0
TRASH_SECONDS = 600.0


class Janitor:
    """Of one session. `active`: the nuids of uploads under way, which are left alone."""

    def __init__(
        self,
        *,
        config: Mapping,
        bucket: Bucket,
        directory: Directory,
        db: Db,
        active: Container[str],
        known: Callable[[], bool] = lambda: True,
    ) -> None:
        """known: whether the rows have every name of the bucket by now."""
        self._config = config
        self._bucket = bucket
        self._directory = directory
        self._db = db
        self._active = active
        self._known = known
        self._started = time.monotonic()
        self._started_ns = time.time_ns()
        self._idle_since: dict[str, float] = {}  # nuid -> when nobody worked on it any more
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._trash_at = 0.0
        self._no_room = False

    async def start(self) -> None:
        """Before the first action: what an earlier process has left in staging is of no use, but for partials."""
        if not self._directory.read_only:
            await asyncio.to_thread(self._directory.sweep_staging)

    async def run(self) -> None:
        """Tidy at intervals, for as long as the session lives."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TIDY_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            await self.tidy()

    def wake(self) -> None:
        """Have `run` tidy now."""
        self._wake.set()

    def make_room(self, *, disk: bool) -> None:
        """The bucket is full, or the `disk`: have `run` tidy now, and give what can be given."""
        self._no_room = self._no_room or disk
        self._wake.set()

    async def tidy(self) -> None:
        """Purge what is due, expire and trim the trash. Errors of the store leave the entries for the next time."""
        async with self._lock:
            with suppress(StoreUnavailableError):
                await self._purge_due()
        await self._drop_partials()
        if not self._directory.read_only:
            await asyncio.to_thread(self._tidy_disk)

    def _tidy_disk(self) -> None:
        """In a thread: the trash within its age and its size; nothing that only waits is kept on a full disk."""
        if time.monotonic() >= self._trash_at:
            self._trash_at = time.monotonic() + TRASH_SECONDS
            self._directory.trash.expire(time.time())
        no_room, self._no_room = self._no_room, False
        room = self._directory.space.look()
        self._directory.trash.trim(room, now=no_room)
        if room.low:
            self._directory.partials.drop(self._directory.partials.kept())

    async def _drop_partials(self) -> None:
        if self._directory.read_only or not self._known():
            return
        kept = await asyncio.to_thread(self._directory.partials.kept)
        if kept:
            unwanted = await self._db(lambda store: resume.unwanted(store, kept, time.time()))
            await asyncio.to_thread(self._directory.partials.drop, unwanted)

    async def _purge_due(self) -> None:
        now = time.time_ns()
        journal = await self._db(lambda store: store.journal_all())
        entries = [entry for entry in journal if entry.due_ns <= now and entry.nuid not in self._active]
        limit = asyncio.Semaphore(PURGES_AT_ONCE)

        async def one(entry: JournalEntry) -> str | None:
            async with limit:
                return entry.nuid if await self._decide(entry) else None

        self._note_idle(entries)
        results = await asyncio.gather(*map(one, entries), return_exceptions=True)
        done = [nuid for nuid in results if isinstance(nuid, str)]
        if done:
            await self._db(lambda store: store.journal_remove(done))
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _note_idle(self, entries: list[JournalEntry]) -> None:
        """An entry of this session began to wait when it is met here first, an earlier one's at the session's start."""
        now = time.monotonic()
        self._idle_since = {entry.nuid: self._idle_since.get(entry.nuid, now) for entry in entries}

    async def _decide(self, entry: JournalEntry) -> bool:
        """Whether the entry is settled; purges its chunks when they are nobody's."""
        try:
            lost = entry.kind == "old" or await self._is_lost(entry)
            if lost is None:
                return False
            if not lost:
                return True
            if not await self._is_followed():
                return False
            if await self._db(lambda store: store.find_nuid(entry.nuid)) or await self._is_in_place(entry):
                return entry.kind == "upload" or self._is_aged(entry)
            if entry.kind == "upload" and not await self._db(lambda store: store.journal_give_up(entry)):
                return False  # an upload goes on with it
            await self._bucket.purge_chunks(entry.nuid)
        except StoreUnavailableError:
            raise
        except JetsyncError:
            return False
        return True

    async def _is_in_place(self, entry: JournalEntry) -> bool:
        """Whether the object is still what it was when it was to be replaced. Rows may not know: filters change."""
        if entry.kind != "old":
            return False
        try:
            info = await self._bucket.info(entry.name)
        except ObjectNotFoundError:
            return False
        return info.nuid == entry.nuid

    def _is_aged(self, entry: JournalEntry) -> bool:
        """Whether what was to be replaced or deleted has stayed: whoever replaces it later writes it down again."""
        return not 0 <= time.time_ns() - entry.created_ns < ORPHAN_SECONDS * 1_000_000_000

    async def _is_followed(self) -> bool:
        """Whether every name that the bucket has now is known here."""
        cursor = await self._db(lambda store: store.cursor)
        return not await self._bucket.has_newer(cursor)

    async def _is_lost(self, entry: JournalEntry) -> bool | None:
        """Whether the upload under this nuid can't become visible any more; False: it is visible; None: who knows."""
        try:
            info = await self._bucket.info(entry.name, show_deleted=True)
            if info.nuid == entry.nuid and not info.deleted:
                return False
            if info.revision != entry.expected_revision:
                return True
        except ObjectNotFoundError:
            pass
        age = (time.time_ns() - entry.created_ns) / 1e9
        if 0 <= age < resume.KEPT_SECONDS and await self._db(
            lambda store: resume.is_wanted(store, self._config.prefix, entry)
        ):
            return None
        if entry.created_ns < self._started_ns:
            return time.monotonic() - self._started > DEAD_SESSION_SECONDS or None
        return time.monotonic() - self._idle_since[entry.nuid] > ORPHAN_SECONDS or None
