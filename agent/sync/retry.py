"""The one place that decides when to try again: exponential back-off with full jitter (AWS' "full jitter").

`Backoff` is for one repeated attempt (connect, open a bucket, run a mapping); `Holds` keeps it for many paths: a path
whose action failed is held back until its time has come, and then its row is planned anew. A hold remembers why, so
that reports can name it. Whether an error is worth a retry is not decided here: errors carry `transient`.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterator
from dataclasses import dataclass

# A path that keeps failing is tried again at least this often (seconds); low space and permissions change slowly.
PATH_CEILING = 60.0
# After so many failures in a row a one-shot `sync` gives a path up and says so.
ATTEMPTS = 3
STALE_ATTEMPTS = 20


class Backoff:
    """Delays that grow from `base` by doubling up to `ceiling`, each drawn from [half, whole] of the step (seconds)."""

    def __init__(self, *, base: float = 0.25, ceiling: float = 30.0) -> None:
        self._base = base
        self._ceiling = ceiling
        self.failures = 0

    def next(self) -> float:
        step = min(self._ceiling, self._base * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return step * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self.failures = 0


@dataclass(slots=True)
class Hold:
    """Why a path waits. `until` is on the loop's clock (seconds); `reason` is a Reason value or "".

    stale: the failure says nothing about the path: somebody was faster, or the server was away.
    refused: the server doesn't allow it.
    """

    backoff: Backoff
    until: float
    message: str
    reason: str
    stale: bool
    refused: bool = False


class Holds(Container[str]):
    """The paths that failed, until when they are left alone, and why."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def __contains__(self, path: object) -> bool:
        return path in self._holds

    def __len__(self) -> int:
        return len(self._holds)

    def failed(
        self, path: str, now: float, *, message: str, reason: str = "", stale: bool = False, refused: bool = False
    ) -> Hold:
        """Note a failure; returns the hold with its new time."""
        hold = self._holds.get(path)
        backoff = hold.backoff if hold else Backoff(base=0.1 if stale else 0.25, ceiling=PATH_CEILING)
        hold = Hold(backoff, now + backoff.next(), message, reason, stale, refused)
        self._holds[path] = hold
        return hold

    def clear(self, path: str) -> None:
        self._holds.pop(path, None)

    def waiting(self, now: float) -> set[str]:
        """Paths that are not to be planned yet."""
        return {path for path, hold in self._holds.items() if hold.until > now}

    def next_due(self, now: float) -> float | None:
        """Seconds until the next held path may be tried; None when nothing waits."""
        times = [hold.until for hold in self._holds.values() if hold.until > now]
        return max(0.0, min(times) - now) if times else None

    def hopeless(self, path: str) -> bool:
        """Whether a one-shot run should give the path up for now."""
        hold = self._holds.get(path)
        return hold is not None and hold.backoff.failures >= (STALE_ATTEMPTS if hold.stale else ATTEMPTS)

    def retry_all(self) -> None:
        """Let every held path be tried at once (somebody asked, or the connection is back)."""
        for hold in self._holds.values():
            hold.until = 0.0

    def values(self) -> Iterator[Hold]:
        yield from self._holds.values()

    def items(self) -> Iterator[tuple[str, Hold]]:
        yield from self._holds.items()
