"""What is stored under a name, against the bytes that are wanted there: whole, missing or damaged. Changes nothing.

An object counts as whole when its meta has the wanted digest and size and the store has as many chunks as the meta
says. That its chunks are the right bytes only reading tells (`check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from agent.errors import BadMetaError, ObjectNotFoundError
from agent.objectstore import Bucket, ObjectInfo
from agent.snapshots.many import each

# Chunk sets are counted one by one up to here; beyond, all of the bucket are listed in one go.
_FEW = 32


class Verdict(Enum):
    WHOLE = "whole"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Found:
    """revision: the precondition for writing there."""

    verdict: Verdict
    revision: int
    info: ObjectInfo | None = None


class Stored:
    """Looks at the objects of one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._counts: Mapping[str, int] | None = None

    async def expect(self, objects: int) -> None:
        """So many will be looked at."""
        self._counts = await self.bucket.chunk_subjects() if objects > _FEW else None

    async def look(self, name: str, digest: bytes, size: int) -> Found:
        """What is there, as the stream's leader has it."""
        try:
            info = await self.bucket.info(name, show_deleted=True)
        except ObjectNotFoundError:
            return Found(Verdict.MISSING, 0)
        except BadMetaError as error:
            return Found(Verdict.DAMAGED, error.revision)
        if info.deleted:
            return Found(Verdict.MISSING, info.revision)
        right = info.link is None and info.digest == digest and info.size == size
        whole = right and await self._has_chunks(info)
        return Found(Verdict.WHOLE if whole else Verdict.DAMAGED, info.revision, info)

    async def _has_chunks(self, info: ObjectInfo) -> bool:
        if not info.chunks:
            return info.size == 0
        if self._counts is not None and self._counts.get(info.nuid) == info.chunks:
            return True
        return await self.bucket.chunk_count(info.nuid) == info.chunks  # it may be newer than the listing

    async def complaints(self, wanted: Mapping[str, tuple[bytes, int]]) -> list[str]:
        """What isn't whole of these objects (name -> digest, size), in words."""
        await self.expect(len(wanted))
        told: list[str] = []

        async def look(name: str) -> None:
            found = await self.look(name, *wanted[name])
            if found.verdict is not Verdict.WHOLE:
                told.append(f"{name} is {found.verdict.value}")

        await each(wanted, look)
        return sorted(told)
