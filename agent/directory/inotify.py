"""Watching a tree with inotify, on watchdog's own callback interface (`WatchCallback`, watchdog >= 7.1).

One level below watchdog's observer, for three reasons: its emitter holds later events back for up to 0.5 s behind a
file that was moved out; it watches excluded directories too; and it has no use for paths of moves, while a hint is only
"look here": a move is two hints, and no pairing is needed. What stays watchdog's is the kernel interface, its reader
thread and its report of queue overflows.

A directory is watched *before* it is listed, so that what appears in it is either seen by an event or by the listing;
and it is hinted after that, so that the scan which follows the hint sees whatever came before the watch. When the
kernel's queue overflows the watches themselves may be wrong (a missed mkdir or rename), so the tree is walked and
watched anew, and only then everything is hinted.

A directory that can't be watched or listed because its permissions, or those of one above it, forbid it is remembered,
and tried again when the permissions of either change.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from agent.core import names
from agent.directory.hints import EVERYTHING

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
    | InotifyConstants.IN_EXCL_UNLINK
)
_IS_DIRECTORY = int(InotifyConstants.IN_ISDIR)
_APPEARED = int(InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO)
_VANISHED = int(InotifyConstants.IN_DELETE | InotifyConstants.IN_MOVED_FROM)
_MOVED_OUT = int(InotifyConstants.IN_MOVED_FROM)
_REMOVED = int(InotifyConstants.IN_DELETE)
_ATTRIBUTES = int(InotifyConstants.IN_ATTRIB)

# The directory is gone, isn't one any more, or its path is longer than the kernel takes: the next rescan sees to it.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


@dataclass(slots=True)
class _Watched:
    path: str  # relative to the root; "" = the root
    number: CallbackId


class InotifyTree(WatchCallback):
    """The watches of one root. `arm` it, then events become hints until `close`.

    on_hint: called from watchdog's thread with a relative path; "a/" = the directory and all below it; "" = everything.
    ignore: of a directory's relative path; True = don't watch it. on_failure: called at most once from that thread when
    watching can't go on (OSError of the kernel, or the root's watch is lost: None); nothing is hinted after it.
    """

    def __init__(
        self,
        root: Path,
        *,
        on_hint: Callable[[str], None],
        ignore: Callable[[str], bool],
        on_failure: Callable[[Exception | None], None],
    ) -> None:
        self.events = 0
        self.overflows = 0
        self._root = os.fspath(root)
        self._on_hint = on_hint
        self._ignore = ignore
        self._on_failure = on_failure
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._watched: dict[WatchDescriptor, _Watched] = {}
        self._by_path: dict[str, WatchDescriptor] = {}
        self._forbidden: set[str] = set()  # directories that we may not watch, list, or reach
        self._inotify: InotifyFD | None = None
        self._device = 0
        self.identity = (0, 0)  # device and inode of the root that is watched

    def arm(self) -> None:
        """Watch the whole tree; from the return on no change stays unnoticed. Raises OSError (limits; no root)."""
        inotify = InotifyFD()  # an instance of our own: its overflow is about this tree only
        inotify.name = f"jetsync-inotify {self._root}"
        self._inotify = inotify
        try:
            status = os.stat(self._root)
            self._device = status.st_dev
            self.identity = (status.st_dev, status.st_ino)
            with self._lock:
                if not self._watch_tree(""):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._root)
        except BaseException:
            self._inotify = None
            # The thread has never run, so that it is for us to close what it holds.
            inotify.start()
            inotify.stop()
            inotify.join()
            raise
        inotify.start()

    def refresh(self) -> None:
        """Watch what `ignore` lets in by now. Raises OSError."""
        with self._lock:
            if self._inotify is not None:
                self._rebuild()

    def close(self) -> None:
        """Stop; from the return on nothing is hinted (unless called from a hint itself)."""
        with self._lock:
            inotify, self._inotify = self._inotify, None
            self._watched.clear()
            self._by_path.clear()
            self._forbidden.clear()
        if inotify is not None:
            inotify.stop()
            if inotify is not threading.current_thread():
                inotify.join()

    def __len__(self) -> int:
        return len(self._watched)

    # ---- called by watchdog, from its thread ----

    def on_event(self, event: InotifyEvent) -> None:
        try:
            with self._lock:
                if self._inotify is not None:
                    self._handle(event.wd, int(event.mask), event.name)
        except Exception as exc:  # noqa: BLE001 - it would end watchdog's thread, and watching, without a word
            self._fail(exc)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        with self._lock:
            if self._inotify is None:
                return
            watched = self._watched.pop(wd, None)
            if watched is None:
                return
            if self._by_path.get(watched.path) == wd:
                del self._by_path[watched.path]
        if not watched.path:
            self._fail(None)

    def on_queue_overflow(self) -> None:
        try:
            with self._lock:
                if self._inotify is None:
                    return
                self.overflows += 1
                self._rebuild()
            self._on_hint(EVERYTHING)
        except Exception as exc:  # noqa: BLE001 - as in on_event
            self._fail(exc)

    # ---- events ----

    def _handle(self, wd: WatchDescriptor, mask: int, encoded: bytes) -> None:
        watched = self._watched.get(wd)
        if watched is None:
            return  # of a directory that has been moved or removed
        self.events += 1
        if not encoded:
            if not watched.path:
                if mask & _ATTRIBUTES and self._permit(""):
                    self._watch_tree("")
                self._on_hint(EVERYTHING)  # the root itself was moved, removed, unmounted, or got other permissions
            return  # of a subdirectory itself: its parent tells the same, with its name
        name = os.fsdecode(encoded)
        path = f"{watched.path}/{name}" if watched.path else name
        if not mask & _IS_DIRECTORY:
            self._on_hint(path)
            return
        if names.reserved_name(name, directory=True):
            return
        if mask & _REMOVED:
            self._forget([path])  # it was empty, or its subdirectories were told before
        elif mask & (_VANISHED | _APPEARED):
            self._forget_tree(path)
        was_forbidden = self._permit(path)
        # When two directories change places (RENAME_EXCHANGE), "came" is told before "went": something is there still.
        if mask & (_APPEARED | _MOVED_OUT) or (mask & _ATTRIBUTES and was_forbidden):
            self._watch_tree(path)
        self._on_hint(path + "/")

    def _fail(self, cause: Exception | None) -> None:
        with self._lock:
            if self._inotify is None:
                return
        self.close()
        self._on_failure(cause)

    # ---- watches ----

    def _watch_tree(self, path: str) -> bool:
        """Watch a directory and all below it; False when it isn't there. Raises OSError when a limit is reached."""
        if not self._watch(path):
            return False
        todo = [path]
        while todo:
            directory = todo.pop()
            prefix = f"{directory}/" if directory else ""
            for name in self._subdirectories(directory):
                below = prefix + name
                if self._watch(below):
                    todo.append(below)
        return True

    def _subdirectories(self, directory: str) -> list[str]:
        try:
            with os.scandir(f"{self._root}/{directory}") as found:
                return [one.name for one in found if one.is_dir(follow_symlinks=False)]
        except PermissionError:
            self._forbidden.add(directory)
            return []
        except OSError:
            return []  # gone: the scan tells

    def _watch(self, path: str) -> bool:
        if path and (names.reserved_name(path.rpartition("/")[2], directory=True) or self._ignore(path)):
            return False
        assert self._inotify is not None
        absolute = f"{self._root}/{path}" if path else self._root + "/."
        number = CallbackId(next(self._numbers))
        try:
            if path and os.lstat(absolute).st_dev != self._device:
                return False  # a nested mount isn't part of the tree
            wd = self._inotify.add_callback(os.fsencode(absolute), _MASK, self, number)
        except PermissionError:
            wd = WatchDescriptor(-1)
        except OSError as exc:
            if exc.errno in _NOT_THERE:
                return False
            raise
        if wd < 0:
            self._forbidden.add(path)  # the scan tells
            return False
        before = self._watched.get(wd)
        self._watched[wd] = _Watched(path, number)
        self._by_path[path] = wd
        if before is not None:
            # The same directory under an older name, whose events are still in the queue.
            self._inotify.remove_callbacks([(wd, before.number)])
            if before.path != path and self._by_path.get(before.path) == wd:
                del self._by_path[before.path]
        return True

    def _permit(self, path: str) -> bool:
        """Forget what was forbidden at or below `path`; whether anything was."""
        inside = {one for one in self._forbidden if not path or one == path or one.startswith(path + "/")}
        self._forbidden -= inside
        return bool(inside)

    def _forget_tree(self, path: str) -> None:
        if path not in self._by_path:
            return
        prefix = path + "/"
        self._forget([one for one in self._by_path if one == path or one.startswith(prefix)])

    def _forget(self, paths: list[str]) -> None:
        self._unwatch([self._by_path.pop(path) for path in paths if path in self._by_path])

    def _unwatch(self, descriptors: list[WatchDescriptor]) -> None:
        assert self._inotify is not None
        removed = [(wd, self._watched.pop(wd)) for wd in descriptors if wd in self._watched]
        self._inotify.remove_callbacks([(wd, watched.number) for wd, watched in removed])

    def _rebuild(self) -> None:
        """Walk the tree again. Directories that are still there keep their kernel watch, and so lose no event."""
        before = set(self._watched)
        self._by_path.clear()
        self._forbidden.clear()
        self._watch_tree("")
        now = set(self._by_path.values())
        self._unwatch([wd for wd in before if wd not in now])
