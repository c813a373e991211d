"""How much room there is for downloads, and the floor below which none begins.

Whoever fills a file system to its last byte breaks everything else that lives there: databases, logs, the agent's own
state. So downloads leave a floor: 64 MiB or 1 % of the file system, whichever is more, but at most 1 GiB and at most
5 % (a small tmpfs, the flash of an edge box). There is no setting for it; a quota of the file system is the tool for
finer wishes, and is met as any full disk is.

Large downloads reserve what they will need while they are under way, so that ten of them don't begin on the room that
is there for one. What others write meanwhile is seen between two blocks. A file system that doesn't tell its size (some
FUSE ones) has no floor.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import NamedTuple, Self

from agent.core.entries import Reason
from agent.directory.dirfd import Tree
from agent.errors import PathError, SpaceError

LEAST = 64 << 20
MOST = 1 << 30
PER_CENT = 1
MOST_PER_CENT = 5
_REMEDY = "free space on the directory's file system"


class Room(NamedTuple):
    """Bytes that are free for this user, and of them those that downloads leave alone."""

    free: int
    floor: int

    @property
    def low(self) -> bool:
        return self.free < self.floor


def floor_of(total: int) -> int:
    """The floor of a file system of `total` bytes."""
    return min(max(LEAST, total * PER_CENT // 100), MOST, total * MOST_PER_CENT // 100)


class Space:
    """The space of one root. Thread-safe; each call asks the file system."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._reserved = 0

    def look(self) -> Room:
        try:
            status = os.fstatvfs(self._tree.fd)
        except OSError:
            return Room(1 << 62, 0)  # whoever writes will be told
        return Room(status.f_bavail * status.f_frsize, floor_of(status.f_blocks * status.f_frsize))

    def check(self, more: int = 0) -> None:
        """Whether there is room for `more` bytes. Raises SpaceError."""
        room = self.look()
        left = room.free - room.floor - more
        if room.floor and left < 0:
            raise SpaceError(
                f"{self._tree.path}: {_bytes(room.free)} are free; downloads leave {_bytes(room.floor)}",
                remedy=_REMEDY,
            )

    def reserve(self, size: int, path: str) -> Reservation:
        """Room for one large file. Raises SpaceError when there is hardly room for anything, and PathError (no_space)
        when it is only this file that doesn't fit."""
        room = self.look()
        with self._lock:
            left = room.free - room.floor - self._reserved
            if not room.floor or left >= size:
                self._reserved += size
                return Reservation(self, size)
        what = f"{path}: its {_bytes(size)} don't fit"  # how much is free changes; the same words are logged once
        if left < room.floor:
            raise SpaceError(what, remedy=_REMEDY)
        raise PathError(what, reason=Reason.NO_SPACE, remedy=_REMEDY)

    def release(self, size: int) -> None:
        with self._lock:
            self._reserved -= size


class Reservation:
    """Room that is kept for one file, less with what has been written of it. A context manager."""

    def __init__(self, space: Space, size: int) -> None:
        self._space = space
        self._left = size

    def write(self, size: int) -> None:
        """These bytes are about to be written. Raises SpaceError."""
        self._space.check()
        taken = min(size, self._left)
        self._left -= taken
        self._space.release(taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._space.release(self._left)
        self._left = 0


def _bytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count} bytes"
