"""Listing one directory for the scan: open it safely, sort its names, read its .jetsyncignore."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.core.names import IGNORE_FILE
from agent.directory import dirfd, syscalls
from agent.directory.follow import DanglingError, OutsideError
from agent.directory.look import Looker, render

_MAX_IGNORE_FILE = 1 << 20  # bytes that are read

Identity = tuple[int, int]  # device and inode


@dataclass(slots=True)
class Level:
    """One directory on the way down.

    fd: -1 while closed to save descriptors. prefix: "" or "a/b/". names: what is left to see, in order; directories end
    in "/". odd: names that aren't UTF-8, in their rendered form. With `follow` only: linked: directories of it that are
    symlinks; chain: the directories above and itself; followed: how many symlinks led here.
    """

    fd: int
    prefix: str
    identity: Identity
    names: Iterator[str]
    odd: frozenset[str]
    is_empty: bool
    has_ignore_file: bool
    linked: frozenset[str] = frozenset()
    chain: frozenset[Identity] = field(default_factory=frozenset)
    followed: int = 0


def open_level(looker: Looker, prefix: str, parent: Level | None) -> Level:
    """Open and list the directory of `prefix` (below `parent`, when given). Raises OSError, OutsideError,
    DanglingError."""
    fd = _open(looker, prefix, parent)
    try:
        status = os.fstat(fd)
        if status.st_dev != looker.tree.device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), prefix)
        linked: set[str] = set()
        found = _names_following(looker, fd, prefix, linked) if looker.follow else _names(fd)
        odd = frozenset() if "".join(found).isascii() else _render_odd(found)
        found.sort()
        return Level(
            fd=fd,
            prefix=prefix,
            identity=(status.st_dev, status.st_ino),
            names=iter(found),
            odd=odd,
            is_empty=not found,
            has_ignore_file=IGNORE_FILE in found,
            linked=frozenset(linked),
        )
    except BaseException:
        os.close(fd)
        raise


def reopen(looker: Looker, level: Level) -> bool:
    """Open a level again that was closed to save descriptors. False when another directory is there now."""
    try:
        fd = _open(looker, level.prefix, None)
    except (OSError, OutsideError, DanglingError):
        return False
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != level.identity:
        os.close(fd)
        return False
    level.fd = fd
    return True


def read_ignore_file(level: Level) -> str | None:
    """The text of the directory's .jetsyncignore; None when it isn't a regular file. Raises OSError: what it excludes
    can't be known then."""
    if not level.has_ignore_file:
        return None
    try:
        fd = os.open(IGNORE_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=level.fd)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return file.read(_MAX_IGNORE_FILE).decode("utf-8", "replace")


def _open(looker: Looker, prefix: str, parent: Level | None) -> int:
    directory = prefix.removesuffix("/")
    if looker.follow:
        return looker.open(directory, dirfd.DIRECTORY_FLAGS)
    if parent is None or parent.fd < 0 or not looker.tree.can.openat2:
        return looker.tree.open_directory(directory)
    return syscalls.openat2(parent.fd, directory.rpartition("/")[2], dirfd.DIRECTORY_FLAGS)


def _names(fd: int) -> list[str]:
    with os.scandir(fd) as found:
        return [one.name + "/" if one.is_dir(follow_symlinks=False) else one.name for one in found]


def _names_following(looker: Looker, fd: int, prefix: str, linked: set[str]) -> list[str]:
    found = []
    with os.scandir(fd) as entries:
        for one in entries:
            directory = one.is_dir(follow_symlinks=False)
            if one.is_symlink() and _leads_to_directory(looker, prefix + one.name):
                directory = True
                linked.add(one.name + "/")
            found.append(one.name + "/" if directory else one.name)
    return found


def _leads_to_directory(looker: Looker, path: str) -> bool:
    try:
        fd = looker.open(path, os.O_PATH)
    except (OSError, OutsideError, DanglingError):
        return False
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _render_odd(found: list[str]) -> frozenset[str]:
    """Replace the names that aren't UTF-8 by their rendering, in place; gives the rendered ones."""
    odd = []
    for at, name in enumerate(found):
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError:
                found[at] = render(name)
                odd.append(found[at])
    return frozenset(odd)
