"""The time series of ECOSYSTEM section 3.3, prefix `jetsync_`: names, help and labels, in one place.

Rules: base units; `_total` on counters only; times as `_timestamp_seconds`, from which PromQL computes ages; labels
from closed lists and from names in the configuration. Never a path, an object's name, an error's text or a URL.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agent.config.reload import RESTART
from agent.core.entries import Reason
from agent.core.guards import HaltReason
from agent.observe.reasons import ErrorReason
from agent.observe.status import State

RESTART_KEYS = RESTART
SIDES = ("local", "remote")
HALT_REASONS = tuple(reason.value for reason in HaltReason)
STATES = tuple(state.value for state in State)
RECONCILE_RESULTS = ("changed", "noop", "partial", "error")
OPERATIONS = ("upload", "download", "delete", "move", "metadata")
CONTENT_OPERATIONS = ("upload", "download")
TRANSFER_RESULTS = ("applied", "stale", "failed")
SKIPPED_BYTES_REASONS = ("moved", "reused")
PROBLEM_REASONS = tuple(reason.value for reason in Reason if not reason.skipped)
SKIP_REASONS = tuple(reason.value for reason in Reason if reason.skipped)
ERROR_REASONS = tuple(reason.value for reason in ErrorReason)
SNAPSHOT_RESULTS = ("changed", "noop", "error")
SNAPSHOT_SOURCES = ("transferred", "reused")

_RECONCILE_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800)
_TRANSFER_BUCKETS = (0.002, 0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800)


class Series:
    """All metrics, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, help_: str, *labels: str) -> Gauge:
            return Gauge(f"jetsync_{name}", help_, labels, registry=registry)

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"jetsync_{name}", help_, labels, registry=registry)

        # The agent.
        self.build_info = gauge(
            "build_info", "Always 1; the labels tell the program.", "version", "revision", "python_version"
        )
        self.config_ok = gauge(
            "config_last_reload_successful", "1 when the last load of the configuration succeeded, else 0."
        )
        self.config_time = gauge(
            "config_last_reload_success_timestamp_seconds", "When a configuration was last loaded successfully."
        )
        self.config_hash = gauge(
            "config_hash_info", "Always 1; the label is the SHA-256 of the configuration file in force.", "hash"
        )
        self.restart_needed = gauge(
            "config_restart_needed",
            "1 for a key of the configuration file that was changed, and that only a restart puts into force, else 0.",
            "key",
        )
        self.nats_connected = gauge("nats_connected", "1 while connected to a NATS server, else 0.")
        self.nats_reconnects = counter("nats_reconnects", "Connections to a NATS server that replaced a lost one.")
        self.nats_rtt = gauge("nats_rtt_seconds", "Last measured round trip to the NATS server; 0 = not measured.")

        # A mapping, as it is now.
        self.info = gauge(
            "mapping_info",
            "Always 1; the labels tell the mapping.",
            *("mapping", "bucket", "direction", "mode"),
        )
        self.state = gauge("mapping_state", "1 for the state that the mapping is in, else 0.", "mapping", "state")
        self.halted = gauge(
            "mapping_halted", "1 for the reason for which the mapping stopped for safety, else 0.", "mapping", "reason"
        )
        self.last_success = gauge(
            "mapping_last_success_timestamp_seconds",
            "When the mapping was last known to be converged, the server being there; 0 = not since the start.",
            "mapping",
        )
        self.last_attempt = gauge(
            "mapping_last_attempt_timestamp_seconds", "When a cycle last began; 0 = not since the start.", "mapping"
        )
        self.expected_interval = gauge(
            "mapping_expected_interval_seconds",
            "Longest time between successes when all is well: the rescan interval, jitter and stretch included.",
            "mapping",
        )
        self.oldest_pending = gauge(
            "mapping_oldest_pending_timestamp_seconds",
            "When the oldest change that hasn't arrived on the other side was noticed, as far as is known; 0 = none.",
            "mapping",
        )
        self.pending_objects = gauge("mapping_pending_objects", "Paths that wait to be brought over.", "mapping")
        self.pending_bytes = gauge(
            "mapping_pending_bytes", "Size of what stands at these paths, of the larger side each.", "mapping"
        )
        self.objects = gauge("mapping_objects", "Files, links and directories on a side.", "mapping", "side")
        self.bytes = gauge("mapping_bytes", "Bytes of the files on a side.", "mapping", "side")
        self.conflicts_now = gauge("mapping_conflicts", "Conflicts that nothing has resolved yet.", "mapping")
        self.diverged = gauge(
            "mapping_diverged", "Paths that differ on the receiving side, and are left so (safe modes).", "mapping"
        )
        self.problems = gauge(
            "mapping_problems", "Paths that can't be known or represented, by reason.", "mapping", "reason"
        )
        self.skipped = gauge("mapping_skipped", "Paths left out on purpose, by reason.", "mapping", "reason")
        self.disk_free = gauge(
            "disk_free_bytes", "Free bytes of the file system of the mapping's directory.", "mapping"
        )

        # A mapping, what it did.
        self.reconciles = counter("reconciles", "Cycles that ended, by result.", "mapping", "result")
        self.reconcile_seconds = Histogram(
            "jetsync_reconcile_duration_seconds",
            "Duration of a cycle, with its transfers.",
            ("mapping",),
            buckets=_RECONCILE_BUCKETS,
            registry=registry,
        )
        self.transfers = counter("transfers", "Actions on single paths, by result.", "mapping", "operation", "result")
        self.transfer_bytes = counter(
            "transfer_bytes", "Content bytes transferred, by result.", "mapping", "operation", "result"
        )
        self.transfer_seconds = Histogram(
            "jetsync_transfer_duration_seconds",
            "Duration of an action on a single path; small ones go in lots, and each takes as long as its lot.",
            ("operation",),
            buckets=_TRANSFER_BUCKETS,
            registry=registry,
        )
        self.skipped_bytes = counter(
            "skipped_bytes",
            "Content bytes that did not have to be transferred: of renames, and what a download found here already.",
            *("mapping", "reason"),
        )
        self.conflicts = counter("conflicts", "Conflicts found, resolved by a policy or not.", "mapping")
        self.integrity_failures = counter(
            "integrity_failures", "Stored or received content that is not what it should be.", "mapping"
        )
        self.errors = counter("errors", "Errors, by reason.", "mapping", "reason")
        self.watch_events = counter("watch_events", "Hints from the watchers of both sides.", "mapping", "source")
        self.watch_overflows = counter(
            "watch_overflows", "Times that a watcher lost hints, which a full scan makes up for.", "mapping", "source"
        )
        self.full_scans = counter("full_scans", "Full looks at a side.", "mapping", "source")

        # A publication or a subscription: kind and name.
        of_item = ("kind", "name")
        self.snapshot_info = gauge(
            "snapshot_info",
            "Always 1; the label tells the snapshot that was published last, or is installed.",
            *(*of_item, "snapshot"),
        )
        self.snapshots = counter(
            "snapshots", "Publishes and installs, by result: changed, noop (nothing new) or error.", *of_item, "result"
        )
        self.published = gauge(
            "published_snapshot_timestamp_seconds",
            "When a snapshot was last published; 0 = not since the start.",
            "name",
        )
        self.installed = gauge(
            "installed_snapshot_timestamp_seconds",
            "When a snapshot was last installed; 0 = not since the start.",
            "name",
        )
        self.snapshot_success = gauge(
            "snapshot_last_success_timestamp_seconds",
            "When an attempt last came through, also with nothing to do; 0 = not since the start.",
            *of_item,
        )
        self.snapshot_bytes = counter(
            "snapshot_bytes", "Bytes of content: transferred, or reused since they were there.", *of_item, "source"
        )
        self.verification_failures = counter(
            "snapshot_verification_failures",
            "Installs that failed since a snapshot, its content or its channel wasn't what it has to be.",
            "name",
        )
