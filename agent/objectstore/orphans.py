"""Chunks that no meta names: left by a crash between chunks and meta, or between a meta and the purge of old chunks.

The server tells all chunk subjects with their numbers of messages, sorted, a hundred thousand for each request; what is
in memory is one such page, whatever the bucket holds. A chunk says nothing of the object that it belongs to, so that
it is an orphan follows from the metas alone, and whoever knows those decides: this module finds and measures.

A nuid may be purged (DESIGN 6, PROTOCOL 3h) when its last chunk is older than a grace time by the server's own clock,
no meta names it in a read that is newer than the page, and nobody is at work on it here. The purge ends at the last
chunk that was seen: what arrives later survives.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.errors import ObjectNotFoundError
from agent.objectstore import chunks, commit, subjects
from agent.objectstore.times import parse_time_ns

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket


@dataclass(frozen=True, slots=True)
class Orphan:
    """The chunks of one nuid. bytes: from the sizes of the first and the last one, which is exact unless a client wrote
    chunks of uneven sizes. last_seq, last_time_ns: of the last chunk, as the server has it."""

    nuid: str
    chunks: int
    bytes: int
    last_seq: int
    last_time_ns: int


class ChunkPages:
    """All nuids that have chunks, page by page: `while (page := await pages.next()) is not None`.

    Not a snapshot. Pages are cut by position: what others write or purge meanwhile may make a nuid appear twice, or
    not at all; the next time it is there.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._offset = 0
        self._ended = False

    async def next(self) -> dict[str, int] | None:
        """nuid -> number of chunks; None at the end. A nuid that isn't one (`subjects.is_nuid`) may be among them.

        Raises StoreUnavailableError, BucketNotFoundError.
        """
        if self._ended:
            return None
        page, total = await chunks.page(self._bucket, offset=self._offset)
        self._offset += len(page)
        self._ended = not page or self._offset >= total
        return page or None

    def purged(self, count: int) -> None:
        """So many nuids of the pages so far are gone: the next page begins that much earlier."""
        self._offset -= count


async def measure(bucket: Bucket, nuid: str, count: int) -> Orphan | None:
    """What the chunks of a nuid are; None when there are none any more. Raises BadMetaError when it isn't a nuid."""
    last = await chunks.last(bucket, nuid)
    if last is None:
        return None
    size = len(last.data)
    if count > 1:
        size += (count - 1) * await _first_size(bucket, nuid, default=size)
    return Orphan(nuid, count, size, last.revision, last.time_ns)


async def purge(bucket: Bucket, orphan: Orphan) -> int:
    """Remove the chunks that were measured, and none that came later; returns how many there were."""
    return await chunks.purge(bucket, orphan.nuid, up_to=orphan.last_seq)


async def server_time_ns(bucket: Bucket) -> int:
    """The server's clock (from 2.10 on it tells it; ours before that), in nanoseconds since 1970."""
    info = await bucket.connection.api(f"STREAM.INFO.{bucket.stream}", what=f"look at bucket {bucket.name!r}")
    return parse_time_ns(str(info.get("ts", ""))) or time.time_ns()


async def _first_size(bucket: Bucket, nuid: str, *, default: int) -> int:
    try:
        return len((await commit.first(bucket, subjects.chunk_subject(bucket.name, nuid))).data)
    except ObjectNotFoundError:
        return default
