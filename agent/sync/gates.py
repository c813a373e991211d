"""Low space: a direction without room stops as a whole, is tried again slowly, and goes on by itself.

    downloads    stop when the directory's file system is below its floor, full, or over its quota
    uploads      stop when the bucket is at max_bytes, or the account or the server at its limit

What fails for want of space closes the gate of its direction. Behind a closed gate nothing is started but one probe at
a time, with growing pauses: the smallest transfer that waits. When it succeeds the gate opens and the others are
planned again; deletions, renames and metadata, which free space or need none, are never stopped. The path that closed
the gate stands for all that wait: it is held with its reason (`retry.Holds`), so reports and status name the direction
once. What is known to wait isn't planned between two probes.

Owned by the mapping's loop; `admit` is called in the state's thread while the loop waits for it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from agent.core.plan import Action, Verb
from agent.errors import ShortageError, SpaceError, StoreFullError
from agent.sync.outcome import Outcome
from agent.sync.retry import ATTEMPTS, Backoff

if TYPE_CHECKING:
    from agent.observe.logging import Logger

# Seconds between probes, at first and at last.
FIRST_PROBE = 1.0
LAST_PROBE = 60.0
# After so many seconds with the gate open a new lack of room is news.
FORGIVEN = 60.0

Stages = tuple[tuple[Action, ...], ...]


class Direction(Enum):
    DOWNLOADS = "downloads"
    UPLOADS = "uploads"


def direction_of(action: Action) -> Direction | None:
    """In which direction the action needs room; None: it needs none worth speaking of."""
    match action.verb:
        case Verb.UPLOAD:
            return Direction.UPLOADS
        case Verb.DOWNLOAD:
            return Direction.DOWNLOADS
        case Verb.CONFLICT_COPY if action.local and action.entry is not None:
            return Direction.DOWNLOADS
        case _:
            return None


class Gate:
    """Of one direction. closed: for want of room. path: the one that stands for all. probe: the one that is tried."""

    def __init__(self, direction: Direction, log: Logger) -> None:
        self.direction = direction
        self.closed = False
        self.path = ""
        self.probe = ""
        self.until = 0.0
        self.waiting: set[str] = set()
        self._log = log
        self._backoff = Backoff(base=FIRST_PROBE, ceiling=LAST_PROBE)
        self._opened = float("-inf")
        self._told = False

    def fail(self, outcome: Outcome, now: float, held: Container[str]) -> bool:
        """Something of this direction found no room. Whether its path is to be held, to stand for all that wait."""
        path = outcome.action.row.path
        if self.closed and path != self.probe:
            self.waiting.add(path)
            return False
        if not self.closed and now - self._opened > FORGIVEN:
            self._backoff.reset()
            self._told = False
        closed, self.closed, self.probe = self.closed, True, ""
        self.until = now + self._backoff.next()
        self.waiting.add(path)
        if closed and self.path in held:
            return False
        self.path = path
        if not self._told:
            self._told = True
            assert outcome.error is not None
            message, remedy = outcome.error.message, outcome.error.remedy
            event = f"{self.direction.value}_stopped"
            self._log.warning(event, reason=outcome.reason, path=path, error=message, remedy=remedy)
        return True

    def open(self, now: float) -> None:
        self.closed = False
        self.probe = ""
        self.waiting.clear()
        self._opened = now
        if self._told:
            self._log.info(f"{self.direction.value}_go_on")

    @property
    def failures(self) -> int:
        return self._backoff.failures if self.closed else 0


class Gates:
    """Both directions of one mapping."""

    def __init__(self, log: Logger, held: Container[str]) -> None:
        """held: the paths that are held after failures."""
        self._held = held
        self._gates = {direction: Gate(direction, log) for direction in Direction}

    def closed(self, direction: Direction) -> bool:
        return self._gates[direction].closed

    def admit(self, stages: Stages, now: float) -> Stages:
        """The stages without what has to wait."""
        closed = [gate for gate in self._gates.values() if gate.closed]
        if not closed:
            return stages
        dropped: set[str] = set()
        for gate in closed:
            actions = [action for stage in stages for action in stage if direction_of(action) is gate.direction]
            paths = {action.row.path for action in actions}
            if not gate.probe and now >= gate.until:
                gate.waiting.clear()  # all have been planned anew
                if not actions:
                    gate.open(now)  # nothing asks for room any more
                    continue
                gate.probe = min(actions, key=lambda action: action.bytes).row.path
                paths.discard(gate.probe)
            gate.waiting |= paths
            dropped |= paths
        return without(stages, dropped)

    def failed(self, outcome: Outcome, now: float) -> bool:
        """Note an outcome that wasn't applied. Whether its path waits behind a gate, and need not be held."""
        direction = direction_of(outcome.action)
        no_room = isinstance(outcome.error, SpaceError | StoreFullError)
        if direction is None or not no_room or isinstance(outcome.error, ShortageError):
            self.ended(outcome.action.row.path)
            return False
        return not self._gates[direction].fail(outcome, now, self._held)

    def ended(self, path: str) -> None:
        """An action ended in a way that says nothing about room, or never ran: if it was a probe, another one goes."""
        for gate in self._gates.values():
            if gate.probe == path:
                gate.probe = ""

    def applied(self, path: str, now: float) -> str:
        """Note an action that was applied. The path that stood for all, when this has opened a gate; else ""."""
        for gate in self._gates.values():
            gate.waiting.discard(path)
            if gate.closed and gate.probe == path:
                gate.open(now)
                return gate.path
        return ""

    def waiting(self, now: float) -> set[str]:
        """Paths that are not to be planned before the next probe."""
        gates = self._gates.values()
        return set().union(*(gate.waiting for gate in gates if gate.closed and (gate.probe or now < gate.until)))

    def due(self, now: float) -> bool:
        """Whether a probe may be sent."""
        return any(gate.closed and not gate.probe and now >= gate.until for gate in self._gates.values())

    def next_due(self, now: float) -> float | None:
        """Seconds until a probe may be sent; None when none is to come."""
        times = [gate.until for gate in self._gates.values() if gate.closed and not gate.probe and gate.until > now]
        return min(times) - now if times else None

    def retry_all(self) -> None:
        """Somebody asked, or the connection is back."""
        for gate in self._gates.values():
            gate.until = 0.0

    def hopeless(self, path: str) -> bool:
        """Whether a one-shot run should give the path up for now: it waits, and several probes have failed."""
        return any(path in gate.waiting and gate.failures >= ATTEMPTS for gate in self._gates.values())


def is_disk_full(error: Exception | None) -> bool:
    """Whether the file system itself has refused to take more: our own floor isn't that, nor is a lack of memory."""
    return isinstance(error, SpaceError) and not isinstance(error, ShortageError) and error.__cause__ is not None


def without(stages: Sequence[Sequence[Action]], dropped: Container[str]) -> Stages:
    """The stages without the transfers at these paths."""
    kept = (
        tuple(action for action in stage if direction_of(action) is None or action.row.path not in dropped)
        for stage in stages
    )
    return tuple(stage for stage in kept if stage)
