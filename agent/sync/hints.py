"""Local hints: which paths to look at, and when they have settled.

The watcher says "something happened at a/x" from its own thread; nothing is believed but the path. A hint waits until
the path has been quiet for `settle` seconds, or until `settle_max` has passed since its first hint, so that a file
that is written for an hour is still looked at. Hints that come from a scan are ready at once. "" means everything.

Two ordered dicts keep this O(1) for each hint: `_quiet` in the order of the last hint, `_first` in that of the first.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass


class Absent(Container[str]):
    """A container of paths that holds what any of `parts` holds."""

    def __init__(self, *parts: Container[str]) -> None:
        self._parts = parts

    def __contains__(self, path: object) -> bool:
        for part in self._parts:  # noqa: SIM110 - a generator costs more than what it looks at
            if path in part:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Looking:
    """What is being looked at. paths: those that no plan may be made for. looks: how many look jobs have ended.
    hints: how many hints wait. searching: whether looks or scans are under way, or settled hints wait for them. quiet:
    no hint and no look is pending at all."""

    paths: Container[str]
    looks: int
    hints: int
    searching: bool
    quiet: bool


class Hints:
    def __init__(self, *, settle: float, settle_max: float) -> None:
        self._settle = settle
        self._settle_max = max(settle, settle_max)
        self._quiet: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._ready: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._quiet) + len(self._ready)

    @property
    def ready(self) -> bool:
        """Some path has settled and waits to be taken."""
        return bool(self._ready)

    def __contains__(self, path: object) -> bool:
        return path in self._quiet or path in self._ready

    def add(self, path: str, now: float) -> None:
        """The watcher saw something at `path`."""
        if path in self._ready:
            del self._ready[path]
        self._quiet.pop(path, None)
        self._quiet[path] = now
        self._first.setdefault(path, now)

    def add_ready(self, paths: Iterable[str]) -> None:
        """Paths that need no quiet time: found by a scan, or asked for."""
        for path in paths:
            if path not in self._quiet:
                self._ready[path] = None

    def hasten(self, path: str) -> None:
        """The hint needs no quiet time any more."""
        if self._quiet.pop(path, None) is not None:
            self._first.pop(path, None)
            self._ready[path] = None

    def take(self, now: float, limit: int, busy: Container[str] = frozenset()) -> list[str]:
        """Up to `limit` settled paths that aren't `busy`; they are forgotten here."""
        self._ripen(now)
        taken: list[str] = []
        for path in self._ready:
            if len(taken) == limit:
                break
            if path not in busy:
                taken.append(path)
        for path in taken:
            del self._ready[path]
        return taken

    def next_due(self, now: float) -> float | None:
        """Seconds until the next hint settles; 0 when one is ready, None when there is none."""
        if self._ready:
            return 0.0
        if not self._quiet:
            return None
        due = min(next(iter(self._quiet.values())) + self._settle, next(iter(self._first.values())) + self._settle_max)
        return max(0.0, due - now)

    def _ripen(self, now: float) -> None:
        ripe: list[str] = []
        for path, last in self._quiet.items():
            if now - last < self._settle:
                break
            ripe.append(path)
        for path, first in self._first.items():
            if now - first < self._settle_max:
                break
            ripe.append(path)
        for path in ripe:
            self._quiet.pop(path, None)
            self._first.pop(path, None)
            self._ready[path] = None
