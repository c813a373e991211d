"""The exception tree. One subtree = one thing a caller would do about it.

    JetsyncError                     exit 1; every error names what happened and, in `remedy`, what to do next
    ├── ConfigError                  78: the file is wrong; carries all of its problems at once
    ├── UsageError                   2: the command line is wrong
    ├── LockedError                  1: another agent holds this state or this root
    ├── ConnectError                 5: no server, or it doesn't let us in
    │   └── NotAllowedError          5: connected, but a permission or JetStream itself is missing
    ├── StoreError                   the remote side
    │   ├── StoreUnavailableError    transient: time-out, disconnect, no responders, server busy
    │   │   └── UnknownOutcomeError  transient: a write was sent and its answer never came: look before acting
    │   ├── BucketError              the bucket as a whole
    │   │   ├── BucketNotFoundError, BucketExistsError, BucketNameError, NotABucketError
    │   │   ├── BucketReplacedError  the stream was deleted and re-created, or went back in time
    │   │   ├── SealedError          the bucket is sealed: no write will ever succeed
    │   │   └── StoreFullError       max_bytes or an account limit is reached (10077 and relatives)
    │   └── ObjectError              one object
    │       ├── ObjectNotFoundError, ObjectExistsError, ObjectNameError
    │       ├── RevisionError        the precondition failed: somebody else wrote first
    │       ├── BadMetaError         the meta message isn't an ADR-20 ObjectInfo
    │       ├── ChunksError          chunks are missing, or their sizes or count lie
    │       ├── DigestError          the bytes don't have the digest that the meta promises
    │       └── LinkError            a link dangles, loops, is too deep, or isn't what was asked for
    ├── DirectoryError               the local side
    │   ├── RootError                the mapping's directory is missing, replaced, or not a directory
    │   ├── StaleError               the path isn't what was expected any more; look again
    │   ├── PathError                a path can't be read, written or represented; carries a Reason
    │   └── SpaceError               no space or quota left on the device
    │       └── ShortageError        too few descriptors or too little memory: says nothing about the device
    ├── SnapshotError                a snapshot as a whole
    │   ├── ManifestError            the manifest isn't one, or lies; nothing of it is used
    │   ├── ChannelError             the channel leads nowhere, or its record isn't to be trusted
    │   │   └── NoChannelError       nothing has been published there yet
    │   ├── RefusedError             a command said no, or something of a user's is in the way: the old one stays
    │   └── LostRaceError            somebody else moved the channel meanwhile
    ├── HaltError                    3: a mapping stopped for safety until a person approves, or the cause goes away
    └── StateError                   the state store can't be opened, is newer than this program, or is corrupt

`transient` says whether trying again later can help; the retry code (sync/retry.py) reads nothing else.
Foreign errors are mapped where they enter (objectstore, directory, state), with `raise ... from exc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class JetsyncError(Exception):
    """Base of all errors that jetsync raises on purpose.

    `message` says what happened and names the path, bucket or file; `remedy` says what a person can do about it
    (may be empty). `str()` gives both.
    """

    exit_code = 1
    transient = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong in the configuration: 1-based `line` and `column`, 0 when there is no position."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(JetsyncError):
    """The configuration is invalid. `problems` has all of them, in the file's order; `str()` is one line for each."""

    exit_code = 78

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class UsageError(JetsyncError):
    exit_code = 2


class LockedError(JetsyncError):
    pass


class ConnectError(JetsyncError):
    exit_code = 5


class NotAllowedError(ConnectError):
    pass


class StoreError(JetsyncError):
    pass


class StoreUnavailableError(StoreError):
    exit_code = 5
    transient = True


class UnknownOutcomeError(StoreUnavailableError):
    pass


class BucketError(StoreError):
    pass


class BucketNotFoundError(BucketError):
    pass


class BucketExistsError(BucketError):
    pass


class BucketNameError(BucketError):
    pass


class NotABucketError(BucketError):
    pass


class BucketReplacedError(BucketError):
    pass


class SealedError(BucketError):
    pass


class StoreFullError(BucketError):
    transient = True


class ObjectError(StoreError):
    pass


class ObjectNotFoundError(ObjectError):
    pass


class ObjectExistsError(ObjectError):
    pass


class ObjectNameError(ObjectError):
    pass


class RevisionError(ObjectError):
    """The compare-and-swap lost. `actual` is the subject's current revision where the server told it, else None."""

    def __init__(self, message: str, *, actual: int | None = None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.actual = actual


class BadMetaError(ObjectError):
    """`revision`: that of the message, 0 where it isn't told: the precondition for putting something right there."""

    def __init__(self, message: str, *, revision: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.revision = revision


class ChunksError(ObjectError):
    pass


class DigestError(ObjectError):
    pass


class LinkError(ObjectError):
    pass


class DirectoryError(JetsyncError):
    pass


class RootError(DirectoryError):
    pass


class StaleError(DirectoryError):
    transient = True


class PathError(DirectoryError):
    """One path can't be handled. `reason`: a value of core.entries.Reason, as text, since errors know no other room."""

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class SpaceError(DirectoryError):
    transient = True


class ShortageError(SpaceError):
    pass


class SnapshotError(JetsyncError):
    pass


class ManifestError(SnapshotError):
    pass


class ChannelError(SnapshotError):
    pass


class NoChannelError(ChannelError):
    pass


class RefusedError(SnapshotError):
    pass


class LostRaceError(SnapshotError):
    pass


class HaltError(JetsyncError):
    """`reason`: a value of core.guards.HaltReason, as text, since errors know no other room. `count`: of the entries
    that would be lost, where they are counted."""

    exit_code = 3

    def __init__(self, message: str, *, reason: str, remedy: str = "", count: int = 0) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason
        self.count = count


class StateError(JetsyncError):
    pass
