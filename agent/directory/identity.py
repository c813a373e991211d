"""The root's identity: `.jetsync/root.json` with a random id and a generation, locked while an agent works on the root.

The id tells a root from another one that stands in its place: an unmounted mount point, a directory made anew. The
generation is raised at every start and every hour, here and in the agent's state: when the two differ, one of them was
restored from a backup (DESIGN section 6, "Identity").

The lock is an flock on the file itself, so that every agent that sees the root sees it, whatever state directory it
has; hence the file is written in place. Its text has always the same length, far below a sector, and so is never torn.
It is created whole, by a rename that never replaces.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from agent.core import names
from agent.directory import dirfd, faults
from agent.directory.dirfd import Tree
from agent.directory.options import OWN
from agent.directory.own import STAGING
from agent.errors import LockedError, RootError

FILE = "root.json"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LENGTH = 255
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class RootId:
    """id: 32 hex digits. generation: how often the root was taken up, hours included."""

    id: str
    generation: int

    @classmethod
    def new(cls) -> RootId:
        return cls(secrets.token_hex(16), 0)


class RootFile:
    """`.jetsync/root.json` of one root. Not thread-safe: one caller at a time. Closing gives the lock back."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._fd: int | None = None

    def read(self) -> RootId | None:
        """What the file says; None when there is none. Nothing is written.

        :raises RootError: something else is there, or it can't be read
        """
        path = f"{self._tree.path}/{OWN}/{FILE}"
        try:
            fd = self._fd if self._fd is not None else os.open(f"{OWN}/{FILE}", _READ, dir_fd=self._tree.fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise RootError(f"{path}: can't be read ({exc.strerror})", remedy="make it readable for this user") from exc
        try:
            return _decode(os.pread(fd, _LONGEST, 0))
        except (ValueError, OSError) as exc:
            raise RootError(
                f"{path}: isn't what jetsync wrote there", remedy="remove it, if the directory is the right one"
            ) from exc
        finally:
            if fd != self._fd:
                os.close(fd)

    def lock(self) -> None:
        """Lock the file, which is there: no other agent works on the root until `close`.

        :raises LockedError: another one does
        :raises RootError: the file isn't one that can be written
        """
        if self._fd is not None:
            return
        path = f"{self._tree.path}/{OWN}/{FILE}"
        try:
            fd = os.open(f"{OWN}/{FILE}", _WRITE, dir_fd=self._tree.fd)
        except OSError as exc:
            remedy = "remove it" if exc.errno in (errno.EISDIR, errno.ELOOP) else "make it writable for this user"
            raise RootError(f"{path}: can't be written ({exc.strerror})", remedy=remedy) from exc
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise RootError(f"{path}: isn't a file", remedy="remove it")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(fd)
            raise LockedError(
                f"{self._tree.path}: another agent works on this directory",
                remedy="stop it, or take the mapping out of one of the two configurations",
            ) from exc
        except OSError:
            pass  # a file system without locks (some network ones): the generation still tells
        self._fd = fd

    def create(self, root: RootId) -> None:
        """Write the first file. One that another agent has made at the same moment stays, and counts.

        :raises PathError, SpaceError: it can't be written
        """
        with _own(self._tree) as own:
            staging = dirfd.open_below(own, STAGING, own_device=self._tree.device)
            temporary = f"{FILE}.{secrets.token_hex(4)}"  # in staging, which is swept when we are killed here
            file = -1
            try:
                file = os.open(temporary, _CREATE, 0o644, dir_fd=staging)
                os.write(file, _encode(root))
                os.fsync(file)
                self._place(staging, temporary, own)
                os.fsync(own)
            finally:
                if file >= 0:
                    os.close(file)
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=staging)
                os.close(staging)

    def renew(self, root: RootId) -> None:
        """Write another identity into a file that holds none. It is locked then.

        :raises LockedError, RootError, PathError, SpaceError
        """
        self.lock()
        self.write(root)

    def _place(self, staging: int, temporary: str, own: int) -> None:
        with suppress(FileExistsError):
            if self._tree.can.hard_links:
                os.link(temporary, FILE, src_dir_fd=staging, dst_dir_fd=own)
            else:  # RACE: two agents at once may each write an id of their own here; the lock then tells
                os.rename(temporary, FILE, src_dir_fd=staging, dst_dir_fd=own)

    def write(self, root: RootId) -> None:
        """Raise the generation, durably. The file is locked.

        :raises PathError, SpaceError
        """
        assert self._fd is not None, "lock() comes first"
        with faults.mapped(f"{OWN}/{FILE}", "writing it"):
            text = _encode(root)
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))
            os.fsync(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_empty(tree: Tree) -> bool:
    """Whether the root has no entries but those that are nobody's: our own place, lost+found and the like."""
    with os.scandir(tree.fd) as found:
        return all(
            names.reserved(entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name) for entry in found
        )


@contextmanager
def _own(tree: Tree) -> Iterator[int]:
    with faults.mapped(f"{OWN}/{FILE}", "making it"):
        fd = dirfd.open_below(tree.fd, OWN, own_device=tree.device)
        try:
            yield fd
        finally:
            os.close(fd)


def _encode(root: RootId) -> bytes:
    """Always of the same length, whatever the generation."""
    note = "by this file jetsync knows the directory again; don't copy it to another one"
    text = json.dumps({"version": 1, "id": root.id, "generation": root.generation, "note": note})
    return text.ljust(_LENGTH).encode() + b"\n"


def _decode(data: bytes) -> RootId:
    """Raises ValueError."""
    try:
        value = json.loads(data)
        return RootId(str(value["id"]), int(value["generation"]))
    except (KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise ValueError("not a root.json") from exc
