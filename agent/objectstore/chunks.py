"""The chunks of a nuid: counting, listing and purging them (PROTOCOL 3h).

A purge takes a filter, and a filter that isn't one literal subject would take other objects with it; so the nuid is
checked by `subjects.chunk_subject` each time. Whether a nuid may be purged at all is the caller's knowledge (DESIGN 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.errors import ObjectNotFoundError, StoreError
from agent.objectstore import commit, subjects

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

TIMEOUT = 10.0
"""The server walks its index for these: with millions of messages that takes longer than other requests."""


async def count(bucket: Bucket, nuid: str) -> int:
    """How many chunks the nuid has in the stream, as its leader says."""
    subject = subjects.chunk_subject(bucket.name, nuid)
    counts, _ = await _subjects(bucket, subject, offset=0)
    return counts.get(subject, 0)


async def by_nuid(bucket: Bucket) -> dict[str, int]:
    """nuid -> number of chunks, for all in the bucket: 100,000 for each request.

    Not a snapshot: what is written or purged meanwhile may or may not be in it.
    """
    found: dict[str, int] = {}
    offset = 0
    while True:
        counts, total = await page(bucket, offset=offset)
        found.update(counts)
        offset += len(counts)
        if not counts or offset >= total:
            return found


async def page(bucket: Bucket, *, offset: int) -> tuple[dict[str, int], int]:
    """nuid -> number of chunks, for up to 100,000 nuids from a position on; and how many nuids there are in all."""
    prefix = subjects.all_chunks(bucket.name).removesuffix(">")
    counts, total = await _subjects(bucket, f"{prefix}>", offset=offset)
    return {subject[len(prefix) :]: number for subject, number in counts.items()}, total


async def last(bucket: Bucket, nuid: str) -> commit.Stored | None:
    """The last chunk of the nuid (its `time_ns` says how long an upload has been still); None when it has none."""
    try:
        return await commit.newest(bucket, subjects.chunk_subject(bucket.name, nuid))
    except ObjectNotFoundError:
        return None


async def purge(bucket: Bucket, nuid: str, *, up_to: int | None = None) -> int:
    """Remove the chunks of the nuid, or only those up to the stream sequence `up_to`; returns how many there were.

    Raises SealedError on a sealed bucket. A mirror may be purged: that is the only way its old chunks ever go.
    """
    body: dict[str, Any] = {"filter": subjects.chunk_subject(bucket.name, nuid)}
    if up_to is not None:
        body["seq"] = up_to + 1
    answer = await bucket.connection.api(
        f"STREAM.PURGE.{bucket.stream}", body, what=f"purge chunks in bucket {bucket.name!r}", timeout=TIMEOUT
    )
    purged = answer.get("purged", 0)
    return purged if isinstance(purged, int) else 0


async def _subjects(bucket: Bucket, pattern: str, *, offset: int) -> tuple[dict[str, int], int]:
    """One page of subject -> messages, and the total number of subjects."""
    answer = await bucket.connection.api(
        f"STREAM.INFO.{bucket.stream}",
        {"subjects_filter": pattern, "offset": offset},
        what=f"count chunks in bucket {bucket.name!r}",
        timeout=TIMEOUT,
    )
    state = answer.get("state")
    if not isinstance(state, dict):
        raise StoreError(f"the answer to STREAM.INFO.{bucket.stream} has no state")
    counts = state.get("subjects") or {}
    total = answer.get("total", len(counts))
    return counts, total if isinstance(total, int) else len(counts)
