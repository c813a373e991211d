"""What one mapping says of itself: its state and last error, its counters, its log lines.

Everything that happens in a mapping is told to its record, which is the only one that logs and counts it: outcomes,
changes of state, settling, errors of whole sessions. The record outlives the sessions. What is asked for from outside
(`status`, the tallies of a `sync`, how long nothing but waiting was done) is answered from it; what stands in the rows
is read by `sync.view`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agent.core.entries import Entry, Obstacle
from agent.core.plan import Verb
from agent.errors import JetsyncError, NotAllowedError, SpaceError, StoreFullError, StoreUnavailableError
from agent.observe.logging import Once, get_logger
from agent.observe.meter import Meter
from agent.observe.reasons import ErrorReason, of_problem
from agent.observe.status import Halt, LastError, State
from agent.sync import view
from agent.sync.ages import Ages
from agent.sync.guard import Stop
from agent.sync.outcome import Outcome, Result
from agent.sync.report import Tally

if TYPE_CHECKING:
    from agent.observe.logging import Logger

# Problems that are looked through for new ones.
PROBLEMS_TOLD = 1000
# Of the conflicts that are found at one time.
CONFLICTS_LOGGED = 100
# How the metrics call what an action does.
_OPERATIONS = {
    Verb.UPLOAD: "upload",
    Verb.DOWNLOAD: "download",
    Verb.DELETE_LOCAL: "delete",
    Verb.DELETE_REMOTE: "delete",
    Verb.MOVE_LOCAL: "move",
    Verb.MOVE_REMOTE: "move",
    Verb.UPDATE_METADATA: "metadata",
    Verb.CONFLICT_COPY: "download",
}


class Record:
    """Of one mapping. Times are seconds since 1970.

    state, since: what it does, and since when. error: the last that ended a session; failure: the same, until a session
    begins. failures: how many there were. converged_at: when both sides were last known to be equal. ages: of the
    changes that haven't arrived. halt: why it is halted. tallies: of those who wait for a
    report.
    """

    def __init__(self, name: str, metrics: Meter) -> None:
        self.name = name
        self.log = get_logger(mapping=name)
        self.metrics = metrics
        self.state = State.STARTING
        self.since = time.time()
        self.error: LastError | None = None
        self.failure: JetsyncError | None = None
        self.failures = 0
        self.halt: Halt | None = None
        self.converged_at: float | None = None
        self.ages = Ages()
        self.tallies: list[Tally] = []
        self._once = Once()
        self._refused = Once()
        self._told = Once()
        self._conflicts: set[str] = set()
        self._waiting: tuple[float, JetsyncError] | None = None  # since when, and for what
        self._cycle: float | None = None  # when it began (monotonic)
        self._changed = False  # something was applied in it

    def begins(self) -> None:
        """The mapping starts, for the first time or with another configuration."""
        self.set_state(State.STARTING)
        self._waiting = None

    @property
    def marks(self) -> tuple[object, ...]:
        """Other ones when something has happened that the mapping's status may tell."""
        return self.state, self.converged_at, self.failures, self.halt

    # -- sessions ------------------------------------------------------------------------------------------------

    def session_begins(self, bucket: str) -> None:
        self.failure = None
        self.waits(StoreUnavailableError(f"bucket {bucket!r} doesn't tell what it holds"))

    def session_failed(self, error: JetsyncError, state: State, *, retry_in: float) -> None:
        """A session ended with an error: said once, until another one comes or the mapping has converged."""
        if state is State.RETRYING:
            self.waits(error)
        self.broke(error, state)
        if state is State.HALTED:
            return  # `stopped` has said it
        if self._once.news("session", str(error)):
            event = "mapping_waits" if state is State.RETRYING else "mapping_failed"
            self.log.warning(event, error=error.message, remedy=error.remedy, retry_in=round(retry_in, 1))

    def stopped(self, stop: Stop | None) -> None:
        """Nothing may be changed for safety's sake, and why; None: it may again."""
        halt = stop.shown() if stop is not None else None
        if halt is not None and (self.halt is None or self.halt.reason != halt.reason):
            self.metrics.error(ErrorReason.HALTED)
            self.log.error("halted", reason=halt.reason, detail=halt.detail, remedy=halt.remedy)
        elif halt is None and self.halt is not None:
            self.log.info("halt_over", reason=self.halt.reason)
        self.halt = halt
        self.metrics.halted(halt.reason if halt is not None else None)

    def broke(self, error: JetsyncError, state: State = State.FAILED) -> None:
        self.error = LastError(self.metrics.failure(error).value, error.message, error.remedy, time.time())
        self.failure = error
        self.failures += 1
        self._ended("error")
        self.set_state(state)

    # -- what happened -------------------------------------------------------------------------------------------

    def outcomes(self, outcomes: list[Outcome]) -> None:
        for tally in self.tallies:
            tally.add(outcomes)
        log = self.log.bind()  # which levels are wanted is looked up once for all of them
        for outcome in outcomes:
            self._count(outcome, log)
            if outcome.result is Result.APPLIED:
                self._changed = True
                self.progress()
            elif isinstance(outcome.error, StoreUnavailableError):
                self.waits(outcome.error)

    def _count(self, outcome: Outcome, log: Logger) -> None:
        action = outcome.action
        operation = _OPERATIONS[action.verb]
        self.metrics.transfer(operation, outcome.result.value, outcome.bytes_up + outcome.bytes_down, outcome.seconds)
        if outcome.result is Result.APPLIED:
            self._count_skipped(outcome)
            if action.verb is Verb.CONFLICT_COPY and action.row.path not in self._conflicts:
                self.metrics.conflict()
            log.debug("applied", action=action.verb.value, path=action.row.path, to=action.to or None)
            self._once.clear(action.row.path)
        elif outcome.result is Result.FAILED:
            assert outcome.error is not None
            if outcome.leaves_problem:
                return  # told and counted as the problem that it is from now on
            self.metrics.failure(outcome.error)
            if isinstance(outcome.error, SpaceError | StoreFullError):
                return  # said once for all that wait, where the direction is stopped
            # What the server doesn't allow it allows for no path: the first tells for all.
            refused = isinstance(outcome.error, NotAllowedError)
            said, topic = (self._refused, str(outcome.error)) if refused else (self._once, action.row.path)
            if said.news(topic, str(outcome.error)):
                log.warning("action_failed", action=action.verb.value, path=action.row.path, error=str(outcome.error))

    def _count_skipped(self, outcome: Outcome) -> None:
        """Content that is in its place without having come over the line."""
        action = outcome.action
        if action.verb in (Verb.MOVE_LOCAL, Verb.MOVE_REMOTE):
            side = action.row.local_side or action.row.remote_side
            if isinstance(side, Entry):
                self.metrics.skipped_bytes("moved", side.size)
        elif action.verb is Verb.DOWNLOAD and action.bytes > outcome.bytes_down:
            self.metrics.skipped_bytes("reused", action.bytes - outcome.bytes_down)

    def set_state(self, state: State) -> None:
        if state in (State.SCANNING, State.SYNCING) and self._cycle is None:
            self._cycle, self._changed = time.monotonic(), False
            self.metrics.attempt(time.time())
        if state is not self.state:
            self.state, self.since = state, time.time()
            self.metrics.set_state(state)

    def settled(self, *, converged: bool, known: bool = True) -> None:
        """Nothing is under way; `converged`: and nothing is left to do; `known`: as the server is there to tell."""
        self.progress()
        self._ended(("changed" if self._changed else "noop") if converged else "partial")
        if converged and known:
            self.converged_at = time.time()
            self.metrics.success(self.converged_at)
            self._once.clear("session")
            self._refused = Once()

    def _ended(self, result: str) -> None:
        """A cycle ended: what was seen has been looked at, and what could be done is done."""
        if self._cycle is not None:
            self.metrics.reconciled(result, time.monotonic() - self._cycle)
            self._cycle = None

    def problems(self, found: dict[str, Obstacle]) -> None:
        """All problems that there are: each is logged and counted once, until it changes or clears."""
        for path, obstacle in found.items():
            if self._told.news(path, obstacle.reason):
                self.metrics.error(of_problem(obstacle.reason))
                remedy = obstacle.detail or view.REMEDIES.get(obstacle.reason, "")
                self.log.warning("problem", path=path, reason=obstacle.reason.value, remedy=remedy)
        self._told.keep(found)

    def conflicts(self, found: list[str]) -> None:
        """All conflicts that there are: each is counted once, until it is resolved; the first of them are logged."""
        new = [path for path in found if path not in self._conflicts]
        self._conflicts = set(found)
        for number, path in enumerate(new):
            self.metrics.conflict()
            if number >= CONFLICTS_LOGGED:
                continue
            self.log.warning("conflict", path=path, remedy=f"see `jetsync conflicts {self.name}`")

    # -- waiting for the store -----------------------------------------------------------------------------------

    def waits(self, error: JetsyncError) -> None:
        """The store didn't do what it was asked for, and was asked again."""
        self._waiting = (self._waiting[0] if self._waiting else time.monotonic(), error)

    def progress(self) -> None:
        self._waiting = None

    @property
    def waiting(self) -> tuple[float, JetsyncError] | None:
        """How long nothing but waiting for the store was done (seconds), and why; None when something is going on."""
        return (time.monotonic() - self._waiting[0], self._waiting[1]) if self._waiting else None

    @property
    def sentence(self) -> str:
        """What the mapping is doing, for people."""
        if self.halt is not None:
            return f"halted: {self.halt.reason}: {self.halt.detail}; {self.halt.remedy}"
        return f"{self.state.value}: {self.failure}" if self.failure is not None else self.state.value
