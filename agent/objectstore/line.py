"""How much a reader has to ask for ahead, so that a long line never stands idle.

What fills a line is its rate times its delay. The delay is the shortest time between a request and the first of its
answer; the rate is that at which answers have come lately. A reader that has less under way gets one line's fill per
round trip at most, so twice of what was measured is asked for: the amount doubles until the rate doesn't rise any more.
It is never more than half of what the reader has had already: a reader that is killed has asked for that in vain.
"""

from __future__ import annotations

from collections import deque

LATELY = 8


class Line:
    """One reader's measure. Times are in seconds, of any one clock."""

    def __init__(self) -> None:
        self._delay = float("inf")
        self._rates: deque[float] = deque(maxlen=LATELY)
        self._last = 0.0

    def answered(self, asked: float, came: float) -> None:
        """The first part of an answer came."""
        self._delay = min(self._delay, max(0.0, came - asked))
        self._last = self._last or asked

    def ended(self, size: int, came: float) -> None:
        """The last part of an answer of so many bytes came."""
        if came > self._last:
            self._rates.append(size / (came - self._last))
            self._last = came

    def ahead(self, had: int) -> int:
        """The bytes that should be under way, for a reader that has had so many; 0: not known yet."""
        if not self._rates:
            return 0
        return min(had // 2, int(2 * self._delay * max(self._rates)))
