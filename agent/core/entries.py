"""The nouns: what a path is on a side, and the three sides of a path in one row.

Every path of a mapping has up to three sides: the *ancestor* (what both sides last agreed on), the *local* side (the
directory as last seen) and the *remote* side (the bucket as last seen). A side is an `Entry`, an `Obstacle`, or None:

    Entry     a file, a symlink or an empty directory, known well enough to compare
    Obstacle  something is there (or may be) that can't be known, represented or is left out on purpose.
              It is never a deletion, and is never overwritten or deleted
    None      known to be absent

Equality is kind, digest, link target and executable bit (DESIGN section 4). mtime never makes a difference.
Paths are relative, "/"-separated, NFC is not applied, and are valid by `core.names`. An empty directory is its own
path that ends in "/" ("a/b/"), on both sides, so that a file and a directory of one name are two paths that clash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agent.core.values import light


class Mode(StrEnum):
    TWO_WAY = "two-way"
    PUSH_SAFE = "push-safe"
    PUSH_MIRROR = "push-mirror"
    PULL_SAFE = "pull-safe"
    PULL_MIRROR = "pull-mirror"

    @property
    def pushes(self) -> bool:
        return self not in (Mode.PULL_SAFE, Mode.PULL_MIRROR)

    @property
    def mirrors(self) -> bool:
        """The receiving side is made identical; needs no ancestor."""
        return self in (Mode.PUSH_MIRROR, Mode.PULL_MIRROR)

    @property
    def pulls(self) -> bool:
        return self not in (Mode.PUSH_SAFE, Mode.PUSH_MIRROR)


class Policy(StrEnum):
    KEEP_BOTH = "keep-both"
    REPORT = "report"
    PREFER_LOCAL = "prefer-local"
    PREFER_REMOTE = "prefer-remote"
    NEWER = "newer"


class Kind(StrEnum):
    FILE = "file"
    LINK = "link"
    DIRECTORY = "directory"


class Reason(StrEnum):
    """Why a path is an obstacle: the closed list of DESIGN section 3, used in JSON, metrics labels and logs."""

    UNREADABLE = "unreadable"  # EACCES, EIO and relatives
    UNWRITABLE = "unwritable"  # the local side can't be changed: EACCES, EROFS, ENAMETOOLONG and relatives
    NOT_UTF8 = "not_utf8"  # a file name that isn't UTF-8
    INVALID_NAME = "invalid_name"  # "..", leading "/", NUL, backslash, empty components, reserved
    NAME_TOO_LONG = "name_too_long"  # a component over 255 bytes, or over 2048 in all
    CASE_CLASH = "case_clash"
    STRUCTURE_CLASH = "structure_clash"  # objects "a" and "a/b" in one bucket
    LINK_OUTSIDE = "link_outside"
    OTHER_FILE_SYSTEM = "other_file_system"
    CHANGING = "changing"  # a file that changed each time it was read
    BAD_META = "bad_meta"
    BAD_DIGEST = "bad_digest"
    MISSING_CHUNKS = "missing_chunks"
    BROKEN_LINK = "broken_link"  # an object link that dangles, loops, or is a bucket link
    BUCKET_FULL = "bucket_full"
    NO_SPACE = "no_space"
    # Skipped on purpose: counted, never a problem, never exit 3.
    SOCKET = "socket"
    FIFO = "fifo"
    DEVICE = "device"
    MAX_SIZE = "max_size"
    SYMLINK = "symlink"  # `symlinks: skip`

    @property
    def skipped(self) -> bool:
        return self in _SKIPPED


_SKIPPED = frozenset({Reason.SOCKET, Reason.FIFO, Reason.DEVICE, Reason.MAX_SIZE, Reason.SYMLINK})


@light
@dataclass(frozen=True, slots=True)
class Entry:
    """A path as seen on a side.

    digest: 32 raw bytes of SHA-256 for a FILE, empty for the others. size: bytes. target: for a LINK, the normalised
    target relative to the mapping's root ("" for the others). executable: None = unknown (an object of a client that
    doesn't tell). mtime_ns: None = unknown.
    """

    kind: Kind
    digest: bytes = b""
    size: int = 0
    executable: bool | None = None
    mtime_ns: int | None = None
    target: str = ""

    def same_content(self, other: Entry) -> bool:
        """Equal but for the executable bit: nothing has to be transferred."""
        return self.kind is other.kind and self.digest == other.digest and self.target == other.target

    def same(self, other: Entry) -> bool:
        """Equal as DESIGN section 4 has it; an unknown executable bit equals anything."""
        return self.same_content(other) and (
            self.executable is None or other.executable is None or self.executable == other.executable
        )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something at a path that is not to be touched, and why. `detail` is for people and has the remedy."""

    reason: Reason
    detail: str = ""


Side = Entry | Obstacle | None


@light
@dataclass(frozen=True, slots=True)
class Signature:
    """What lstat says of a file; equal signatures mean equal content, unless the local side is `racy`."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int = 0  # st_mode's permission bits


@light
@dataclass(frozen=True, slots=True)
class Local:
    """The local side of a path. `signature` is None for an obstacle without lstat.

    racy: the file was modified so shortly before it was hashed that a later change could leave the signature as it is
    (git's "racily clean"); the next look hashes it again.
    """

    side: Entry | Obstacle
    signature: Signature | None = None
    racy: bool = False


# A local side as a plain tuple, which is all that a scan needs of most paths, a million of them included:
# (path, kind, size, mtime_ns, ctime_ns, inode, mode, racy). kind: SIGHTED_FILE for a file with content, else another.
Sighting = tuple[str, int, int, int, int, int, int, int]
SIGHTED_FILE: Final = 1


class Gone(StrEnum):
    """How an object came to be absent."""

    DELETED = "deleted"  # a delete marker
    VANISHED = "vanished"  # no meta any more, confirmed by a full listing; the bucket has no ttl
    EXPIRED = "expired"  # the same in a bucket with a ttl


@light
@dataclass(frozen=True, slots=True)
class Remote:
    """The remote side of a path: what its newest meta message says.

    side: None when absent, then `gone` says how. revision: the stream sequence of the meta (a marker has one too; 0 =
    there is no meta: a create must expect nothing). via_link: the content is behind an object link that leads out of
    the mapping; fetching resolves it.
    """

    side: Side
    revision: int
    nuid: str = ""
    chunks: int = 0
    gone: Gone | None = None
    via_link: bool = False


@light
@dataclass(frozen=True, slots=True)
class Ancestor:
    """What both sides last agreed on, with each side's own mtime as it was then (None = unknown)."""

    entry: Entry
    local_mtime_ns: int | None = None
    remote_mtime_ns: int | None = None


class Verdict(StrEnum):
    """What a row is left as when there is nothing to do for it: kept in the row, for `status` and `conflicts`."""

    NONE = ""
    CONFLICT = "conflict"
    DIVERGED = "diverged"


@light
@dataclass(frozen=True, slots=True)
class Row:
    """The three sides of one path. local None = absent; remote None = no meta was ever seen."""

    path: str
    ancestor: Ancestor | None = None
    local: Local | None = None
    remote: Remote | None = None
    verdict: Verdict = Verdict.NONE

    @property
    def local_side(self) -> Side:
        return self.local.side if self.local else None

    @property
    def remote_side(self) -> Side:
        return self.remote.side if self.remote else None

    @property
    def revision(self) -> int:
        """The precondition for a write of this name: 0 = expect nothing."""
        return self.remote.revision if self.remote else 0
