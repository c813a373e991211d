"""Where the agent says what happens, for whoever measures it. These keep nothing: nobody could read it of a command.

`metrics` has those that keep it all for Prometheus; only `jetsync run` takes them, since prometheus_client costs a
command more than its work does.
"""

from __future__ import annotations

from agent.core.entries import Mode
from agent.observe.reasons import ErrorReason, reason_of
from agent.observe.status import MappingStatus, SnapshotCounts, SnapshotStatus, State


class Meter:
    """What a mapping says of itself."""

    def set_state(self, state: State) -> None:
        """What it is doing now."""

    def halted(self, halt_reason: str | None) -> None:
        """Why the mapping is halted (core.guards.HaltReason); None: it isn't."""

    def expect(self, interval: float) -> None:
        """The longest time (seconds) between two successes when all is well."""

    def success(self, now: float) -> None:
        """The mapping is converged. now: epoch seconds."""

    def attempt(self, now: float) -> None:
        """A cycle begins. now: epoch seconds."""

    def reconciled(self, result: str, seconds: float) -> None:
        """A cycle ended. result: one of series.RECONCILE_RESULTS."""

    def disk_free(self, bytes_: int) -> None:
        """What is left on the directory's file system."""

    def show(self, status: MappingStatus) -> None:
        """All that a status has."""

    def transfer(self, operation: str, result: str, bytes_: int, seconds: float) -> None:
        """An action ended. operation: one of series.OPERATIONS; result: applied | stale | failed."""

    def skipped_bytes(self, reason: str, bytes_: int) -> None:
        """Bytes that did not have to be transferred. reason: one of series.SKIPPED_BYTES_REASONS."""

    def conflict(self) -> None:
        """A conflict was met."""

    def error(self, reason: ErrorReason) -> None:
        """An error."""

    def failure(self, error: BaseException) -> ErrorReason:
        """The same for an exception; its reason is given back."""
        reason = reason_of(error)
        self.error(reason)
        return reason

    def watch(self, events: int, overflows: int = 0, *, source: str = "local") -> None:
        """Hints that came from a watcher since the last call. source: local | remote."""

    def full_scan(self, source: str) -> None:
        """A full look at a side: local | remote."""


class SnapshotMeter:
    """What a publication or a subscription says of itself."""

    def show(self, status: SnapshotStatus, counts: SnapshotCounts) -> None:
        """All that it has; counts: since the start of what is counted."""


class Meters:
    """Of the whole agent."""

    def mapping(self, name: str, *, bucket: str, mode: Mode, expected_interval: float = 0.0) -> Meter:  # noqa: ARG002
        """That of the mapping `name`. expected_interval: see `Meter.expect`."""
        return Meter()

    def snapshots(self, kind: str, name: str) -> SnapshotMeter:  # noqa: ARG002
        """That of the publication or subscription `name`."""
        return SnapshotMeter()

    def forget(self, name: str) -> None:
        """What has this name is gone, with all that was kept of it."""

    def connected(self, connected: bool) -> None:
        """Whether the server is connected now."""

    def reconnected(self) -> None:
        """The connection came back."""

    def rtt(self, seconds: float) -> None:
        """A round trip to the server."""
