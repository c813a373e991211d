"""What an old server leaves out of a consumer's messages, and where to find it.

When a message on one subject is rolled up or purged, nats-server up to 2.9.11 moves every consumer whose filter matches
that subject on to the newest message of the subject. What other subjects have before it, and what wasn't delivered
yet, is never delivered then: the consumer's sequence has no gap and nothing is pending. Every put of an object is a
rollup, so two clients that write at once are enough. (nats-server#3838; the tag v2.9.12 has the fix, v2.9.11 hasn't.)

Only the stream itself tells. So each space between two delivered metas, and what stands behind the last one, is read
from the stream's leader: the next meta behind a sequence is the one that we have, or one that was left out. Metas that
stand side by side (empty objects) need no read, and neither do those of a "last_per_subject" consumer: it has made a
list of them, which no purge touches. A consumer that has left out many is not made up for by reading: what was found
is given, and a new consumer starts behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.errors import JetsyncError
from agent.objectstore import commit
from agent.objectstore.commit import Stored

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

FIXED = (2, 9, 12)
_UNKNOWN = (2, 10, 0)
"""What `Bucket.server_version` is at most when a JetStream domain hides the server: that may be any older one."""
ENOUGH = 256
"""So many metas were left out that a new consumer is cheaper than reading on (measured: with 64 it is not)."""
_AT_ONCE = 64


def possible(bucket: Bucket) -> bool:
    """Whether the bucket's server leaves messages out, or may be one that does."""
    version = bucket.server_version
    return version < FIXED or (bool(bucket.connection.domain) and version <= _UNKNOWN)


async def left_out(bucket: Bucket, subject: str, after: int, given: Sequence[int], last: int | None) -> list[Stored]:
    """The metas on `subject` (one, or all) behind the sequence `after`, up to `last` (None: the end), not at
    the sequences `given`.

    In the stream's order. ENOUGH or more: there may be others behind the last of them.

    Raises StoreUnavailableError, BucketNotFoundError, NotAllowedError.
    """
    starts = [max(after, start) for start in (after, *given)]
    ends = [*(revision - 1 for revision in given), last]
    spaces = [(start, end) for start, end in zip(starts, ends, strict=True) if end is None or start < end]
    found: list[Stored] = []
    for first in range(0, len(spaces), _AT_ONCE):
        for part in await _read_all(bucket, subject, spaces[first : first + _AT_ONCE]):
            found += part
            if len(found) >= ENOUGH:
                return found
    return found


async def _read_all(bucket: Bucket, subject: str, spaces: list[tuple[int, int | None]]) -> list[list[Stored]]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_read(bucket, subject, *space), name="look for metas left out") for space in spaces
            ]
    except* JetsyncError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _read(bucket: Bucket, subject: str, start: int, end: int | None) -> list[Stored]:
    found: list[Stored] = []
    while len(found) < ENOUGH and (end is None or start < end):
        stored = await commit.following(bucket, subject, start)
        if stored is None or (end is not None and stored.revision > end):
            break
        found.append(stored)
        start = stored.revision
    return found
