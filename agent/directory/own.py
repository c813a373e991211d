"""The agent's own directory in every root: `.jetsync/` with `staging/` and `trash/`, made when first needed.

It is opened by descriptor like everything else: a symlink in its place is refused, and it has to be on the file system
of the root, because what goes through it gets into place by rename. When somebody removes it or moves it away while we
run, it is made again: a look at each use sees to it that nothing ever goes to where it has been moved.
"""

from __future__ import annotations

import os
import threading

from agent.core.entries import Reason
from agent.directory import dirfd, faults
from agent.directory.dirfd import Tree
from agent.directory.options import OWN
from agent.errors import PathError

STAGING = "staging"
TRASH = "trash"


class OwnPlace:
    """`.jetsync/` of one root. Thread-safe. The descriptors it gives belong to it, and live until `close`."""

    def __init__(self, tree: Tree, *, read_only: bool) -> None:
        self.tree = tree
        self.read_only = read_only
        self._lock = threading.Lock()
        self._opened: dict[str, tuple[int, int]] = {}  # descriptor and inode
        self._retired: list[int] = []  # replaced ones: another thread may still be using them

    @property
    def staging(self) -> int:
        """`.jetsync/staging/`, open. Raises PathError, SpaceError."""
        return self._directory(STAGING)

    @property
    def trash(self) -> int:
        """`.jetsync/trash/`, open. Raises PathError, SpaceError."""
        return self._directory(TRASH)

    def find(self, name: str) -> int | None:
        """The same, but nothing is made: None when it doesn't exist."""
        try:
            os.stat(f"{OWN}/{name}", dir_fd=self.tree.fd, follow_symlinks=False)
        except OSError:
            return None
        return self._directory(name)

    def close(self) -> None:
        with self._lock:
            for fd in (*(fd for fd, _ in self._opened.values()), *self._retired):
                os.close(fd)
            self._opened.clear()
            self._retired.clear()

    def _directory(self, name: str) -> int:
        found = self._opened.get(name)
        if found is not None and self._is_in_place(name, found[1]):
            return found[0]
        if self.read_only:
            raise PathError(f"{self.tree.path}: opened for reading only", reason=Reason.UNWRITABLE)
        with self._lock:
            found = self._opened.get(name)
            if found is None or not self._is_in_place(name, found[1]):
                if found is not None:
                    self._retired.append(found[0])
                fd = self._open(name)
                found = self._opened[name] = (fd, os.fstat(fd).st_ino)
            return found[0]

    def _is_in_place(self, name: str, inode: int) -> bool:
        try:
            status = os.stat(f"{OWN}/{name}", dir_fd=self.tree.fd, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.tree.device, inode)

    def _open(self, name: str) -> int:
        try:
            own = dirfd.open_below(self.tree.fd, OWN, own_device=self.tree.device)
            try:
                return dirfd.open_below(own, name, own_device=self.tree.device)
            finally:
                os.close(own)
        except OSError as exc:
            error = faults.from_os(exc, f"{OWN}/{name}", "making the agent's own directory")
            error.remedy = error.remedy or f"remove what stands at {self.tree.path}/{OWN}"
            raise error from exc
