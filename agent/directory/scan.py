"""Scanning: one ordered walk of the tree, merged with what is known of it, yielding only the differences.

Both sides come in bytewise order of the path: the disk because the names of each directory are sorted (a directory as
`name/`, so that "a.txt" < "a/b" < "a0"; code point order of str is byte order of UTF-8), the known side because the
caller reads it from an index. So one pass of comparisons finds what is new, different or gone, and the memory needed is
the names of one directory for each level of the tree. The known side comes as plain tuples, and nearly every path is a
file that is what its tuple says; for the others the whole local side is asked for.

What is not said matters most: nothing below a directory that can't be read, that lies on another file system, or whose
.jetsyncignore can't be read is ever "gone"; and nothing is gone after a scan that was stopped. A known path that the
filters have come to exclude is `excluded`, whether it is still there or not, so that excluding is never taken for
deleting.

The paths of directories end in "/" in hints too ("a/b/" is unreadable), which puts a problem of a directory in order
right before all that would be below it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from agent.core.entries import SIGHTED_FILE, Entry, Kind, Local, Obstacle, Reason, Sighting
from agent.core.filters import Filters
from agent.core.values import light
from agent.directory import faults
from agent.directory.follow import DanglingError, OutsideError
from agent.directory.listing import Level, open_level, read_ignore_file, reopen
from agent.directory.look import DANGLING, OUTSIDE, Looker, problem_of_name

HintKind = Literal["look", "gone", "excluded", "problem"]

_OPEN_LEVELS = 32  # directories kept open on the way down; those above are opened again on the way up
_MAX_FOLLOWED = 8  # symlinked directories within each other, with `follow`
_STRIDE = 2000  # names between two questions whether to stop

_NOT_UTF8 = Obstacle(Reason.NOT_UTF8, "the name isn't UTF-8; rename it")
_LOOP = Obstacle(Reason.BROKEN_LINK, "the symlink leads back to a directory above it, or too deep; exclude it")
_DIRECTORY_ENTRY = Entry(Kind.DIRECTORY)
_FORMAT = 0o170000
_REGULAR = 0o100000


@light
@dataclass(frozen=True, slots=True)
class Hint:
    """One difference between the disk and what is known.

    look: new or different, or racy: look at it. gone: known, and not on the disk in a directory that was read.
    excluded: known, and no longer inside by the filters or options. problem: can't be part of the tree; `obstacle` says
    why.
    """

    path: str
    kind: HintKind
    obstacle: Obstacle | None = None


class Known(Protocol):
    """What is known of the local side."""

    def local_signatures(self, below: str = "", /) -> Iterator[Sighting]:
        """What isn't absent below a directory (without trailing slash), in bytewise order of the path."""

    def local_side(self, path: str, /) -> Local | None:
        """The local side of one path."""


class Scan:
    """An iterator of hints; when it has ended, what the walk came to.

    complete: the whole tree was seen, but for what was reported as a problem. files, bytes: of the regular files inside
    the filters. problems: paths that can't be part of the tree (new or known), those skipped on purpose not counted.
    filters: as given, with the .jetsyncignore files as they were met; another object when one has changed.

    Raises RootError when the root isn't in its place at the start or the end, SpaceError when out of descriptors.
    """

    def __init__(
        self,
        looker: Looker,
        known: Known,
        filters: Filters,
        *,
        below: str = "",
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.filters = filters
        self.complete = False
        self.files = 0
        self.bytes = 0
        self.problems = 0
        self._looker = looker
        self._follow = looker.follow
        self._device = looker.tree.device
        self._limit = looker.options.max_size if looker.options.max_size is not None else 1 << 63
        self._empty_directories = looker.options.empty_directories
        self._prefix = f"{below.rstrip('/')}/" if below.rstrip("/") else ""
        self._stop = stop
        self._side = known.local_side
        sightings = known.local_signatures(below.rstrip("/"))
        # What isn't below would all seem to be gone; so it isn't left to the caller alone.
        self._known = (one for one in sightings if one[0].startswith(self._prefix)) if self._prefix else sightings
        self._path: str | None = None  # the next known path; None = no more
        self._sighting: Sighting | None = None  # of it
        self._ignore_files = set(filters.ignore_files)
        self._torn = False  # a directory was moved away under the walk
        self._hints = self._walk()

    def __iter__(self) -> Iterator[Hint]:
        return self._hints

    # ---- the walk ----

    def _walk(self) -> Iterator[Hint]:
        self._looker.tree.check_root()
        self._advance()
        levels: list[Level] = []
        try:
            yield from self._enter(levels, self._prefix, None)
            while levels:
                if self._stop():
                    return
                level = levels[-1]
                name = yield from self._files(level)
                if name is None:
                    os.close(levels.pop().fd)
                    yield from self._back_to(levels)
                elif name:
                    yield from self._enter(levels, level.prefix + name, level)
        finally:
            for level in levels:
                if level.fd >= 0:
                    os.close(level.fd)
        self._looker.tree.check_root()
        yield from self._gone_until(None)
        self.complete = not self._torn

    def _files(self, level: Level) -> Generator[Hint, None, str | None]:
        """Compare the entries of a directory up to the next subdirectory, whose name is the result.

        "" = only up to the next question whether to stop; None = the directory is done.
        """
        prefix, fd, follow, limit = level.prefix, level.fd, self._follow, self._limit
        allows, plain = self.filters.allows, self.filters.takes_plain(prefix[:-1])
        known, stat = self._known, os.stat
        name = None
        for name in islice(level.names, _STRIDE):
            if name[-1] == "/":
                return name
            path = prefix + name
            seen = None
            if self._path is not None and self._path <= path:
                if self._path < path:
                    yield from self._gone_until(path)
                if self._path == path:
                    seen = self._sighting
                    self._sighting = following = next(known, None)  # `_advance`, for the many
                    self._path = None if following is None else following[0]
            if not (plain and name[0] != "." and name.isascii()) and not allows(path):
                if seen is not None:
                    yield Hint(path, "excluded")
                continue
            if "\\" in name:
                odd = _NOT_UTF8 if name in level.odd else problem_of_name(name, path)
                yield from self._problem(path, self._local(seen), odd)
                continue
            try:
                status = self._followed(path) if follow else stat(name, dir_fd=fd, follow_symlinks=False)
            except (OSError, OutsideError, DanglingError) as exc:
                yield from self._unknown(path, self._local(seen), exc)
                continue
            if status.st_mode & _FORMAT == _REGULAR and status.st_size <= limit:
                self.files += 1
                self.bytes += status.st_size
                if seen is not None and (_is_sighted(seen, status) or _unchanged(self._side(path), status)):
                    continue
            yield from self._differing(path, name, fd, status, self._local(seen))
        return None if name is None else ""

    def _differing(self, path: str, name: str, fd: int, status: os.stat_result, local: Local | None) -> Iterator[Hint]:
        """An entry that isn't a file of a known signature: what has changed, if anything."""
        problem = problem_of_name(name, path)
        if problem:
            yield from self._problem(path, local, problem)
            return
        if status.st_mode & _FORMAT == _REGULAR and status.st_size <= self._limit and status.st_dev == self._device:
            yield Hint(path, "look")  # what `classify` would say, for the many
            return
        found = self._looker.classify(path, status, fd, name)
        if isinstance(found.side, Obstacle):
            yield from self._problem(path, local, found.side)
        elif found.kind == "link" and local is not None and local.side == found.side:
            return
        else:
            yield Hint(path, "look")

    # ---- directories ----

    def _enter(self, levels: list[Level], prefix: str, parent: Level | None) -> Iterator[Hint]:
        """Open the directory of `prefix` as the next level; where that can't be, nothing below it is gone."""
        yield from self._gone_until(prefix)
        directory = prefix[:-1]
        if directory and self.filters.prunes(directory):
            yield from self._pass_over(prefix, excluded=True)
            return
        name = directory.rpartition("/")[2] + "/"
        problem = self._problem_of_directory(directory, name, parent)
        if problem:
            yield from self._directory_problem(prefix, problem)
            return
        try:
            level = open_level(self._looker, prefix, parent)
        except (OSError, OutsideError, DanglingError) as exc:
            yield from self._not_entered(prefix, exc)
            return
        problem = self._join_chain(level, parent, name) if self._follow else None
        problem = problem or self._take_ignore_file(level)
        if problem:
            os.close(level.fd)
            yield from self._directory_problem(prefix, problem)
            return
        levels.append(level)
        if len(levels) > _OPEN_LEVELS and levels[-_OPEN_LEVELS - 1].fd >= 0:
            os.close(levels[-_OPEN_LEVELS - 1].fd)
            levels[-_OPEN_LEVELS - 1].fd = -1
        if level.is_empty and prefix and self._empty_directories and self.filters.allows(prefix):
            yield from self._empty_directory(prefix)

    def _back_to(self, levels: list[Level]) -> Iterator[Hint]:
        """Go on in the directory above, which may have to be opened again."""
        while levels and levels[-1].fd < 0 and not reopen(self._looker, levels[-1]):
            # It was moved away under us: of the rest of it nothing is known. The watcher tells, or the next scan.
            self._torn = True
            yield from self._pass_over(levels.pop().prefix, excluded=False)

    def _empty_directory(self, prefix: str) -> Iterator[Hint]:
        local = self._take(prefix)
        if local is None or local.side != _DIRECTORY_ENTRY:
            yield Hint(prefix, "look")

    def _problem_of_directory(self, directory: str, name: str, parent: Level | None) -> Obstacle | None:
        if not directory:
            return None
        if parent is not None and name in parent.odd:
            return _NOT_UTF8
        return problem_of_name(name[:-1], directory)

    def _not_entered(self, prefix: str, exc: Exception) -> Iterator[Hint]:
        if isinstance(exc, OSError):
            if not faults.is_absent(exc):
                yield from self._directory_problem(prefix, faults.obstacle(exc, prefix))
            elif prefix and not isinstance(exc, FileNotFoundError):
                yield Hint(prefix[:-1], "look")  # a file or link has taken the directory's place
            return
        yield from self._directory_problem(prefix, OUTSIDE if isinstance(exc, OutsideError) else DANGLING)

    def _join_chain(self, level: Level, parent: Level | None, name: str) -> Obstacle | None:
        """With `follow`: see that the directory isn't one of those above it."""
        if parent is not None:
            if level.identity in parent.chain:
                return _LOOP
            level.followed = parent.followed + (name in parent.linked)
            if level.followed > _MAX_FOLLOWED:
                return _LOOP
        level.chain = (parent.chain if parent else frozenset()) | {level.identity}
        return None

    def _take_ignore_file(self, level: Level) -> Obstacle | None:
        directory = level.prefix[:-1]
        if not level.has_ignore_file and directory not in self._ignore_files:
            return None
        try:
            text = read_ignore_file(level)
        except OSError as exc:
            # Without its rules, what they are meant to keep at home could be sent.
            detail = f"its .jetsyncignore can't be read ({exc.strerror}); make it a readable file"
            return Obstacle(Reason.UNREADABLE, detail)
        self.filters = self.filters.with_ignore_file(directory, text)
        if text is not None:
            self._ignore_files.add(directory)
        return None

    # ---- the known side ----

    def _advance(self) -> None:
        self._sighting = sighting = next(self._known, None)
        self._path = None if sighting is None else sighting[0]

    def _local(self, sighting: Sighting | None) -> Local | None:
        return None if sighting is None else self._side(sighting[0])

    def _take(self, path: str) -> Local | None:
        """The local side of a path, when it is the next one that is known; it is passed by then."""
        if self._path != path:
            return None
        self._advance()
        return self._side(path)

    def _gone_until(self, limit: str | None) -> Iterator[Hint]:
        """Known paths before `limit` (None = all that are left): the walk has passed the place where they would be."""
        while self._path is not None and (limit is None or self._path < limit):
            yield self._gone(self._path)
            self._advance()

    def _gone(self, path: str) -> Hint:
        switched_off = path[-1] == "/" and not self._empty_directories
        return Hint(path, "excluded" if switched_off or not self.filters.allows(path) else "gone")

    def _pass_over(self, prefix: str, *, excluded: bool) -> Iterator[Hint]:
        while self._path is not None and self._path.startswith(prefix):
            if excluded:
                yield Hint(self._path, "excluded")
            self._advance()

    # ---- problems ----

    def _problem(self, path: str, local: Local | None, obstacle: Obstacle | None) -> Iterator[Hint]:
        assert obstacle is not None
        self.problems += not obstacle.reason.skipped
        if local is None or not isinstance(local.side, Obstacle) or local.side.reason is not obstacle.reason:
            yield Hint(path, "problem", obstacle)

    def _directory_problem(self, prefix: str, obstacle: Obstacle) -> Iterator[Hint]:
        yield from self._problem(prefix, self._take(prefix), obstacle)
        yield from self._pass_over(prefix, excluded=False)

    def _unknown(self, path: str, local: Local | None, exc: Exception) -> Iterator[Hint]:
        """An entry that was listed and whose lstat then failed."""
        if not isinstance(exc, OSError):
            yield from self._problem(path, local, OUTSIDE if isinstance(exc, OutsideError) else DANGLING)
        elif not faults.is_absent(exc):
            yield from self._problem(path, local, faults.obstacle(exc, path))
        elif local is not None:
            yield self._gone(path)

    def _followed(self, path: str) -> os.stat_result:
        fd = self._looker.open(path, os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)


def _is_sighted(sighting: Sighting, status: os.stat_result) -> bool:
    """Whether a regular file is the one that was sighted, as far as the plain tuple says."""
    _, kind, size, mtime_ns, ctime_ns, inode, mode, racy = sighting
    return (
        mtime_ns == status.st_mtime_ns
        and ctime_ns == status.st_ctime_ns
        and inode == status.st_ino
        and size == status.st_size
        and mode == status.st_mode & 0o7777
        and kind == SIGHTED_FILE  # a link's inode may have come back as this file's
        and not racy
    )


def _unchanged(local: Local | None, status: os.stat_result) -> bool:
    """The same by the whole local side, which has times of any size."""
    signature = local.signature if local is not None else None
    return (
        local is not None
        and signature is not None
        and signature.mtime_ns == status.st_mtime_ns
        and signature.ctime_ns == status.st_ctime_ns
        and signature.inode == status.st_ino
        and signature.size == status.st_size
        and signature.mode == status.st_mode & 0o7777
        and not local.racy
        and isinstance(local.side, Entry)
        and local.side.kind is Kind.FILE
    )
