"""The series of one publication or subscription. They are shown, not counted here: what runs has plain numbers.

`show` adds what its numbers have grown by. Numbers that have become smaller belong to something that began anew, as a
counter does for Prometheus. Of the info series only that of the current snapshot is there.
"""

from __future__ import annotations

from typing import Any

from agent.observe import series
from agent.observe.meter import SnapshotMeter
from agent.observe.series import Series
from agent.observe.status import SnapshotCounts, SnapshotStatus

_PUBLICATION = "publication"


class SnapshotMetrics(SnapshotMeter):
    def __init__(self, all_: Series, kind: str, name: str) -> None:
        self.kind = kind
        self._info_series = all_.snapshot_info
        self._labels = (kind, name)
        self._made: list[tuple[Any, tuple[str, ...]]] = []
        self._info = ""
        self._removed = False
        self._before: dict[str, int] = {}
        self._results = {result: self._child(all_.snapshots, kind, name, result) for result in series.SNAPSHOT_RESULTS}
        self._bytes = {
            source: self._child(all_.snapshot_bytes, kind, name, source) for source in series.SNAPSHOT_SOURCES
        }
        published = kind == _PUBLICATION
        self._last_change = self._child(all_.published if published else all_.installed, name)
        self._last_success = self._child(all_.snapshot_success, kind, name)
        self._unverified = None if published else self._child(all_.verification_failures, name)

    def _child(self, metric: Any, *labels: str) -> Any:
        self._made.append((metric, labels))
        return metric.labels(*labels)

    def show(self, status: SnapshotStatus, counts: SnapshotCounts) -> None:
        """See `SnapshotMeter`."""
        if self._removed:
            return
        if status.snapshot != self._info:
            self._remove_info()
            self._info = status.snapshot
            if self._info:
                self._info_series.labels(*self._labels, self._info).set(1)
        for result, child in self._results.items():
            child.inc(self._grown(result, getattr(counts, result)))
        for source, child in self._bytes.items():
            child.inc(self._grown(source, getattr(counts, source)))
        if self._unverified is not None:
            self._unverified.inc(self._grown("unverified", counts.unverified))
        if counts.last_change is not None:
            self._last_change.set(counts.last_change)
        if status.last_success is not None:
            self._last_success.set(status.last_success)

    def _grown(self, what: str, now: int) -> int:
        before, self._before[what] = self._before.get(what, 0), now
        return now - before if now >= before else now

    def _remove_info(self) -> None:
        if self._info:
            self._info_series.remove(*self._labels, self._info)
            self._info = ""

    def remove(self) -> None:
        """Every series of it goes; `show` shows nothing any more."""
        self._removed = True
        self._remove_info()
        for metric, labels in self._made:
            metric.remove(*labels)
        self._made.clear()
