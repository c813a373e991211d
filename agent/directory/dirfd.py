"""Every path by directory descriptor: nothing here follows a link out of the root, or crosses a file system.

A `Tree` is the root directory, held open. A path below it is opened either by openat2 (the kernel refuses symlinks,
mounts and escapes) or, where that is missing, component by component with O_NOFOLLOW, checking the device of each
directory. Both refuse alike: ELOOP or ENOTDIR where a component isn't a directory, EXDEV on another file system.

No descriptor is kept between operations. A kept one would go on naming a directory that has since been moved out of
the root, and openat2 costs less than the bookkeeping to find that out.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core import names
from agent.core.entries import Reason
from agent.directory import syscalls
from agent.directory.faults import invalid
from agent.directory.options import OWN
from agent.directory.syscalls import Capabilities
from agent.errors import PathError, RootError

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_STEP_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Empty, "." and ".." components, NUL, backslash: what could make a path mean something else than its words.
_HOSTILE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\0\\]")

_LONG = 1000  # characters; the kernel takes 4095 bytes at once, a walk by components takes any length

_ATTEMPTS = 20  # of making a parent that others remove at the same time


def is_hostile(path: str) -> bool:
    """Whether the words of a path could lead elsewhere than below the root. A backslash could not, on Linux."""
    return bool(_HOSTILE.search(path.replace("\\", "_").removesuffix("/")))


def check(path: str) -> None:
    """Refuse a path that must never reach the disk, whatever the caller has checked before. Raises PathError."""
    if _HOSTILE.search(path.removesuffix("/")):
        raise invalid(path, Reason.INVALID_NAME, "it isn't a path below the mapping's directory")
    # The first two questions are cheap, and answer for most paths.
    if ("." in path or "lost+found" in path) and names.reserved(path):
        raise invalid(path, Reason.INVALID_NAME, "the name is reserved")


class Beneath:
    """A directory held open, and everything below it. Thread-safe. What it opens is the caller's to close."""

    def __init__(self, fd: int, can: Capabilities) -> None:
        self.fd = fd
        self.can = can
        self.device = os.fstat(fd).st_dev

    def open(self, path: str, flags: int) -> int:
        """Open what is at `path` ("" = the root) without following any symlink. O_CLOEXEC and O_NOFOLLOW are added.

        Raises OSError: ENOENT; ENOTDIR or ELOOP when something on the way isn't a directory, and ELOOP when the last
        component is a symlink (unless O_PATH); EXDEV when a mount is on the way.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        if not path:
            return os.open(".", flags & ~os.O_NOFOLLOW, dir_fd=self.fd)
        if self.can.openat2 and len(path) < _LONG:
            return syscalls.openat2(self.fd, path, flags)
        return self._walk(path, flags)

    def _walk(self, path: str, flags: int) -> int:
        *parents, name = path.split("/")
        at = self.fd
        try:
            for parent in parents:
                below = os.open(parent, _STEP_FLAGS, dir_fd=at)
                if at != self.fd:
                    os.close(at)
                at = below
                if os.fstat(at).st_dev != self.device:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
            return os.open(name, flags, dir_fd=at)
        finally:
            if at != self.fd:
                os.close(at)

    def open_directory(self, path: str) -> int:
        """A readable descriptor of the directory at `path` ("" = root). Raises OSError; EXDEV: on another device."""
        fd = self.open(path, DIRECTORY_FLAGS)
        try:
            # A subvolume is no mount, but renames into it fail just as well.
            if os.fstat(fd).st_dev != self.device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The parent directory of `path` as descriptor, and the last component. Raises OSError like `open`."""
        directory, _, name = path.rpartition("/")
        fd = self.open_directory(directory)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def make_directory(self, path: str, mode: int) -> list[str]:
        """Make the directory `path` and what is missing above it; safe against others doing or undoing the same.

        Returns the directories it made, outermost first. Raises OSError: ENOTDIR when a file or link is in the way.
        """
        made: list[str] = []
        for _ in range(_ATTEMPTS):
            try:
                self._make_missing(path, mode, made)
            except FileNotFoundError:
                continue  # somebody removed a parent after we saw it
            return made
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _make_missing(self, path: str, mode: int, made: list[str]) -> None:
        parts = path.split("/")
        depth = len(parts)
        while depth and not self._is_directory("/".join(parts[:depth])):
            depth -= 1
        for end in range(depth + 1, len(parts) + 1):
            current = "/".join(parts[:end])
            with self.parent(current) as (fd, name):
                try:
                    os.mkdir(name, mode, dir_fd=fd)
                    made.append(current)
                except FileExistsError:
                    if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), current) from None

    def _is_directory(self, path: str) -> bool:
        try:
            os.close(self.open(path, _STEP_FLAGS))
        except FileNotFoundError:
            return False
        return True


class Tree(Beneath):
    """The root of a mapping, held open. Raises RootError when it can't be opened."""

    def __init__(self, path: Path, *, capabilities: Capabilities | None = None) -> None:
        self.path = path
        fd = _open_root(path)
        super().__init__(fd, capabilities or Capabilities.probe(fd))
        self.inode = os.fstat(fd).st_ino
        self.overlay = syscalls.is_overlay(fd)
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.fd)

    def check_root(self) -> None:
        """See that the path still names the directory held open. Raises RootError."""
        remedy = "mount it or put it back, or correct `directory` in the configuration"
        try:
            status = os.stat(self.path)
        except OSError as exc:
            raise RootError(f"{self.path}: the directory is gone ({exc.strerror})", remedy=remedy) from exc
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            raise RootError(f"{self.path}: another directory or file system is in its place", remedy=remedy)


def _open_root(path: Path) -> int:
    remedy = "create it, or correct `directory` in the configuration"
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise RootError(f"{path}: the directory doesn't exist", remedy=remedy) from exc
    except NotADirectoryError as exc:
        raise RootError(f"{path}: not a directory", remedy=remedy) from exc
    except OSError as exc:
        remedy = "give this user permission to read and enter it"
        raise RootError(f"{path}: can't be opened ({exc.strerror})", remedy=remedy) from exc


def open_below(parent_fd: int, name: str, *, own_device: int) -> int:
    """Open (making it when missing) a directory of our own below `parent_fd`. Raises OSError, PathError."""
    try:
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)
    except FileNotFoundError:
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            pass
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)
    if os.fstat(fd).st_dev != own_device:
        os.close(fd)
        raise PathError(
            f"{OWN}/ is on another file system than the directory it belongs to",
            reason=Reason.UNWRITABLE,
            remedy=f"unmount it: staging and trash have to be on the same file system as the files in {OWN}/..",
        )
    return fd
