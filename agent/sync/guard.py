"""Brakes on what a plan would do: `max_delete`, an emptied root, a purged bucket (DESIGN section 6, "Brakes").

Before a batch starts, everything that is dirty is judged, not only what the batch has: whether the deletions that are
pending, with those of the last ten minutes, are more than the mapping may lose. The cheap questions come first (how
many rows could be deletions at all); only when their answer is too large are all dirty rows planned, which tells
renames and replacements apart. A halt is kept in the state store with what was counted: it outlives the process, and
ends when a person approves what it shows, or when nothing of it is pending any more since the content is back.

    halt      {reason, detail, remedy, since, side, count}; also those that `identity` finds
    window    what was deleted lately on each side, and how much of what is pending was approved (`core.guards`)

All functions run in the state's thread.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from agent.config.model import Mapping
from agent.core.guards import EMPTIED_FLOOR, HaltReason, Limit, Lot, Window
from agent.core.plan import Action, Plan, Verb
from agent.observe.status import Halt
from agent.state import StateStore
from agent.sync.outcome import Outcome, Result

Side = Literal["local", "remote"]
_VERBS: dict[Verb, Side] = {Verb.DELETE_LOCAL: "local", Verb.DELETE_REMOTE: "remote"}
_NAMES: dict[Side, str] = {"local": "in the directory", "remote": "in the bucket"}
# Ancestors are dropped when one of these is approved; the others allow what they have counted.
_FIRST_CONTACT = frozenset(HaltReason) - {HaltReason.MAX_DELETE, HaltReason.ROOT_EMPTIED}
# Those that are judged by what is planned; the others by `identity`, before a session begins.
OF_CONTENT = frozenset({HaltReason.MAX_DELETE, HaltReason.ROOT_EMPTIED, HaltReason.BUCKET_PURGED})


@dataclass(frozen=True, slots=True)
class Stop:
    """A halt with what was counted. since: seconds since 1970. side: the one that would lose `count` entries."""

    reason: HaltReason
    detail: str
    remedy: str
    since: float
    side: Side = "remote"
    count: int = 0

    def shown(self) -> Halt:
        return Halt(self.reason.value, self.detail, self.remedy, self.since)


def losses(actions: Iterable[Action]) -> Counter[Side]:
    """How many entries each side would lose."""
    return Counter(_VERBS[action.verb] for action in actions if action.loses)


class Guard:
    """Of one mapping. `planned`: makes the plan over all dirty rows."""

    def __init__(self, config: Mapping, planned: Callable[[StateStore], Plan]) -> None:
        self._config = config
        self._planned = planned
        self.limit = Limit(share=config.max_delete.share, count=config.max_delete.count)

    def judge(self, store: StateStore, made: Plan, now: float) -> Stop | None:
        """Whether nothing may be changed now, `made` included; the halt is stored. now: seconds since 1970."""
        stored = read_stop(store)
        self._let_approvals_end(store, now)
        harmless = not losses(made.actions) or not self._may_be_too_much(store, now)
        if stored is None and harmless and not _is_purged(store):
            return None
        found = self._found(store, now)
        if stored is not None and (found is not None or self._is_pending(store, stored)):
            found = replace(found or stored, since=stored.since)
        if found != stored:
            write_stop(store, found)
        return found

    def _let_approvals_end(self, store: StateStore, now: float) -> None:
        windows = read_windows(store, now)
        if not any(window.allowed for window in windows.values()):
            return
        local, remote = store.may_lose(without_ancestor=self._config.mode.mirrors)
        still: dict[Side, Window] = {"local": windows["local"].still(local), "remote": windows["remote"].still(remote)}
        if still != windows:
            write_windows(store, still)

    def _may_be_too_much(self, store: StateStore, now: float) -> bool:
        local, remote = store.may_lose(without_ancestor=self._config.mode.mirrors)
        if remote >= EMPTIED_FLOOR and self._config.mode.pushes and not store.counts().local_objects:
            return True
        windows = read_windows(store, now)
        pending: dict[Side, int] = {
            "local": local if self._config.mode.pulls else 0,
            "remote": remote if self._config.mode.pushes else 0,
        }
        return any(windows[side].total(count) >= self.limit.floor for side, count in pending.items() if count)

    def _found(self, store: StateStore, now: float) -> Stop | None:
        if _is_purged(store):
            return _purged(self._config, now)
        pending = self._pending(store)
        windows = read_windows(store, now)
        lost = pending["remote"]
        emptied = lost >= EMPTIED_FLOOR and not store.counts().local_objects
        if emptied and lost > windows["remote"].allowed:
            return emptied_stop(self._config, lost, now)
        if not any(windows[side].total(count) >= self.limit.floor for side, count in pending.items()):
            return None
        ancestors = store.ancestors()
        for side, count in pending.items():
            if windows[side].exceeds(self.limit, count, ancestors=ancestors):
                return self._too_many(side, count, windows[side], ancestors, now)
        return None

    def _pending(self, store: StateStore) -> Counter[Side]:
        """Exactly, by a plan over all dirty rows."""
        return losses(self._planned(store).actions)

    def _is_pending(self, store: StateStore, stop: Stop) -> bool:
        """Whether the content that a halt is about is still not back."""
        if stop.reason is HaltReason.BUCKET_PURGED:
            return store.any_vanished()
        return self._pending(store)[stop.side] > 0

    def _too_many(self, side: Side, count: int, window: Window, ancestors: int, now: float) -> Stop:
        earlier = sum(lot.count for lot in window.lots)
        lately = f", after {earlier} in the last ten minutes" if earlier else ""
        limit = (
            f"{self._config.max_delete} of {window.base(ancestors)}" if self.limit.count is None else self.limit.count
        )
        return Stop(
            HaltReason.MAX_DELETE,
            f"{count} {_entries(count)} {_NAMES[side]} would be deleted{lately}; max_delete is {limit}",
            f"put them back; or, if they shall go: jetsync approve {self._config.name}",
            now,
            side,
            count,
        )

    def carried_out(self, store: StateStore, outcomes: Iterable[Outcome], now: float) -> None:
        """Deletions that count were carried out; in the transaction of their outcomes, before those are written."""
        lost = losses(outcome.action for outcome in outcomes if outcome.result is Result.APPLIED)
        if not lost:
            return
        windows = read_windows(store, now)
        for side, count in lost.items():
            windows[side] = windows[side].add(count, ancestors=store.ancestors(), now=now)
        write_windows(store, windows)


def emptied_stop(config: Mapping, lost: int, now: float) -> Stop:
    follows = "they would be deleted in the bucket" if config.mode.pushes else "they would be fetched into it"
    otherwise = "if they shall go" if config.mode.pushes else "to fetch them"
    return Stop(
        HaltReason.ROOT_EMPTIED,
        f"{config.directory} is empty, and had {lost} {_entries(lost)}; {follows}",
        f"mount it or put them back; or, {otherwise}: jetsync approve {config.name}",
        now,
        "remote",
        lost,
    )


def _entries(count: int) -> str:
    return "entry" if count == 1 else "entries"


def _is_purged(store: StateStore) -> bool:
    """No name is left on the server, not even a marker, and something that was agreed on went without one."""
    return store.known_names() == 0 and store.any_vanished()


def _purged(config: Mapping, now: float) -> Stop:
    return Stop(
        HaltReason.BUCKET_PURGED,
        f"every message of bucket {config.bucket!r} is gone: it was purged",
        f"restore the bucket; or, to begin anew with what is there now: jetsync approve {config.name}",
        now,
        "local",
    )


# -- what is stored ----------------------------------------------------------------------------------------------------


def read_stop(store: StateStore) -> Stop | None:
    text = store.kv_get("halt")
    if text is None:
        return None
    value = json.loads(text)
    return Stop(**{**value, "reason": HaltReason(value["reason"])})


def write_stop(store: StateStore, stop: Stop | None) -> None:
    store.kv_set("halt", json.dumps(asdict(stop)) if stop is not None else None)


def read_windows(store: StateStore, now: float) -> dict[Side, Window]:
    value = json.loads(store.kv_get("window") or "{}")
    sides: tuple[Side, ...] = ("local", "remote")
    return {side: _window(value.get(side, {})).at(now) for side in sides}


def write_windows(store: StateStore, windows: dict[Side, Window]) -> None:
    store.kv_set("window", json.dumps({side: asdict(window) for side, window in windows.items()}))


def _window(value: dict[str, object]) -> Window:
    lots = value.get("lots", ())
    assert isinstance(lots, list | tuple)
    return Window(
        tuple(Lot(**lot) for lot in lots), allowed=int(str(value.get("allowed", 0))), begun=bool(value.get("begun"))
    )


# -- what a person says ------------------------------------------------------------------------------------------------


def approve(store: StateStore, now: float) -> Halt | None:
    """End the halt that there is, as it is shown; returns it, or None when there is none (DESIGN section 6).

    `max_delete` and `root_emptied`: as many deletions as were counted, once. The others: what was agreed on is dropped,
    so that nothing counts as deleted, and what is there now is taken for the mapping's own.
    """
    with store.transaction():
        stop = read_stop(store)
        if stop is None:
            return None
        windows = read_windows(store, now)
        windows[stop.side] = Window()
        if stop.reason in _FIRST_CONTACT:
            _begin_anew(store, stop.reason)
        else:
            windows[stop.side] = Window(allowed=stop.count)
        if stop.reason.value.startswith("root_"):
            store.kv_set("root", None)
        write_windows(store, windows)
        write_stop(store, None)
        return stop.shown()


def _begin_anew(store: StateStore, reason: HaltReason) -> None:
    if reason.value.startswith("root_") or reason is HaltReason.BUCKET_PURGED:
        store.forget_ancestors()
        return
    store.forget_remote()
    store.kv_set("stream_created", None)
    if reason is HaltReason.BUCKET_MISSING:
        store.kv_set("bucket_seen", None)
