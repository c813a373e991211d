"""Putting many staged files in place at once.

Most files of a lot are new, and stand side by side in few directories. So each directory is opened once for the lot;
then a new file costs one rename that never overwrites, and one lstat. Whatever isn't so plain (something is there
already, a file is replaced, its directory has just gone, the file system lacks the rename) takes the general way of
`apply`, alone, which also knows what to tell.

A descriptor goes on naming a directory that others move away meanwhile (see `dirfd`). So at the end of the lot each
path is looked at again: the files that went into a directory which isn't at its path any more are stale.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from agent.core.entries import Local
from agent.directory import syscalls
from agent.directory.apply import Applier, local_of
from agent.directory.dirfd import Tree
from agent.directory.stage import Staged
from agent.errors import DirectoryError, StaleError


class Placing(NamedTuple):
    """A finished staged file, and what is expected at its path."""

    path: str
    staged: Staged
    expected: Local | None


class Parents:
    """The directories of a lot by descriptor, each opened, or made, once. Used by one thread; a context manager."""

    def __init__(self, tree: Tree, applier: Applier) -> None:
        self._tree = tree
        self._applier = applier
        self._opened: dict[str, int] = {}

    def __getitem__(self, directory: str) -> int:
        """Raises OSError, StaleError."""
        fd = self._opened.get(directory)
        if fd is None:
            fd = self._opened[directory] = self._applier.open_parent(directory, durable=False)
        return fd

    def moved(self) -> set[str]:
        """The directories that aren't where they were opened any more."""
        return {directory for directory, fd in self._opened.items() if not self._is_at(directory, fd)}

    def _is_at(self, directory: str, fd: int) -> bool:
        try:
            again = self._tree.open_directory(directory)
        except OSError:
            return False
        try:
            return os.path.sameopenfile(fd, again)
        finally:
            os.close(again)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for fd in self._opened.values():
            os.close(fd)


def put_many(tree: Tree, applier: Applier, items: Iterable[Placing]) -> list[Local | DirectoryError]:
    """The local side of each path afterwards, or why the file isn't there. Not durable before the next `sync`."""
    results: list[Local | DirectoryError] = []
    plain: list[int] = []
    items = list(items)
    with Parents(tree, applier) as parents:
        for item in items:
            try:
                local = _put_new(tree, applier, item, parents)
                if local is not None:
                    plain.append(len(results))
                else:
                    local = applier.put_file(item.path, item.staged, item.expected, durable=False).local
                results.append(local)
            except DirectoryError as error:
                results.append(error)
        _take_back(items, results, plain, parents.moved())
    return results


def _put_new(tree: Tree, applier: Applier, item: Placing, parents: Parents) -> Local | None:
    """Put a file where nothing is; None: that isn't all there is to do."""
    path, staged, expected = item
    if expected is not None or not tree.can.noreplace:
        return None
    applier.check(path, None)
    directory, _, name = path.rpartition("/")
    try:
        fd = parents[directory]
        syscalls.renameat2(staged.staging_fd, staged.name, fd, name, syscalls.RENAME_NOREPLACE)
    except (OSError, StaleError):
        return None
    staged.placed = True
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        raise StaleError(f"{path}: gone as soon as it was there") from error
    return local_of(status, staged)


def _take_back(
    items: Sequence[Placing], results: list[Local | DirectoryError], plain: Sequence[int], moved: set[str]
) -> None:
    if not moved:
        return
    for index in plain:
        path = items[index].path
        if path.rpartition("/")[0] in moved:
            results[index] = StaleError(f"{path}: its directory was moved away meanwhile")
