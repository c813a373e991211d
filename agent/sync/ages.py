"""How long the oldest change has waited: from looking at the waiting paths now and then.

A path waits from when it was first seen among those that are dirty until it isn't any more, or has another ancestor:
then something has arrived, and what waits there now is a newer change. So a file that is written without end, each time
carried over, never looks like one that is stuck.

Only some of the waiting paths are looked at, so that a million of them cost no more than a thousand. What isn't seen
counts as old as the time since which not all were seen: the age is never told too low, and with no more than LIMIT
paths it is right, but for the time between two looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.core.entries import Ancestor

LIMIT: Final = 1000


class Ages:
    """oldest: epoch seconds when the oldest change that waits was noticed; None = nothing waits."""

    def __init__(self) -> None:
        self.oldest: float | None = None
        self._since: dict[str, tuple[Ancestor | None, float]] = {}
        self._unseen_since: float | None = None

    def look(self, now: float, waiting: Mapping[str, Ancestor | None], *, all_of_them: bool) -> None:
        """waiting: paths that are dirty now, with their ancestors; all_of_them: there are no others."""
        unknown = now if self._unseen_since is None else self._unseen_since
        before = self._since
        self._since = {
            path: (
                ancestor,
                before[path][1]
                if path in before and before[path][0] == ancestor
                else _first(path, before, now, unknown),
            )
            for path, ancestor in waiting.items()
        }
        self._unseen_since = None if all_of_them else unknown
        times = [since for _, since in self._since.values()]
        if self._unseen_since is not None:
            times.append(self._unseen_since)
        self.oldest = min(times, default=None)


def _first(path: str, before: Mapping[str, object], now: float, unknown: float) -> float:
    """A path that was seen with another ancestor waits since now; one that wasn't seen, since it may have."""
    return now if path in before else unknown
