"""Versions on their way out.

Those beyond `keep` are removed, the current one counted, the longest gone first; but none within GRACE of having been
current: a reader that has resolved `current` may still be at work there. One that has never been current (its `before`
command said no, and then the channel moved on) goes at once. When a version stopped being current is noted before
`current` is replaced, so that a crash can't lose it.

A version first leaves its name by a rename, then its files are removed: what has the name of a version is whole.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from typing import Any

from agent.core.manifest import is_snapshot_id
from agent.directory import place
from agent.directory.dirfd import Beneath
from agent.directory.faults import mapped
from agent.directory.ownfiles import TEMPORARY, OwnFiles
from agent.directory.removal import remove_tree
from agent.directory.trash import Spot

GRACE = 600.0
"""Seconds for which a version stays that was current."""
PARTIAL = ".partial"
_REMOVED = "removed-"
_TIMES = "times.json"
_WHAT = "versions/"


class OldVersions:
    """versions: the directory with them. own, files: the agent's own directory in it."""

    def __init__(self, versions: Beneath, own: Beneath, files: OwnFiles) -> None:
        self._versions = versions
        self._own = own
        self._files = files

    def ids(self) -> set[str]:
        """The ids of the versions that are there and of which is recorded that we made them. Raises PathError, ..."""
        with mapped(_WHAT, "listing it"):
            known = {name.removesuffix(".json") for name in os.listdir(self._own.fd)}
            return {name for name in os.listdir(self._versions.fd) if name in known and is_snapshot_id(name)}

    def stopped_being_current(self, identity: str, now: float) -> None:
        """Note it; now: seconds since 1970. Raises PathError, SpaceError."""
        self._files.write(_TIMES, {**self._times(self.ids() - {identity}, now), identity: now})

    def clean(self, current: str, keep: int, *, spare: Collection[str], now: float) -> float | None:
        """Remove what is too much, and what was begun and isn't wanted.

        current, spare: ids that stay; those in `spare` complete or not. Gives the seconds until the next version may be
        removed; None: nothing waits. Raises PathError, SpaceError.
        """
        with mapped(_WHAT, "removing old versions"):
            self._sweep(spare)
            ours = self.ids() - {current, *spare}
            times = self._times(ours, now)
            were_current = sorted(ours & times.keys(), key=lambda identity: times[identity], reverse=True)
            too_many = were_current[max(0, keep - bool(current)) :]
            waiting = {identity: left for identity in too_many if (left := times[identity] + GRACE - now) > 0}
            for identity in {*too_many, *(ours - times.keys())} - waiting.keys():
                self._remove(identity)
            self._forget(times, {*spare, current})
        return min(waiting.values(), default=None)

    def slot(self, identity: str) -> str:
        """A name in the agent's own directory for a version that goes."""
        return f"{_REMOVED}{identity}-{secrets.token_hex(4)}"

    def _sweep(self, spare: Collection[str]) -> None:
        for name in os.listdir(self._versions.fd):
            if is_partial(name) and name.removesuffix(PARTIAL) not in spare:
                remove_tree(self._versions, name)
        for name in os.listdir(self._own.fd):
            if name.startswith(TEMPORARY):
                self._files.remove(name)
            elif name.startswith(_REMOVED):
                remove_tree(self._own, name)

    def _remove(self, identity: str) -> None:
        slot = Spot(self._own.fd, self.slot(identity))
        place.take(Spot(self._versions.fd, identity), slot)
        self._files.remove(f"{identity}.json")
        remove_tree(self._own, slot.name)

    def _times(self, ours: Collection[str], now: float) -> dict[str, float]:
        """When versions stopped being current. One that lies in the future (the clock was set back) counts as now."""
        value = self._files.read(_TIMES)
        if value is None:  # lost: they may all have been current just now
            return dict.fromkeys(ours, now)
        return {identity: min(float(at), now) for identity, at in value.items() if isinstance(at, int | float)}

    def _forget(self, times: dict[str, float], stay: Collection[str]) -> None:
        """Keep notes only of what is there, or is about to be."""
        there = self.ids()
        left: dict[str, Any] = {identity: at for identity, at in times.items() if identity in there}
        if left != self._files.read(_TIMES):
            self._files.write(_TIMES, left)
        for name in os.listdir(self._own.fd):
            identity = name.removesuffix(".json")
            if is_snapshot_id(identity) and identity not in there and identity not in stay:
                self._files.remove(name)


def is_partial(name: str) -> bool:
    """Whether it is the name of a version that is being built."""
    return name.endswith(PARTIAL) and is_snapshot_id(name.removesuffix(PARTIAL))
