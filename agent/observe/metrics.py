"""The agent's metrics: an own registry, every series there from the start at 0, and gone when its mapping goes.

A counter that appears with its first error hides that error from `increase()`; a series that stays after its mapping
was removed keeps an alert firing for ever. So `Metrics.mapping` makes all series of a mapping at once, from closed
lists, and `Metrics.forget` removes them; a mapping that restarts with another configuration keeps its counters.

Two registries: ours, and one for the process (`process_*`, `python_*`). `/metrics` shows both; a textfile only ours,
since node_exporter has `process_*` of its own and refuses a second set.

The methods of MappingMetrics stand on hot paths (one call per small file): children are looked up once, at the start.
All of it is safe from any thread.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import choose_encoder

from agent.core.entries import Mode
from agent.observe import series
from agent.observe.meter import Meter, Meters
from agent.observe.reasons import INTEGRITY, ErrorReason
from agent.observe.series import Series
from agent.observe.snapshotmetrics import SnapshotMetrics
from agent.observe.status import MappingStatus, State
from agent.observe.version import program_version


class Metrics(Meters):
    """All metrics of one agent. `revision`: the source revision of the build, when known."""

    def __init__(self, version: str | None = None, *, revision: str = "") -> None:
        # A `_created` series beside every counter doubles their number for nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._all = _Both(self.registry, self._process)
        self._series = Series(self.registry)
        self._mappings: dict[str, MappingMetrics] = {}
        self._snapshots: dict[str, SnapshotMetrics] = {}
        self._series.build_info.labels(version or program_version(), revision, platform.python_version()).set(1)
        self._hash = ""
        for operation in series.OPERATIONS:
            self._series.transfer_seconds.labels(operation)
        self.restart_needed(())

    def mapping(self, name: str, *, bucket: str, mode: Mode, expected_interval: float = 0.0) -> MappingMetrics:
        """The metrics of the mapping `name`, made when new. expected_interval: seconds, see its series' help."""
        metrics = self._mappings.get(name)
        if metrics is None:
            metrics = self._mappings[name] = MappingMetrics(self._series, name)
        metrics.describe(bucket=bucket, mode=mode, expected_interval=expected_interval)
        return metrics

    def snapshots(self, kind: str, name: str) -> SnapshotMetrics:
        """The metrics of the publication or subscription `name`, made when new."""
        metrics = self._snapshots.get(name)
        if metrics is None or metrics.kind != kind:
            self.forget(name)
            metrics = self._snapshots[name] = SnapshotMetrics(self._series, kind, name)
        return metrics

    def forget(self, name: str) -> None:
        """Remove every series of what has this name; its metrics may still be called, and show nowhere."""
        for metrics in (self._mappings.pop(name, None), self._snapshots.pop(name, None)):
            if metrics is not None:
                metrics.remove()

    # -- the connection and the configuration --

    def connected(self, connected: bool) -> None:
        self._series.nats_connected.set(connected)

    def reconnected(self) -> None:
        self._series.nats_reconnects.inc()

    def rtt(self, seconds: float) -> None:
        self._series.nats_rtt.set(seconds)

    def config_loaded(self, ok: bool, now: float) -> None:
        """The configuration was loaded, or failed to load (and the old one stays in force). now: epoch seconds."""
        self._series.config_ok.set(ok)
        if ok:
            self._series.config_time.set(now)

    def config_in_force(self, digest: str) -> None:
        """SHA-256 of the file that is in force; the series of the one before goes."""
        if self._hash and self._hash != digest:
            self._series.config_hash.remove(self._hash)
        self._hash = digest
        self._series.config_hash.labels(digest).set(1)

    def restart_needed(self, keys: Collection[str]) -> None:
        """Keys of the file (of series.RESTART_KEYS) that only a restart puts into force."""
        for key in series.RESTART_KEYS:
            self._series.restart_needed.labels(key).set(key in keys)

    # -- what others read --

    def render(self) -> bytes:
        """Everything in the Prometheus text format (version 0.0.4)."""
        return generate_latest(self._all)

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Everything in the format that a scraper accepts (text or OpenMetrics): the body and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._all), content_type

    def render_own(self) -> bytes:
        """Only the `jetsync_` series, for a textfile."""
        return generate_latest(self.registry)


class MappingMetrics(Meter):
    """The series of one mapping. Labels are values of the closed lists in `series`; another one raises KeyError."""

    def __init__(self, all_: Series, name: str) -> None:
        self._series = all_
        self._made: list[tuple[Any, tuple[str, ...]]] = []
        self._info: tuple[str, ...] | None = None
        self._name = name

        def one(metric: Any) -> Any:
            return self._child(metric, name)

        def each(metric: Any, values: tuple[str, ...]) -> dict[str, Any]:
            return {value: self._child(metric, name, value) for value in values}

        def pairs(metric: Any, operations: tuple[str, ...]) -> dict[tuple[str, str], Any]:
            return {
                (operation, result): self._child(metric, name, operation, result)
                for operation in operations
                for result in series.TRANSFER_RESULTS
            }

        self._state = each(all_.state, series.STATES)
        self._halted = each(all_.halted, series.HALT_REASONS)
        self._last_success = one(all_.last_success)
        self._last_attempt = one(all_.last_attempt)
        self._expected_interval = one(all_.expected_interval)
        self._oldest_pending = one(all_.oldest_pending)
        self._pending_objects = one(all_.pending_objects)
        self._pending_bytes = one(all_.pending_bytes)
        self._objects = each(all_.objects, series.SIDES)
        self._bytes = each(all_.bytes, series.SIDES)
        self._conflicts_now = one(all_.conflicts_now)
        self._diverged = one(all_.diverged)
        self._problems = each(all_.problems, series.PROBLEM_REASONS)
        self._skipped = each(all_.skipped, series.SKIP_REASONS)
        self._disk_free = one(all_.disk_free)
        self._reconciles = each(all_.reconciles, series.RECONCILE_RESULTS)
        self._reconcile_seconds = one(all_.reconcile_seconds)
        self._transfers = pairs(all_.transfers, series.OPERATIONS)
        self._transfer_bytes = pairs(all_.transfer_bytes, series.CONTENT_OPERATIONS)
        self._transfer_seconds = {value: all_.transfer_seconds.labels(value) for value in series.OPERATIONS}
        self._skipped_bytes = each(all_.skipped_bytes, series.SKIPPED_BYTES_REASONS)
        self._conflicts = one(all_.conflicts)
        self._integrity_failures = one(all_.integrity_failures)
        self._errors = each(all_.errors, series.ERROR_REASONS)
        self._watch_events = each(all_.watch_events, series.SIDES)
        self._watch_overflows = each(all_.watch_overflows, series.SIDES)
        self._full_scans = each(all_.full_scans, series.SIDES)
        self.set_state(State.STARTING)

    def _child(self, metric: Any, *labels: str) -> Any:
        self._made.append((metric, labels))
        return metric.labels(*labels)

    def describe(self, *, bucket: str, mode: Mode, expected_interval: float) -> None:
        """What the configuration says of the mapping; the old info series goes when it changed."""
        direction = "both" if mode.pushes and mode.pulls else "push" if mode.pushes else "pull"
        labels = (self._name, bucket, direction, mode.value)
        if self._info is not None and self._info != labels:
            self._series.info.remove(*self._info)
        self._info = labels
        self._series.info.labels(*labels).set(1)
        self.expect(expected_interval)

    def expect(self, interval: float) -> None:
        self._expected_interval.set(interval)

    def remove(self) -> None:
        for metric, labels in self._made:
            metric.remove(*labels)
        self._made.clear()
        if self._info is not None:
            self._series.info.remove(*self._info)
            self._info = None

    # -- as it is now --

    def set_state(self, state: State) -> None:
        for name, child in self._state.items():
            child.set(name == state)

    def halted(self, halt_reason: str | None) -> None:
        """Why the mapping is halted (core.guards.HaltReason); None: it isn't."""
        for name, child in self._halted.items():
            child.set(name == halt_reason)

    def success(self, now: float) -> None:
        """The mapping is converged. now: epoch seconds."""
        self._last_success.set(now)

    def attempt(self, now: float) -> None:
        """A cycle begins. now: epoch seconds."""
        self._last_attempt.set(now)

    def pending(self, objects: int, bytes_: int, oldest: float | None) -> None:
        """What waits to be brought over. oldest: epoch seconds when the oldest of it was noticed, None = nothing."""
        self._pending_objects.set(objects)
        self._pending_bytes.set(bytes_)
        self._oldest_pending.set(oldest or 0)

    def objects(self, side: str, objects: int, bytes_: int) -> None:
        """The size of a side: local | remote."""
        self._objects[side].set(objects)
        self._bytes[side].set(bytes_)

    def verdicts(self, *, conflicts: int, diverged: int) -> None:
        """The current number of unresolved conflicts and of diverged paths."""
        self._conflicts_now.set(conflicts)
        self._diverged.set(diverged)

    def problems(self, counts: Mapping[str, int]) -> None:
        """The current number of problems by reason (core.entries.Reason); reasons that aren't named become 0."""
        for reason, child in self._problems.items():
            child.set(counts.get(reason, 0))

    def skipped(self, counts: Mapping[str, int]) -> None:
        """The same for paths left out on purpose."""
        for reason, child in self._skipped.items():
            child.set(counts.get(reason, 0))

    def disk_free(self, bytes_: int) -> None:
        self._disk_free.set(bytes_)

    def show(self, status: MappingStatus) -> None:
        """Set everything above that a status has, so that both always say the same. (Not last_attempt, disk_free.)"""
        self.set_state(status.state)
        self.halted(status.halt.reason if status.halt is not None else None)
        self.pending(status.pending.objects, status.pending.bytes, status.pending.since)
        self.objects("local", status.local.objects, status.local.bytes)
        self.objects("remote", status.remote.objects, status.remote.bytes)
        self.verdicts(conflicts=status.conflicts, diverged=status.diverged)
        self.problems(status.problems)
        self.skipped(status.skipped)
        if status.last_success is not None:
            self.success(status.last_success)

    # -- what it did --

    def reconciled(self, result: str, seconds: float) -> None:
        """A cycle ended. result: changed | noop | partial | error."""
        self._reconciles[result].inc()
        self._reconcile_seconds.observe(seconds)

    def transfer(self, operation: str, result: str, bytes_: int, seconds: float) -> None:
        """An action ended. operation: one of series.OPERATIONS; result: applied | stale | failed."""
        self._transfers[operation, result].inc()
        if bytes_:
            self._transfer_bytes[operation, result].inc(bytes_)
        self._transfer_seconds[operation].observe(seconds)

    def skipped_bytes(self, reason: str, bytes_: int) -> None:
        """Bytes that did not have to be transferred: one of series.SKIPPED_BYTES_REASONS."""
        self._skipped_bytes[reason].inc(bytes_)

    def conflict(self) -> None:
        self._conflicts.inc()

    def integrity_failure(self) -> None:
        self._integrity_failures.inc()

    def error(self, reason: ErrorReason) -> None:
        """Count an error; one about content counts as an integrity failure too."""
        self._errors[reason].inc()
        if reason in INTEGRITY:
            self._integrity_failures.inc()

    def watch(self, events: int, overflows: int = 0, *, source: str = "local") -> None:
        """Hints that came from a watcher since the last call. source: local | remote."""
        self._watch_events[source].inc(events)
        self._watch_overflows[source].inc(overflows)

    def full_scan(self, source: str) -> None:
        """A full look at a side: local | remote."""
        self._full_scans[source].inc()


class _Both(CollectorRegistry):
    """Several registries shown as one."""

    def __init__(self, *parts: CollectorRegistry) -> None:
        super().__init__()
        self._parts = parts

    def collect(self) -> Any:
        for part in self._parts:
            yield from part.collect()
