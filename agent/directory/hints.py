"""Between the watcher's thread and the loop that acts: a set of paths, and one wake-up for however many there are."""

from __future__ import annotations

import threading
from collections.abc import Callable

EVERYTHING = ""  # the hint that says: look at the whole tree
_LIMIT = 100_000  # paths; beyond that, looking at everything is cheaper than at each


class HintBuffer:
    """Collects hints until they are drained. `add` is meant as a Watcher's `on_hint`. Thread-safe.

    wake: called (from the adding thread) when the buffer stops being empty, so once for each drain at most; mostly
    `lambda: loop.call_soon_threadsafe(event.set)`.
    """

    def __init__(self, wake: Callable[[], None], *, limit: int = _LIMIT) -> None:
        self._wake = wake
        self._limit = limit
        self._lock = threading.Lock()
        self._paths: set[str] = set()

    def add(self, path: str) -> None:
        """Keep a hint. More than `limit` of them become EVERYTHING, which stands for all the others."""
        with self._lock:
            first = not self._paths
            if EVERYTHING in self._paths:
                return
            if path == EVERYTHING or len(self._paths) >= self._limit:
                self._paths = {EVERYTHING}
            else:
                self._paths.add(path)
        if first:
            self._wake()

    def drain(self) -> set[str]:
        """Take all hints out. {""} means everything."""
        with self._lock:
            paths, self._paths = self._paths, set()
        return paths

    def __len__(self) -> int:
        return len(self._paths)
