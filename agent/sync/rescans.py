"""When both sides are looked at as a whole again: every `rescan`, less or more by a random share.

Where a full look takes long the interval is stretched, so that looking takes at most the hundredth part of the time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

# Rescans come up to this share earlier or later, so that many agents don't look at once.
JITTER = 0.25
# A full look takes at most the hundredth part of the time. One that takes less than NO_TIME (seconds) isn't counted.
STRETCH = 100
NO_TIME = 1.0


class Rescans:
    """configured: the interval in seconds. took: gives how long the last full look took (seconds, 0.0 for none yet).
    looking: whether one is under way."""

    def __init__(self, configured: float, *, took: Callable[[], float], looking: Callable[[], bool]) -> None:
        self._configured = configured
        self._took = took
        self._looking = looking
        self._last = 0.0
        self._jitter = 1.0

    def begun(self) -> None:
        """A full look begins now: the next one is due an interval later."""
        self._last = asyncio.get_running_loop().time()
        self._jitter = random.uniform(1 - JITTER, 1 + JITTER)

    @property
    def due(self) -> float | None:
        """When the next one has to begin, in the event loop's time; None while one is under way: how long it takes, and
        so when the next one may be, isn't known then."""
        if self._looking():
            return None
        return self._last + self._interval * self._jitter

    @property
    def longest(self) -> float:
        """Seconds between two of them at the most."""
        return self._interval * (1 + JITTER)

    @property
    def _interval(self) -> float:
        took = self._took()
        return max(self._configured, took * STRETCH if took > NO_TIME else 0.0)
