"""Watching: hints where to look, never what happened; the scan is the truth.

`auto` uses inotify where it can tell (see `inotify`) and polls where it can't: on network file systems, where other
machines change files unseen, and when a limit of the kernel is reached; `why` then names the sysctl to raise. Polling
is nothing but the hint "everything" at each interval. When inotify fails later (a limit reached by new directories, the
root unmounted or removed) the watcher goes over to polling, and tries inotify again from time to time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from agent.directory import syscalls
from agent.directory.hints import EVERYTHING
from agent.directory.inotify import InotifyTree
from agent.errors import RootError

WatchMode = Literal["auto", "poll", False]
WatchKind = Literal["inotify", "poll", "off"]

_ROOT_SECONDS = 2.0  # between two looks whether the root is in its place: no event tells when it is held open
_RETRY_SECONDS = 300.0  # before a limit is tried again: the sysctl may have been raised
_INOTIFY_SETTINGS = Path("/proc/sys/fs/inotify")


class Watcher:
    """Watches one root and calls `on_hint(path)`, from threads of its own.

    path: relative to the root; "a/b" = that file; "a/b/" = that directory and all below it; "" = everything. Changes
    seen through a symlinked directory (`symlinks: follow`) are hinted under the real path only.

    mode: "auto", "poll", or False = never a hint. ignore: True for a directory (no trailing slash) whose content
    doesn't matter; reserved directories are ignored by themselves. on_change: called when `kind` has changed later.

    kind: what it does now. why: why it polls, with the remedy; "" when it was asked to. events, overflows: counters.
    """

    def __init__(
        self,
        root: Path,
        on_hint: Callable[[str], None],
        *,
        mode: WatchMode = "auto",
        poll_interval: float = 5.0,
        ignore: Callable[[str], bool] = lambda directory: False,  # noqa: ARG005 - the name is the documentation
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind: WatchKind = "off"
        self.why = ""
        self._root = root
        self._on_hint = on_hint
        self._mode = mode
        self._poll_interval = poll_interval
        self._ignore = ignore
        self._on_change = on_change
        self._lock = threading.Lock()
        self._tree: InotifyTree | None = None
        self._counted = (0, 0)  # events and overflows of trees that have ended
        self._retry_at = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def events(self) -> int:
        tree = self._tree
        return self._counted[0] + (tree.events if tree else 0)

    @property
    def overflows(self) -> int:
        tree = self._tree
        return self._counted[1] + (tree.overflows if tree else 0)

    def start(self) -> None:
        """Begin; when it returns, every later change will be hinted. Raises RootError when there is no directory."""
        if self._mode is False:
            return
        if not self._root.is_dir():
            raise RootError(f"{self._root}: the directory doesn't exist", remedy="create it, or correct `directory`")
        if self._mode == "poll" or not self._watch():
            self.kind = "poll"
        self._thread = threading.Thread(target=self._tick, name=f"jetsync-watch {self._root}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; when it returns, there are no more hints. Not to be called from a hint."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        tree = self._tree
        if tree is not None:
            tree.close()
            self._retire(tree)
        self.kind = "off"

    def refresh(self) -> None:
        """Watch what `ignore` lets in by now; to be called when the filters have changed."""
        tree = self._tree
        if tree is not None:
            try:
                tree.refresh()
            except OSError as exc:
                tree.close()
                self._failed(tree, exc)

    # ---- the thread ----

    def _tick(self) -> None:
        while not self._stopping.wait(self._poll_interval if self.kind == "poll" else _ROOT_SECONDS):
            tree = self._tree
            if tree is not None:
                if _identity(self._root) != tree.identity:
                    tree.close()
                    self._failed(tree, None)
                continue
            if self._mode == "auto" and time.monotonic() >= self._retry_at and self._root.is_dir() and self._watch():
                self._on_change()
            self._on_hint(EVERYTHING)

    # ---- inotify ----

    def _watch(self) -> bool:
        """Arm inotify; False (and `why`) when that can't be."""
        network = _network_file_system(self._root)
        if network:
            self.why = f"{self._root} is on {network}, where inotify doesn't see what other machines change"
            return False
        tree = InotifyTree(
            self._root,
            on_hint=self._on_hint,
            ignore=self._ignore,
            on_failure=lambda cause: self._failed(tree, cause),
        )
        self._tree = tree
        self.kind, self.why = "inotify", ""
        try:
            tree.arm()
        except OSError as exc:
            self._to_polling(tree, exc)
            return False
        return self._tree is tree  # else it has failed already

    def _failed(self, tree: InotifyTree, cause: Exception | None) -> None:
        """inotify can't go on: from here on it is polling, and all that may have been missed is hinted now."""
        self._to_polling(tree, cause)
        if not self._stopping.is_set():
            self._on_hint(EVERYTHING)
            self._on_change()

    def _to_polling(self, tree: InotifyTree, cause: Exception | None) -> None:
        self._retire(tree)
        self.kind = "poll"
        if cause is None:
            self.why = f"{self._root} was moved, removed, replaced or unmounted"
            self._retry_at = 0.0  # at each poll: it may be back
        else:
            self.why = _reason(cause, self._root)
            self._retry_at = time.monotonic() + _RETRY_SECONDS

    def _retire(self, tree: InotifyTree) -> None:
        with self._lock:
            if self._tree is tree:
                self._counted = (self._counted[0] + tree.events, self._counted[1] + tree.overflows)
                self._tree = None


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _network_file_system(root: Path) -> str:
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return syscalls.network_file_system(fd)
    finally:
        os.close(fd)


def _reason(exc: Exception, root: Path) -> str:
    """Why inotify can't be used, with what to do about it."""
    number = exc.errno if isinstance(exc, OSError) else None
    if number == errno.ENOSPC:
        return _limit("max_user_watches", "too many directories to watch")
    if number == errno.EMFILE:
        return _limit("max_user_instances", "too many inotify instances (or open files: see ulimit -n)")
    return f"{root} can't be watched: {exc}"


def _limit(setting: str, what: str) -> str:
    try:
        value = (_INOTIFY_SETTINGS / setting).read_text().strip()
    except OSError:
        value = "unknown"
    return f"{what}: raise sysctl fs.inotify.{setting}, which is {value}"
