"""Expectations: every change of a path says what it expects there, and is checked against the disk before and after.

Before: the lstat must equal the signature that the decision was made on. After a rename took the file away: the same,
but for ctime, which rename and link move. A racy file (see `read`) may have changed without a trace, so its content is
hashed once more before it counts as expected.
"""

from __future__ import annotations

import os
import stat
import time

from agent.core.entries import Entry, Kind, Local, Obstacle
from agent.directory.look import signature_of
from agent.directory.read import ChangedError, granule_of, hash_descriptor
from agent.directory.trash import Spot
from agent.errors import PathError, StaleError


def refuse_obstacle(path: str, expected: Local | None) -> None:
    """An obstacle is never overwritten or deleted. Raises PathError."""
    if expected is not None and isinstance(expected.side, Obstacle):
        reason = expected.side.reason
        raise PathError(f"{path}: left alone, since it is a problem itself ({reason})", reason=reason)


def status_of_expected(spot: Spot, path: str, expected: Local) -> os.stat_result:
    """lstat of a file or link that has to be exactly as expected. Raises StaleError, OSError."""
    try:
        status = spot.status()
    except FileNotFoundError as exc:
        raise StaleError(f"{path}: gone since it was last looked at") from exc
    if signature_of(status) != expected.signature or not _is_kind_of(status, expected.side):
        raise StaleError(f"{path}: changed since it was last looked at")
    return status


def check_moved(spot: Spot, path: str, expected: Local) -> os.stat_result:
    """lstat of a file or link that a rename or link has touched since it was as expected. Raises StaleError."""
    status = spot.status()
    found, before = signature_of(status), expected.signature
    if (
        not _is_kind_of(status, expected.side)
        or before is None
        or (found.size, found.mtime_ns, found.inode, found.mode)
        != (
            before.size,
            before.mtime_ns,
            before.inode,
            before.mode,
        )
    ):
        raise StaleError(f"{path}: changed in the moment it was to be replaced or deleted; it was put back")
    if expected.racy and not _has_digest(spot, status, expected.side):
        raise StaleError(f"{path}: changed so quickly after it was read that only its content shows it")
    return status


def has_content(spot: Spot, side: Entry | Obstacle) -> bool:
    """Whether a file has the content of `side` now. Raises OSError."""
    status = spot.status()
    return (
        isinstance(side, Entry)
        and side.kind is Kind.FILE
        and stat.S_ISREG(status.st_mode)
        and _has_digest(spot, status, side)
    )


def _is_kind_of(status: os.stat_result, side: Entry | Obstacle) -> bool:
    """Signatures don't tell the kind, and an inode may come back as another one."""
    is_link = isinstance(side, Entry) and side.kind is Kind.LINK
    return is_link == stat.S_ISLNK(status.st_mode)


def _has_digest(spot: Spot, status: os.stat_result, side: Entry | Obstacle) -> bool:
    if not isinstance(side, Entry) or side.kind is not Kind.FILE or not stat.S_ISREG(status.st_mode):
        return True
    fd = os.open(spot.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=spot.fd)
    try:
        return hash_descriptor(fd, signature_of(status)) == side.digest
    except ChangedError:
        return False
    finally:
        os.close(fd)


def local_of_file(status: os.stat_result, digest: bytes, *, racy: bool) -> Local:
    entry = Entry(
        Kind.FILE,
        digest=digest,
        size=status.st_size,
        executable=bool(status.st_mode & stat.S_IXUSR),
        mtime_ns=status.st_mtime_ns,
    )
    return Local(entry, signature_of(status), racy)


def own_write_is_racy(mtime_ns: int) -> bool:
    """Whether a write by somebody else, right after we put a file in place, could go unnoticed.

    Its ctime is of this very tick, but its mtime is what we set: a later write shows by its mtime, unless that is the
    present tick too.
    """
    return abs(time.time_ns() - mtime_ns) < granule_of(mtime_ns)
