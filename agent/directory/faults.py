"""Errors of the operating system become ours here, at the border; and obstacles where a look failed.

Three questions decide: does the path still look as it did (StaleError: look again), is it this path that can't be
handled (PathError: a problem, the rest goes on), or is it the machine (SpaceError: wait, then try again)?
A shortage of descriptors or memory says nothing about the path: it must never make it a problem, let alone absent.
"""

from __future__ import annotations

import errno
from types import TracebackType

from agent.core.entries import Obstacle, Reason
from agent.errors import DirectoryError, PathError, ShortageError, SpaceError, StaleError

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_STALE = frozenset({errno.ENOENT, errno.EEXIST, errno.ESTALE})
# Nothing can be at a path whose parent isn't a directory, or whose name the file system can't hold.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

_REMEDIES = {
    errno.EACCES: "give this user permission",
    errno.EPERM: "the file is immutable or belongs to somebody else; change its attributes or owner",
    errno.EROFS: "the file system is mounted read-only; remount it, or use a push mode",
    errno.ENAMETOOLONG: "this file system has a lower limit for names; shorten the name",
    errno.EBUSY: "it is a mount point; unmount it or exclude it",
    errno.EIO: "the device reports errors; check it",
    errno.EINVAL: "this file system can't hold such a name; rename it",
    errno.EILSEQ: "this file system can't hold such a name; rename it",
    errno.EFBIG: "the file is larger than this file system allows",
}


def is_absent(exc: OSError) -> bool:
    """Whether a failed look proves that nothing is at the path."""
    return exc.errno in _ABSENT


def is_full(exc: OSError) -> bool:
    """Whether there is no space, or no quota, left."""
    return exc.errno in _NO_SPACE


def structure_clash(path: str, detail: str) -> PathError:
    """A file where a directory is needed, or the reverse."""
    return PathError(f"{path}: {detail}", reason=Reason.STRUCTURE_CLASH, remedy="rename one of the two")


def invalid(path: str, reason: Reason, detail: str) -> PathError:
    return PathError(f"{path!r}: {detail}", reason=reason, remedy="rename it")


class mapped:  # noqa: N801 - used as a statement, like contextlib's
    """`with mapped(path, "deleting it"):` turns OSError into an error of ours.

    existing: the path is expected to exist, so that a parent that isn't a directory means StaleError; otherwise it is
    a clash of structure.
    """

    __slots__ = ("_doing", "_existing", "_path")

    def __init__(self, path: str, doing: str, *, existing: bool = False) -> None:
        self._path = path
        self._doing = doing
        self._existing = existing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            if self._existing and is_absent(error):
                raise StaleError(f"{self._path}: {error.strerror} while {self._doing}") from error
            raise from_os(error, self._path, self._doing) from error


def from_os(exc: OSError, path: str, doing: str) -> DirectoryError:
    """The error of ours for a failed write below the root; `doing` completes "while ...". To be raised `from exc`."""
    number = exc.errno or 0
    what = f"{path}: {exc.strerror or exc} while {doing}"
    if number in _NO_SPACE:
        return SpaceError(what, remedy="free space or raise the quota")
    if number in _MACHINE:
        return _shortage(what)
    if number in _STALE:
        return StaleError(what)
    if number in (errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENOTEMPTY):
        return structure_clash(path, f"a file is where a directory is needed, or the reverse, while {doing}")
    if number == errno.EXDEV:
        remedy = "a mount is on the way; give it its own mapping or exclude it"
        return PathError(what, reason=Reason.OTHER_FILE_SYSTEM, remedy=remedy)
    return PathError(what, reason=Reason.UNWRITABLE, remedy=_REMEDIES.get(number, ""))


def obstacle(exc: OSError, path: str) -> Obstacle:
    """What a path is when it can't be looked at or read. Raises SpaceError when the machine is to blame."""
    if exc.errno in _MACHINE:
        raise _shortage(f"{path}: {exc.strerror}") from exc
    if exc.errno == errno.EXDEV:
        detail = "on another file system; give it its own mapping or exclude it"
        return Obstacle(Reason.OTHER_FILE_SYSTEM, detail)
    remedy = _REMEDIES.get(exc.errno or 0)
    return Obstacle(Reason.UNREADABLE, f"{exc.strerror or exc}" + (f"; {remedy}" if remedy else ""))


def _shortage(what: str) -> ShortageError:
    return ShortageError(what, remedy="raise the limit of open files (ulimit -n, LimitNOFILE=) or the memory limit")
