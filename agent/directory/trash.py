"""The trash: overwritten and deleted local files, kept for a while under `.jetsync/trash/<time>-<counter>/<path>`.

What happens within a minute shares one batch directory, unless a path would come into it twice; so ten thousand
deletions make one directory, and each version of a path still has its own name. A slot is handed out before the file
moves, because files enter the trash by the very rename that takes them off their place: there is no moment at which a
crash could leave them elsewhere. Without trash (`trash: 0s`) files take the same way and are then removed.

The trash is bounded by age (`expire`) and by size (`trim`): it never holds more than half of what would be free without
it, and gives way when the file system is full. The oldest batches go first.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from agent.directory import faults
from agent.directory.dirfd import Beneath
from agent.directory.own import TRASH, OwnPlace
from agent.directory.removal import remove_tree
from agent.directory.space import Room, Space
from agent.errors import StaleError

_BATCH = re.compile(r"(\d{8}T\d{6}Z)-(\d+)")
_BATCH_SECONDS = 60.0
_BATCH_PATHS = 10_000
_ATTEMPTS = 10
SHARE = 0.5
"""Of the free space and the trash together, what the trash may hold."""
_BLOCK = 512  # of st_blocks


class Spot(NamedTuple):
    """A name in an open directory."""

    fd: int
    name: str

    def status(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)

    def unlink(self) -> None:
        os.unlink(self.name, dir_fd=self.fd)


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """One kept version. batch: "<time>-<counter>"; time: seconds since 1970 at which its batch began."""

    batch: str
    path: str
    time: float
    size: int


class Trash:
    """The trash of one root. keep: seconds, 0 = off. Thread-safe."""

    def __init__(self, own: OwnPlace, *, keep: float) -> None:
        self._own = own
        self._space = Space(own.tree)
        self.keep = keep
        self._lock = threading.Lock()
        self._batch = ""
        self._began = 0.0
        self._paths: set[str] = set()
        self._sizes: dict[str, int] = {}  # of batches that have ended

    @contextmanager
    def slot(self, path: str) -> Iterator[Spot]:
        """A free place for what stands at `path`; nobody else gets the same. Raises OSError, PathError, SpaceError."""
        for _ in range(_ATTEMPTS):
            batch = ""
            try:
                batch = self._batch_for(path)
                fd = self._open_parent(f"{batch}/{path}")
            except (NotADirectoryError, FileNotFoundError):
                # A file of this batch stands where a directory is needed, or somebody has cleared the trash.
                self._end_batch(batch)
                continue
            except OSError as exc:
                if faults.is_full(exc) and self.trim(self._space.look(), now=True):
                    continue
                raise
            spot = Spot(fd, path.rpartition("/")[2])
            try:
                if _is_free(spot):
                    yield spot
                    return
            finally:
                os.close(fd)
            self._end_batch(batch)
        raise StaleError(f"{path}: no place in the trash")

    def discard(self, spot: Spot) -> None:
        """Remove what went into a slot when there is no trash; a directory that got there by a race stays."""
        if self.keep <= 0:
            spot.unlink()

    def entries(self) -> Iterator[TrashEntry]:
        """All versions, oldest batch first. Nothing is made on the way."""
        top = self._find()
        if top is None:
            return
        for batch, began in _batches(top.fd):
            for path, status in _files_below(top, batch):
                yield TrashEntry(batch, path, began, status.st_size)

    def expire(self, now: float) -> int:
        """Remove the batches that are older than `keep` at `now` (seconds since 1970). Returns how many."""
        top = self._find()
        if top is None:
            return 0
        expired = [batch for batch, began in _batches(top.fd) if began + max(self.keep, _BATCH_SECONDS) < now]
        for batch in expired:
            self._end_batch(batch)
            remove_tree(top, batch)
        return len(expired)

    def trim(self, room: Room, *, now: bool = False) -> int:
        """Remove the oldest batches while the trash holds more than its share, or less than the floor is free.

        now: remove one at least, since space is needed that `room` doesn't show (a quota). Returns how many bytes that
        gave.
        """
        top = self._find()
        batches = _batches(top.fd) if top else []
        if top is None or not batches:
            return 0
        sizes = {batch: self._size(top, batch) for batch, _ in batches}
        self._sizes = {batch: size for batch, size in sizes.items() if batch != self._batch}
        held = sum(sizes.values())
        most = (room.free + held) * SHARE
        gained = 0
        for batch, _ in batches:
            if not (held - gained > most or room.free + gained < room.floor or (now and not gained)):
                break
            self._end_batch(batch)
            remove_tree(top, batch)
            gained += sizes[batch]
            self._sizes.pop(batch, None)
        return gained

    def _size(self, top: Beneath, batch: str) -> int:
        """What the batch takes on the disk. A batch that has ended only gets smaller, by what is restored from it."""
        if batch in self._sizes and batch != self._batch:
            return self._sizes[batch]
        return sum(status.st_blocks * _BLOCK for _, status in _files_below(top, batch) if status.st_nlink == 1)

    @contextmanager
    def kept(self, path: str, batch: str | None = None) -> Iterator[Spot | None]:
        """The newest version of `path` (or that of a batch); None when there is none. Raises OSError."""
        with ExitStack() as stack:
            yield self._newest(stack, path, batch)  # what is raised in there is no news of the trash

    def _newest(self, stack: ExitStack, path: str, batch: str | None) -> Spot | None:
        top = self._find()
        for candidate, _ in reversed(_batches(top.fd)) if top else ():
            if top is None or batch not in (None, candidate):
                continue
            try:
                fd, name = stack.enter_context(top.parent(f"{candidate}/{path}"))
                spot = Spot(fd, name)
                if _is_free(spot) or stat.S_ISDIR(spot.status().st_mode):
                    continue
            except (FileNotFoundError, NotADirectoryError):
                continue
            self._sizes.pop(candidate, None)
            return spot
        return None

    def _find(self) -> Beneath | None:
        fd = self._own.find(TRASH)
        return None if fd is None else Beneath(fd, self._own.tree.can)

    def _open_parent(self, path: str) -> int:
        """The directory for `path` below the trash. A symlink that lies in the trash is never followed."""
        top = Beneath(self._own.trash, self._own.tree.can)
        directory = path.rpartition("/")[0]
        try:
            return top.open_directory(directory)
        except FileNotFoundError:
            top.make_directory(directory, 0o700)
            return top.open_directory(directory)
        except OSError as exc:
            if faults.is_absent(exc):
                raise NotADirectoryError(exc.errno, exc.strerror, path) from exc
            raise

    def _batch_for(self, path: str) -> str:
        with self._lock:
            now = time.time()
            stale = not 0 <= now - self._began < _BATCH_SECONDS  # also when the clock was set back
            if stale or not self._batch or path in self._paths or len(self._paths) >= _BATCH_PATHS:
                self._batch = self._new_batch(now)
                self._began = now
                self._paths = set()
            self._paths.add(path)
            return self._batch

    def _new_batch(self, now: float) -> str:
        stamp = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
        for counter in range(1_000_000):
            batch = f"{stamp}-{counter}"
            try:
                os.mkdir(batch, 0o700, dir_fd=self._own.trash)
            except (FileExistsError, FileNotFoundError):
                continue  # taken; or somebody has just removed the trash, which is made again
            return batch
        raise StaleError("no name is free in the trash")

    def _end_batch(self, batch: str) -> None:
        with self._lock:
            if self._batch == batch:
                self._batch = ""


def _is_free(spot: Spot) -> bool:
    try:
        spot.status()
    except FileNotFoundError:
        return True
    return False


def _batches(trash_fd: int) -> list[tuple[str, float]]:
    """The batches and when they began, oldest first; what people put there besides isn't ours."""
    found = []
    for name in os.listdir(trash_fd):
        match = _BATCH.fullmatch(name)
        if match:
            try:
                began = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            except ValueError:
                continue
            found.append((began, int(match[2]), name))
    return [(name, began) for began, _, name in sorted(found)]


def _files_below(top: Beneath, batch: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything that isn't a directory below a batch, by path relative to it; a loop, as trees may be deep."""
    todo = [""]
    while todo:
        directory = todo.pop()
        try:
            fd = top.open_directory(f"{batch}/{directory}".rstrip("/"))
        except OSError:
            continue  # removed meanwhile, or not ours
        try:
            below = []
            for name in sorted(os.listdir(fd)):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                path = f"{directory}/{name}" if directory else name
                if stat.S_ISDIR(status.st_mode):
                    below.append(path)
                else:
                    yield path, status
            todo.extend(reversed(below))
        except FileNotFoundError:
            continue
        finally:
            os.close(fd)
