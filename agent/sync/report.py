"""What a mapping did since somebody asked: the counters of `sync --json` and `plan --json` (DESIGN section 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agent.core.entries import Entry, Kind, Reason
from agent.core.plan import Action, Verb
from agent.errors import HaltError, JetsyncError
from agent.observe.status import Halt
from agent.sync.outcome import Outcome, Result

STATE_CONVERGED = "converged"
STATE_PARTIAL = "partial"
STATE_HALTED = "halted"
STATE_FAILED = "failed"

_COUNTERS = {
    Verb.UPLOAD: "uploads",
    Verb.DOWNLOAD: "downloads",
    Verb.DELETE_LOCAL: "deletes_local",
    Verb.DELETE_REMOTE: "deletes_remote",
    Verb.MOVE_LOCAL: "moves_local",
    Verb.MOVE_REMOTE: "moves_remote",
    Verb.UPDATE_METADATA: "metadata_updates",
}
_ZERO = ("uploads", "downloads", "metadata_updates", "deletes_local", "deletes_remote", "moves_local", "moves_remote")


@dataclass(slots=True)
class Tally:
    """Counts actions that were applied, or that a plan has."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes_up: int = 0
    bytes_down: int = 0
    conflict_copies: list[str] = field(default_factory=list)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.result is Result.APPLIED:
                self.action(outcome.action)
                self.bytes_up += outcome.bytes_up
                self.bytes_down += outcome.bytes_down

    def planned(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self.action(action)
            self.bytes_up += action.bytes if action.verb is Verb.UPLOAD else 0
            self.bytes_down += action.bytes if action.verb in (Verb.DOWNLOAD, Verb.CONFLICT_COPY) else 0
            copied = action.row.local_side if action.verb is Verb.CONFLICT_COPY and action.local else None
            if isinstance(copied, Entry):  # the copy is sent too
                self.counts["uploads"] += 1
                self.bytes_up += copied.size

    def action(self, action: Action) -> None:
        if action.verb is Verb.CONFLICT_COPY:
            self.conflict_copies.append(action.to)
            remote = action.row.remote_side
            if action.local and remote is not None and getattr(remote, "kind", None) is not Kind.DIRECTORY:
                self.counts["downloads"] += 1
        else:
            self.counts[_COUNTERS[action.verb]] += 1


@dataclass(slots=True)
class Report:
    """One mapping's result. problems: (path, reason, detail), reasons that are skips are in `skipped` instead."""

    name: str
    state: str = STATE_CONVERGED
    tally: Tally = field(default_factory=Tally)
    conflicts: list[str] = field(default_factory=list)
    diverged: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    halt: dict[str, str] | None = None
    errors: list[str] = field(default_factory=list)
    exit_code: int = 0
    actions: list[dict[str, Any]] | None = None

    def settle(self) -> None:
        """Derive the state from what was found."""
        if self.state == STATE_CONVERGED and (self.conflicts or self.problems or self.errors):
            self.state = STATE_PARTIAL

    def halted(self, halt: Halt | None) -> None:
        """The mapping was stopped for safety; None: it wasn't."""
        if halt is not None:
            self.state = STATE_HALTED
            self.halt = {"reason": halt.reason, "detail": halt.detail, "remedy": halt.remedy}

    def failing(self, why: str) -> None:
        """The mapping wasn't brought to convergence."""
        self.errors.append(why)
        self.settle()

    def failed(self, error: JetsyncError, halt: Halt | None) -> None:
        """It ended with an error; halt: what stopped it, if that is what the error is."""
        if isinstance(error, HaltError) and halt is not None:
            return self.halted(halt)
        self.state, self.exit_code = STATE_FAILED, error.exit_code
        self.errors.append(str(error))
        return None

    def as_json(self) -> dict[str, Any]:
        tally = self.tally
        body: dict[str, Any] = {"name": self.name, "state": self.state}
        body |= {key: tally.counts.get(key, 0) for key in _ZERO}
        body |= {
            "bytes_up": tally.bytes_up,
            "bytes_down": tally.bytes_down,
            "conflicts": sorted(self.conflicts),
            "conflict_copies": sorted(tally.conflict_copies),
            "diverged": self.diverged,
            "problems": [
                {"path": path, "reason": reason, "detail": detail} for path, reason, detail in sorted(self.problems)
            ],
            "skipped": dict(sorted(self.skipped.items())),
            "halt": self.halt,
            "errors": self.errors,
        }
        if self.actions is not None:
            body["actions"] = self.actions
        if self.exit_code:
            body["exit_code"] = self.exit_code
        return body


def action_json(action: Action) -> dict[str, Any]:
    """One entry of plan --json's `actions`."""
    return {
        "action": action.verb.value,
        "path": action.row.path,
        "to": action.to or None,
        "bytes": action.bytes,
        "reason": action.reason,
    }


def is_skip(reason: str) -> bool:
    return reason in {member.value for member in Reason if member.skipped}
