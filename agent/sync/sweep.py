"""The orphan chunks of a bucket: found, counted, and on demand purged. A part of `verify`.

Which nuids are named is known to the rows (and to the other names of the bucket), as soon as the metas have been
followed beyond what is asked about. So for each page of chunk subjects: the page is read, then the newest revision of
all; when the rows have come to there, what they don't name is nobody's. Our own uploads are in the journal, and those
of the agent's other mappings in `journalled`; they are no orphans.

Before each purge the newest revision is read again, and waited for, and the rows are asked again: a meta that names
the nuid by then keeps it.

# RACE: a client that has sent its last chunk longer than the grace time ago may publish its meta in the milliseconds
# between that look and the purge. It has a damaged object then, which it can put again; verify finds it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field

from agent.errors import BucketError, JetsyncError, NotAllowedError, StoreUnavailableError
from agent.objectstore import Bucket
from agent.objectstore.orphans import ChunkPages, Orphan, measure, purge, server_time_ns
from agent.objectstore.subjects import is_nuid
from agent.sync.db import Db

# Orphans measured or purged at once.
AT_ONCE = 32
# Until the rows have come to what the server had (seconds), and how often that is looked at.
FOLLOWED = 60.0
_LOOK = 0.05
_SECOND = 1_000_000_000


@dataclass(slots=True)
class Swept:
    """nuids, chunks, bytes: of orphans. young: nuids of those that are within the grace time. purged: chunks."""

    nuids: int = 0
    chunks: int = 0
    bytes: int = 0
    young: int = 0
    purged: int = 0
    errors: list[str] = field(default_factory=list)


class Sweep:
    """One pass over the chunks of a bucket. busy: nuids of our uploads under way."""

    def __init__(
        self,
        *,
        bucket: Bucket,
        db: Db,
        grace: float,
        busy: Collection[str],
        journalled: Callable[[], Awaitable[Collection[str]]] | None,
    ) -> None:
        self._bucket = bucket
        self._db = db
        self._grace = grace
        self._busy = busy
        self._journalled = journalled
        self._result = Swept()

    async def run(self, *, repair: bool) -> Swept:
        """Go through all chunks. With `repair` what is nobody's and old is purged, unless the bucket is sealed, or a
        mirror, whose metas may be behind its chunks for any time.

        :raises StoreUnavailableError, BucketNotFoundError
        """
        purges = repair and not self._bucket.sealed and self._bucket.origin is None
        pages = ChunkPages(self._bucket)
        while (page := await pages.next()) is not None:
            now_ns = await server_time_ns(self._bucket)
            unknown = sorted(page.keys() - await self._known(page))
            for at in range(0, len(unknown), AT_ONCE):
                lot = {nuid: page[nuid] for nuid in unknown[at : at + AT_ONCE]}
                orphans = await self._measured(lot)
                old = [orphan for orphan in orphans if orphan.last_time_ns < now_ns - self._grace * _SECOND]
                self._result.young += len(orphans) - len(old)
                if purges and old:
                    purged = await self._purge(old)
                    pages.purged(purged)
        return self._result

    async def _known(self, nuids: Iterable[str]) -> set[str]:
        """Those of the nuids that a meta names, or that are our own business."""
        await self._follow()
        given = list(nuids)
        journal = {entry.nuid for entry in await self._db(lambda store: store.journal_all())}
        ours = {*journal, *self._busy, *(await self._journalled() if self._journalled else ())}
        named = await self._db(lambda store: store.known_nuids(given))
        return named | ours.intersection(given)

    async def _follow(self) -> None:
        """Wait until the rows have every meta that the server has now.

        :raises StoreUnavailableError: they don't come
        """
        newest = await self._bucket.newest_revision()
        deadline = time.monotonic() + FOLLOWED
        while await self._db(lambda store: store.cursor) < newest:
            if time.monotonic() > deadline:
                raise StoreUnavailableError(f"the metas of bucket {self._bucket.name!r} don't come")
            await asyncio.sleep(_LOOK)

    async def _measured(self, lot: dict[str, int]) -> list[Orphan]:
        """The orphans of a lot, counted into the result."""

        async def one(nuid: str, count: int) -> Orphan | None:
            if not is_nuid(nuid):
                self._result.errors.append(
                    f"chunks under {nuid[:100]!r}, which can't be a nuid; purge that subject by hand"
                )
                return Orphan(nuid, count, 0, 0, 1 << 63)  # never old: nothing is purged by such a name
            return await measure(self._bucket, nuid, count)

        found = await asyncio.gather(*(one(nuid, count) for nuid, count in lot.items()))
        orphans = [orphan for orphan in found if orphan is not None]
        self._result.nuids += len(orphans)
        self._result.chunks += sum(orphan.chunks for orphan in orphans)
        self._result.bytes += sum(orphan.bytes for orphan in orphans)
        return orphans

    async def _purge(self, orphans: list[Orphan]) -> int:
        """Purge what is nobody's still; how many nuids that were."""
        known = await self._known([orphan.nuid for orphan in orphans])
        counts: list[int] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(purge(self._bucket, orphan), name=f"purge {orphan.nuid}")
                    for orphan in orphans
                    if orphan.nuid not in known
                ]
            counts = [task.result() for task in tasks]
        except* (BucketError, NotAllowedError) as errors:
            self._result.errors.append(f"orphan chunks can't be purged: {_first(errors)}")
        self._result.purged += sum(counts)
        return sum(count > 0 for count in counts)


def _first(group: BaseExceptionGroup[JetsyncError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
