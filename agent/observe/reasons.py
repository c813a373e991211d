"""The closed list of error reasons: the label of `jetsync_errors_total`, and `reason` in status and JSON.

It is every problem that a path can have (core.entries.Reason without those skipped on purpose), and what can go wrong
with the server, the bucket, the directory as a whole and the agent itself. Closed, because each value is a time series
from the start: an alert on `increase(...)` must see the first error, and no error text ever becomes a label.
"""

from __future__ import annotations

import errno
from enum import StrEnum

from agent import errors
from agent.core.entries import Reason


class ErrorReason(StrEnum):
    # A path's problem: the values of core.entries.Reason.
    UNREADABLE = "unreadable"
    UNWRITABLE = "unwritable"
    NOT_UTF8 = "not_utf8"
    INVALID_NAME = "invalid_name"
    NAME_TOO_LONG = "name_too_long"
    CASE_CLASH = "case_clash"
    STRUCTURE_CLASH = "structure_clash"
    LINK_OUTSIDE = "link_outside"
    OTHER_FILE_SYSTEM = "other_file_system"
    CHANGING = "changing"
    BAD_META = "bad_meta"
    BAD_DIGEST = "bad_digest"
    MISSING_CHUNKS = "missing_chunks"
    BROKEN_LINK = "broken_link"
    BUCKET_FULL = "bucket_full"
    NO_SPACE = "no_space"
    # The server and the bucket.
    CONNECT = "connect"
    NOT_ALLOWED = "not_allowed"
    UNAVAILABLE = "unavailable"  # time-out, disconnect, no responders
    UNKNOWN_OUTCOME = "unknown_outcome"  # a write whose answer never came
    BUCKET_MISSING = "bucket_missing"
    BUCKET_REPLACED = "bucket_replaced"
    BUCKET = "bucket"  # anything else about the bucket as a whole
    SEALED = "sealed"
    REVISION = "revision"  # somebody else wrote first
    OBJECT_MISSING = "object_missing"
    STORE = "store"  # anything else about the store
    # Snapshots.
    MANIFEST = "manifest"  # it isn't one, or lies
    CHANNEL = "channel"  # it leads nowhere, or its record isn't to be trusted
    REFUSED = "refused"  # a command said no, or something of a user's is in the way
    SNAPSHOT = "snapshot"  # anything else about a snapshot as a whole
    # The directory, the state and the agent.
    ROOT = "root"
    STALE = "stale"  # the path was not as expected any more
    DIRECTORY = "directory"  # anything else about the directory
    STATE = "state"
    LOCKED = "locked"
    HALTED = "halted"  # a mapping stopped for safety
    INTERNAL = "internal"  # a bug


# The first class that fits counts: special ones stand before their bases.
_REASONS: tuple[tuple[type[BaseException], ErrorReason], ...] = (
    (errors.NotAllowedError, ErrorReason.NOT_ALLOWED),
    (errors.ConnectError, ErrorReason.CONNECT),
    (errors.UnknownOutcomeError, ErrorReason.UNKNOWN_OUTCOME),
    (errors.StoreUnavailableError, ErrorReason.UNAVAILABLE),
    (errors.BucketNotFoundError, ErrorReason.BUCKET_MISSING),
    (errors.BucketReplacedError, ErrorReason.BUCKET_REPLACED),
    (errors.SealedError, ErrorReason.SEALED),
    (errors.StoreFullError, ErrorReason.BUCKET_FULL),
    (errors.BucketError, ErrorReason.BUCKET),
    (errors.ObjectNotFoundError, ErrorReason.OBJECT_MISSING),
    (errors.ObjectExistsError, ErrorReason.REVISION),
    (errors.RevisionError, ErrorReason.REVISION),
    (errors.ObjectNameError, ErrorReason.INVALID_NAME),
    (errors.BadMetaError, ErrorReason.BAD_META),
    (errors.ChunksError, ErrorReason.MISSING_CHUNKS),
    (errors.DigestError, ErrorReason.BAD_DIGEST),
    (errors.LinkError, ErrorReason.BROKEN_LINK),
    (errors.StoreError, ErrorReason.STORE),
    (errors.ManifestError, ErrorReason.MANIFEST),
    (errors.ChannelError, ErrorReason.CHANNEL),
    (errors.RefusedError, ErrorReason.REFUSED),
    (errors.LostRaceError, ErrorReason.REVISION),
    (errors.SnapshotError, ErrorReason.SNAPSHOT),
    (errors.RootError, ErrorReason.ROOT),
    (errors.StaleError, ErrorReason.STALE),
    (errors.SpaceError, ErrorReason.NO_SPACE),
    (errors.DirectoryError, ErrorReason.DIRECTORY),
    (errors.HaltError, ErrorReason.HALTED),
    (errors.StateError, ErrorReason.STATE),
    (errors.LockedError, ErrorReason.LOCKED),
    (TimeoutError, ErrorReason.UNAVAILABLE),
    (PermissionError, ErrorReason.UNREADABLE),
)

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

# What says that stored or transferred bytes are not what they should be: `jetsync_integrity_failures_total`.
INTEGRITY = frozenset({ErrorReason.BAD_DIGEST, ErrorReason.MISSING_CHUNKS, ErrorReason.MANIFEST})


def reason_of(error: BaseException) -> ErrorReason:
    """The reason that an exception counts as; what isn't known is `internal`."""
    if isinstance(error, errors.PathError):
        return of_problem(error.reason)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return ErrorReason.NO_SPACE
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), ErrorReason.INTERNAL)


def of_problem(reason: Reason | str) -> ErrorReason:
    """The same for the reason of an obstacle. (A path skipped on purpose is no error and has none: `internal`.)"""
    try:
        return ErrorReason(str(reason))
    except ValueError:
        return ErrorReason.INTERNAL
