"""One look at a path: what is there, by one lstat, and whether it can be part of the tree at all.

`classify` is the one place that decides what a directory entry is; `Looker.look` asks it for one path, the scan for
every path. A file is only recognised (by its signature); its content is `read`'s business. What can't be known or
represented is an obstacle. Absent means proven absent: nothing can be below something that isn't a directory, but a
parent that can't be entered proves nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from agent.core import names
from agent.core.entries import Entry, Kind, Local, Obstacle, Reason, Signature
from agent.core.values import light
from agent.directory import dirfd, faults
from agent.directory.dirfd import Tree
from agent.directory.follow import DanglingError, OutsideError, open_following
from agent.directory.options import DirectoryOptions
from agent.errors import PathError

LookKind = Literal["absent", "file", "link", "directory", "obstacle"]

_SPECIAL = {
    stat.S_IFSOCK: Obstacle(Reason.SOCKET),
    stat.S_IFIFO: Obstacle(Reason.FIFO),
    stat.S_IFCHR: Obstacle(Reason.DEVICE),
    stat.S_IFBLK: Obstacle(Reason.DEVICE),
}
_SKIPPED_LINK = Obstacle(Reason.SYMLINK)
OUTSIDE = Obstacle(Reason.LINK_OUTSIDE, "the symlink is absolute or leads out of the mapping; make it relative")
NO_OBJECT = Obstacle(
    Reason.LINK_OUTSIDE,
    "the symlink leads to the mapping's directory itself, or to a name that no object can have; "
    "let it lead to another, or exclude it",
)
DANGLING = Obstacle(Reason.BROKEN_LINK, "the symlink points to nothing, or in a circle; mend or remove it")

_PLAIN = re.compile(r"[ -\[\]-~]{1,255}").fullmatch  # printable ASCII without backslash: most names are nothing else
_ESCAPE = re.compile(r"\\x([89a-f][0-9a-f])")

_DIRECTORY_ENTRY = Entry(Kind.DIRECTORY)


@light
@dataclass(frozen=True, slots=True)
class Look:
    """What one lstat says of a path.

    signature: of what was found (None when absent or unreadable). side: the Entry of a link or of an empty directory,
    an Obstacle, or None: of a file the content isn't known yet, and a directory that holds something isn't an entry.
    links: how many names a file has, here or elsewhere.
    """

    kind: LookKind
    signature: Signature | None = None
    side: Entry | Obstacle | None = None
    links: int = 1

    @property
    def local(self) -> Local | None:
        """The local side, where a look is enough to know it; None for a file (`read` it) and for what is absent."""
        return Local(self.side, self.signature) if self.side is not None else None


_ABSENT = Look("absent")


def signature_of(status: os.stat_result) -> Signature:
    return Signature(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        mode=status.st_mode & 0o7777,
    )


def has_signature(status: os.stat_result, signature: Signature) -> bool:
    """Whether this is the signature of `status`: cheaper than making one to compare."""
    return (
        status.st_size == signature.size
        and status.st_mtime_ns == signature.mtime_ns
        and status.st_ctime_ns == signature.ctime_ns
        and status.st_ino == signature.inode
        and status.st_mode & 0o7777 == signature.mode
    )


def problem_of_name(name: str, path: str) -> Obstacle | None:
    """Why a path found on the disk can't be part of the tree. `name` is its last component; both without a last "/"."""
    if _PLAIN(name) and len(path) <= names.MAX_NAME and path.isascii():
        return None
    return names.problem_of(path)


def render(path: str) -> str:
    """A printable form of a path with bytes that aren't UTF-8: `caf\\xe9`. No valid path has a backslash."""
    if path.isascii():
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unrender(path: str) -> str:
    """What `render` was given, in Python's form for the operating system."""
    return _ESCAPE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), path)


class Looker:
    """Looks at single paths of a tree. Thread-safe."""

    def __init__(self, tree: Tree, options: DirectoryOptions) -> None:
        self.tree = tree
        self.options = options
        self.follow = options.symlinks == "follow"

    def open(self, path: str, flags: int) -> int:
        """Open as this mapping sees the path: symlinks are followed only if it follows them."""
        if self.follow:
            return open_following(self.tree, path, flags)
        return self.tree.open(path, flags)

    def look(self, path: str) -> Look:
        """Look at `path`; "d/" looks for the entry of an empty directory. Raises SpaceError only."""
        try:
            dirfd.check(path)
        except PathError as exc:
            return self._look_at_odd(path, Obstacle(Reason(exc.reason), exc.message))
        return self._look(path)

    def signatures(self, paths: Iterable[str]) -> dict[str, Signature | None]:
        """Of regular files, by one lstat each; None: it can't be told, and a look tells more. Raises nothing."""
        found: dict[str, Signature | None] = {}
        opened: dict[str, int] = {}
        try:
            for path in paths:
                directory, _, name = path.rpartition("/")
                try:
                    fd = opened.get(directory)
                    if fd is None:
                        dirfd.check(path)
                        fd = opened[directory] = self.tree.open_directory(directory)
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except (OSError, ValueError, PathError):
                    found[path] = None
                    continue
                found[path] = signature_of(status) if stat.S_ISREG(status.st_mode) else None
        finally:
            for fd in opened.values():
                os.close(fd)
        return found

    def _look(self, path: str) -> Look:
        bare = path.removesuffix("/")
        try:
            fd = self.open(bare, os.O_PATH)
        except OutsideError:
            return Look("obstacle", None, OUTSIDE)
        except DanglingError:
            return Look("obstacle", None, DANGLING)
        except OSError as exc:
            if faults.is_absent(exc):
                return _ABSENT
            return Look("obstacle", None, faults.obstacle(exc, path))
        try:
            status = os.fstat(fd)
            problem = problem_of_name(bare.rpartition("/")[2], bare)
            if problem:
                return Look("obstacle", signature_of(status), problem)
            if path != bare:
                return self._look_at_directory(path, status)
            return self.classify(path, status, fd, "")
        finally:
            os.close(fd)

    def _look_at_odd(self, path: str, problem: Obstacle) -> Look:
        """A path that can't be part of the tree: the obstacle when something is there, else absent."""
        for candidate in {path, unrender(path)}:
            if "\0" in candidate or dirfd.is_hostile(candidate):
                continue
            found = self._look(candidate)
            if found.kind != "absent":
                reason = Obstacle(Reason.NOT_UTF8, "the name isn't UTF-8; rename it")
                return Look("obstacle", found.signature, problem if candidate == path else reason)
        return _ABSENT

    def _look_at_directory(self, path: str, status: os.stat_result) -> Look:
        if not stat.S_ISDIR(status.st_mode):
            return _ABSENT
        if not self.options.empty_directories:
            return Look("directory")
        try:
            fd = self.open(path[:-1], dirfd.DIRECTORY_FLAGS)
            try:
                empty = is_empty(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            if faults.is_absent(exc):
                return _ABSENT
            return Look("obstacle", None, faults.obstacle(exc, path))
        return Look("directory", None, _DIRECTORY_ENTRY if empty else None)

    def classify(self, path: str, status: os.stat_result, dir_fd: int, name: str) -> Look:
        """What `status` (of lstat, or of the target when following) makes of the path.

        dir_fd, name: where a symlink's text can be read (a descriptor of the link itself, and "").
        """
        kind = status.st_mode & 0o170000
        if kind == stat.S_IFREG:
            if self._is_foreign(status):
                detail = "on another file system; give it its own mapping or exclude it"
                return Look("obstacle", signature_of(status), Obstacle(Reason.OTHER_FILE_SYSTEM, detail))
            limit = self.options.max_size
            if limit is not None and status.st_size > limit:
                return Look("obstacle", signature_of(status), Obstacle(Reason.MAX_SIZE, f"{status.st_size} bytes"))
            return Look("file", signature_of(status), links=status.st_nlink)
        if kind == stat.S_IFDIR:
            return Look("directory")
        if kind == stat.S_IFLNK:
            return self._classify_link(path, status, dir_fd, name)
        return Look("obstacle", signature_of(status), _SPECIAL.get(kind) or Obstacle(Reason.DEVICE))

    def _classify_link(self, path: str, status: os.stat_result, dir_fd: int, name: str) -> Look:
        signature = signature_of(status)
        if self.options.symlinks == "skip":
            return Look("obstacle", signature, _SKIPPED_LINK)
        try:
            text = os.readlink(name, dir_fd=dir_fd)
        except OSError as exc:
            # EINVAL: it stopped being a link between the two calls.
            return _ABSENT if faults.is_absent(exc) else Look("obstacle", None, faults.obstacle(exc, path))
        target = names.target_from_link(path, text)
        if target is None:
            outside = names.normalised_target(path, text) is None
            return Look("obstacle", signature, OUTSIDE if outside else NO_OBJECT)
        if target == path:
            return Look("obstacle", signature, DANGLING)  # no object link can say that
        return Look("link", signature, Entry(Kind.LINK, target=target))

    def is_file(self, status: os.stat_result) -> bool:
        """Whether `classify` would say so."""
        limit = self.options.max_size
        regular = status.st_mode & 0o170000 == stat.S_IFREG
        return regular and (limit is None or status.st_size <= limit) and not self._is_foreign(status)

    def _is_foreign(self, status: os.stat_result) -> bool:
        # RACE-free but coarse: on overlayfs the device of files says nothing; their directory's is checked on the way.
        return status.st_dev != self.tree.device and not self.tree.overlay


def is_empty(fd: int) -> bool:
    """Whether a directory holds nothing but reserved names. Raises OSError."""
    with os.scandir(fd) as found:
        return all(names.reserved_name(one.name, directory=one.is_dir(follow_symlinks=False)) for one in found)
