"""What an action's error means: what to look at again, what the path is left as, which chunks nobody needs.

STALE is an expectation that didn't hold: both sides of the paths are looked at again, and the next plan decides anew.
FAILED is everything else. Damaged content makes the remote side an obstacle until it changes; a full disk or bucket and
a path that can't be written are named by their reason, held back, and tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.core.entries import Obstacle, Reason, Row
from agent.core.plan import Action, Verb
from agent.errors import (
    ChunksError,
    DigestError,
    JetsyncError,
    LinkError,
    ObjectNameError,
    ObjectNotFoundError,
    PathError,
    RevisionError,
    ShortageError,
    SpaceError,
    StoreFullError,
)
from agent.objectstore import Bucket
from agent.sync.outcome import Change, OldChunks, Outcome, Result
from agent.sync.remote import Scope, remote_of

# What a failure of the remote side's content means for the path, until a new revision comes.
_REMOTE_PROBLEMS: dict[type[JetsyncError], Reason] = {
    DigestError: Reason.BAD_DIGEST,
    ChunksError: Reason.MISSING_CHUNKS,
    LinkError: Reason.BROKEN_LINK,
}


class Failures:
    """Makes the outcomes of actions that were not applied."""

    def __init__(self, *, bucket: Bucket, scope: Callable[[], Scope]) -> None:
        self._bucket = bucket
        self._scope = scope

    async def stale(self, action: Action, error: JetsyncError, nuid: str | None) -> Outcome:
        """Somebody was faster: look at both sides of the paths again."""
        outcome = Outcome(action, Result.STALE, error=error)
        outcome.look = list(outcome.paths)
        if isinstance(error, RevisionError | ObjectNotFoundError):
            rows = [action.row, *([action.to_row] if action.to_row else [])]
            for row in rows:
                await self._look_at_remote(row, outcome)
        outcome.old_chunks = self._refused(action, nuid)
        return outcome

    def _refused(self, action: Action, nuid: str | None) -> list[OldChunks]:
        """The chunks of an upload that can't become visible. `put` has purged them if it could: the journal knows."""
        return [OldChunks(nuid, self._scope().name_of(action.row.path), unread=True)] if nuid else []

    async def _look_at_remote(self, row: Row, outcome: Outcome) -> None:
        """Bring the name's newest meta, as the leader has it, into the outcome."""
        change = Change(row.path, seen=row.revision, dirty=True)
        try:
            info = await self._bucket.info(self._scope().name_of(row.path), show_deleted=True)
            remote = remote_of(info, row.path, self._scope())
            if not remote.via_link:  # which has to be resolved: the follower brings it
                change = replace(change, remote=remote)
        except ObjectNotFoundError:
            if row.revision:
                outcome.vanished.append(row.path)
        except JetsyncError:
            pass  # the follower tells, sooner or later
        outcome.changes.append(change)

    def failed(self, action: Action, error: JetsyncError, nuid: str | None) -> Outcome:
        outcome = Outcome(action, Result.FAILED, error=error)
        outcome.old_chunks = self._refused(action, nuid)
        row = action.row
        reason = _REMOTE_PROBLEMS.get(type(error))
        if reason and row.remote and action.verb in (Verb.DOWNLOAD, Verb.CONFLICT_COPY):
            outcome.reason = reason.value
            damaged = replace(row.remote, side=Obstacle(reason, str(error)))
            outcome.changes = [Change(row.path, remote=damaged, seen=row.revision, dirty=True)]
        elif isinstance(error, PathError):
            outcome.reason = error.reason
            outcome.look = list(outcome.paths)
        elif isinstance(error, ObjectNameError):  # a path that is none has been a problem before; the prefix is long
            outcome.reason = Reason.NAME_TOO_LONG.value
        elif isinstance(error, StoreFullError):
            outcome.reason = Reason.BUCKET_FULL.value
        elif isinstance(error, SpaceError) and not isinstance(error, ShortageError):
            outcome.reason = Reason.NO_SPACE.value
        return outcome
