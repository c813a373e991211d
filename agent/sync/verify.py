"""`verify`: read every byte of a mapping, on both sides, and say what isn't what it should be.

The skeleton; see `verify`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from agent.config.model import Mapping
from agent.directory import Directory
from agent.objectstore import Bucket
from agent.sync.batches import Batches
from agent.sync.db import Db
from agent.sync.local import Step
from agent.sync.remote import Scope

# Chunks that no meta names are purged when none of them is younger than this (seconds, by the server's clock): longer
# than any upload is still between two chunks.
GRACE_SECONDS = 24 * 3600.0

OK, DAMAGED, REPAIRED, FAILED = "ok", "damaged", "repaired", "failed"


@dataclass(frozen=True, slots=True)
class Damage:
    """A path that isn't what it should be; `reason` is a sentence for people."""

    path: str
    reason: str


@dataclass(slots=True)
class VerifyReport:
    """What a verification found and mended.

    state: ok; damaged (something is, and stays so); repaired (all that was damaged is whole again); failed (it could
    not be brought to its end, or something couldn't be read: `errors`). checked_files, checked_objects: how many were
    read to their end. bytes_local, bytes_remote: bytes read. orphans: chunks that no meta names ("young": nuids that
    are still within the grace time; "bytes" from the sizes of the first and the last chunk). Orphans are no damage.
    repaired: paths. purged: chunks.
    """

    name: str
    state: str = OK
    checked_files: int = 0
    checked_objects: int = 0
    bytes_local: int = 0
    bytes_remote: int = 0
    damaged_files: list[Damage] = field(default_factory=list)
    damaged_objects: list[Damage] = field(default_factory=list)
    orphan_nuids: int = 0
    orphan_chunks: int = 0
    orphan_bytes: int = 0
    orphans_young: int = 0
    repaired: list[str] = field(default_factory=list)
    purged: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: whole, or made so; 3: damage is left; 1: not brought to its end."""
        return {OK: 0, REPAIRED: 0, DAMAGED: 3}.get(self.state, 1)

    def as_json(self) -> dict[str, Any]:
        """The document of `jetsync verify --json`, one for each mapping."""
        return {
            "name": self.name,
            "state": self.state,
            "checked_files": self.checked_files,
            "checked_objects": self.checked_objects,
            "bytes_local": self.bytes_local,
            "bytes_remote": self.bytes_remote,
            "damaged_files": [{"path": found.path, "reason": found.reason} for found in self.damaged_files],
            "damaged_objects": [{"path": found.path, "reason": found.reason} for found in self.damaged_objects],
            "orphans": {
                "nuids": self.orphan_nuids,
                "chunks": self.orphan_chunks,
                "bytes": self.orphan_bytes,
                "young": self.orphans_young,
            },
            "repaired": self.repaired,
            "purged": self.purged,
            "errors": self.errors,
        }


async def verify(
    *,
    config: Mapping,
    directory: Directory,
    bucket: Bucket,
    db: Db,
    scope: Callable[[], Scope],
    batches: Batches,
    call: Callable[[Step], Awaitable[None]],
    repair: bool,
    grace: float = GRACE_SECONDS,
    progress: Callable[[int], None] = lambda _: None,
    journalled: Callable[[], Awaitable[Collection[str]]] | None = None,
) -> VerifyReport:
    """Read every local file and every object of the mapping, and look for chunks that no meta names.

    All of a running session: `Session.directory`, its bucket, db, `Session.scope` (the method), `Session.batches` and
    `Session.call`; best called when it has settled. The session goes on meanwhile: a path with an action under way is
    left for later, and a row that changes is checked anew. With `repair` what is damaged on one side is made equal to
    the whole one, by the session's own plans (so nothing is repaired while the mapping is halted or paused), and
    chunks that no meta names are purged when all of them are older than `grace` seconds.

    progress: called with the number of bytes read since the last call. journalled: the nuids in the journals of the
    agent's other mappings of this bucket, which are never purged either.

    Cancelling it is safe at any time. Errors of single paths are in the report.

    :raises JetsyncError: the session ended, or the bucket is away
    """
    raise NotImplementedError
