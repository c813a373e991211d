"""Removing a whole tree of our own: by descriptor, never through a link, never into another file system."""

from __future__ import annotations

import os

from agent.directory.dirfd import Beneath


def remove_tree(top: Beneath, path: str) -> None:
    """Remove the directory `path` with all it has; a loop, as trees may be deep. What can't be removed stays."""
    todo = [(path, False)]
    while todo:
        directory, emptied = todo.pop()
        try:
            if emptied:
                with top.parent(directory) as (fd, name):
                    os.rmdir(name, dir_fd=fd)
                continue
            todo.append((directory, True))
            fd = top.open_directory(directory)
        except OSError:
            continue
        try:
            for entry in os.listdir(fd):
                todo.extend([] if _unlinked(fd, entry) else [(f"{directory}/{entry}", False)])
        finally:
            os.close(fd)


def _unlinked(fd: int, name: str) -> bool:
    """Whether `name` is dealt with; False for a directory."""
    try:
        os.unlink(name, dir_fd=fd)
    except IsADirectoryError:
        return False
    except OSError:
        pass  # not ours, or gone
    return True
