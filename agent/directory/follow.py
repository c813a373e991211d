"""Resolving symlinks in user space, for `symlinks: follow`: anywhere inside the root, never out of it.

Each component is opened by descriptor with O_NOFOLLOW; a symlink's text is read from the descriptor and its words are
put in front of the rest. ".." goes back to the descriptor of the directory it came through, and past the root is
outside, as is an absolute target: even one that leads back in would mean another place on another machine. So the
answer can't be changed by renames that happen meanwhile into something outside of the root.
"""

from __future__ import annotations

import errno
import os
import stat

from agent.core.names import reserved_name
from agent.directory.dirfd import Tree

_MAX_LINKS = 40  # as the kernel: more is a loop


class OutsideError(Exception):
    """A symlink on the way leads out of the root, or into what is reserved there."""


class DanglingError(Exception):
    """A symlink on the way points to nothing, or in a circle."""


def open_following(tree: Tree, path: str, flags: int) -> int:
    """Open what `path` is when symlinks are followed. The descriptor never is a symlink.

    Raises OutsideError, DanglingError; OSError as `Tree.open`, ENOENT only when no symlink was on the way.
    """
    walk = _Walk(tree)
    try:
        return walk.open(path, flags)
    except OSError as exc:
        if walk.links and exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise DanglingError(path) from exc
        raise
    finally:
        walk.close()


class _Walk:
    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.links = 0
        self.opened: list[int] = []  # the directories entered below the root, outermost first

    @property
    def here(self) -> int:
        return self.opened[-1] if self.opened else self.tree.fd

    def close(self) -> None:
        for fd in self.opened:
            os.close(fd)

    def open(self, path: str, flags: int) -> int:
        rest = list(reversed(path.split("/"))) if path else []
        while rest:
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                self._back(path)
                continue
            text = self._step(name, last=not rest)
            if text is None:
                if not rest:
                    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.here)
                continue
            if text.startswith("/"):
                raise OutsideError(path)
            rest.extend(reversed(text.split("/")))
        # The path ended in "." or "..": it is a directory we have already entered.
        return os.open(".", flags | os.O_CLOEXEC, dir_fd=self.here)

    def _back(self, path: str) -> None:
        if not self.opened:
            raise OutsideError(path)
        os.close(self.opened.pop())

    def _step(self, name: str, *, last: bool) -> str | None:
        """Enter the directory `name`, or give the text of the symlink that it is. The last component isn't entered."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.here)
        try:
            status = os.fstat(fd)
            if stat.S_ISLNK(status.st_mode):
                self.links += 1
                if self.links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
                return os.readlink("", dir_fd=fd)
            if self.links and reserved_name(name, directory=stat.S_ISDIR(status.st_mode)):
                raise OutsideError(name)
            if stat.S_ISDIR(status.st_mode) and status.st_dev != self.tree.device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
            if not last:
                if not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
                self.opened.append(fd)
                fd = -1
            return None
        finally:
            if fd >= 0:
                os.close(fd)
