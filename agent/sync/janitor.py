"""What is cleaned up behind the work: chunks that no meta names, staging files, the trash.

Every upload's nuid is in the journal before its first chunk, and leaves it with the commit of its outcome. What a crash
or a lost connection leaves there is decided by a fresh read of the name's meta (DESIGN section 6):

    the meta has our nuid                     the upload was successful: forget the entry
    the revision isn't the expected one       our meta can never be accepted any more: purge the chunks
    otherwise, after 5 minutes                nobody is sending any more: purge the chunks

Old chunks (of an object that we overwrote or deleted) are purged 30 s after the new meta, so that readers can finish,
and only when no live meta is known to have their nuid (a rename keeps it).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container

from agent.config.model import Mapping
from agent.directory import Directory
from agent.errors import JetsyncError, ObjectNotFoundError, StoreUnavailableError
from agent.objectstore import Bucket
from agent.state import JournalEntry
from agent.sync.db import Db

ORPHAN_SECONDS = 300
# Entries of an earlier process: whatever it had sent has arrived or never will.
DEAD_PROCESS_SECONDS = 30
PURGES_AT_ONCE = 32
TIDY_SECONDS = 10.0
TRASH_SECONDS = 600.0


class Janitor:
    def __init__(
        self, *, config: Mapping, bucket: Bucket, directory: Directory, db: Db, active: Container[str]
    ) -> None:
        self._config = config
        self._bucket = bucket
        self._directory = directory
        self._db = db
        self._active = active
        self._started_ns = time.time_ns()
        self._lock = asyncio.Lock()
        self._trash_at = 0.0

    async def start(self) -> None:
        """Before the first action: staging files of an earlier process are of no use."""
        if not self._directory.read_only:
            await asyncio.to_thread(self._directory.sweep_staging)

    async def run(self) -> None:
        """Tidy at intervals, for as long as the session lives."""
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            await self.tidy()

    async def tidy(self) -> None:
        """Purge what is due and expire the trash. Errors of the store leave the entries for the next time."""
        async with self._lock:
            try:
                await self._purge_due()
            except StoreUnavailableError:
                return
        if not self._directory.read_only and time.monotonic() >= self._trash_at:
            self._trash_at = time.monotonic() + TRASH_SECONDS
            await asyncio.to_thread(self._directory.trash.expire, time.time())

    async def _purge_due(self) -> None:
        now = time.time_ns()
        journal = await self._db(lambda store: store.journal_all())
        entries = [entry for entry in journal if entry.due_ns <= now and entry.nuid not in self._active]
        limit = asyncio.Semaphore(PURGES_AT_ONCE)

        async def one(entry: JournalEntry) -> str | None:
            async with limit:
                return entry.nuid if await self._decide(entry, now) else None

        done = [nuid for nuid in await asyncio.gather(*map(one, entries)) if nuid]
        if done:
            await self._db(lambda store: store.journal_remove(done))

    async def _decide(self, entry: JournalEntry, now: int) -> bool:
        """Whether the entry is settled; purges its chunks when they are nobody's."""
        try:
            if entry.kind == "upload" and not await self._is_lost(entry, now):
                return await self._succeeded(entry)
            if await self._db(lambda store: store.find_nuid(entry.nuid)):
                return entry.kind == "upload"
            await self._bucket.purge_chunks(entry.nuid)
        except StoreUnavailableError:
            raise
        except JetsyncError:
            return False
        return True

    async def _succeeded(self, entry: JournalEntry) -> bool:
        try:
            info = await self._bucket.info(entry.name)
        except ObjectNotFoundError:
            return False
        return info.nuid == entry.nuid

    async def _is_lost(self, entry: JournalEntry, now: int) -> bool:
        """Whether the upload under this nuid can't become visible any more."""
        try:
            info = await self._bucket.info(entry.name, show_deleted=True)
            if info.nuid == entry.nuid and not info.deleted:
                return False
            if info.revision != entry.expected_revision:
                return True
        except ObjectNotFoundError:
            pass
        age = (now - entry.created_ns) / 1e9
        earlier_process = entry.created_ns < self._started_ns
        return age > (DEAD_PROCESS_SECONDS if earlier_process else ORPHAN_SECONDS)
