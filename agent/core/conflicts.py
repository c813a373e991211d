"""Conflict copies: which version gets one, and under which free name.

A conflict copy never gets a copy itself, and a name with 10 live copies gets no eleventh (DESIGN section 4): their
conflicts are reported. The name of a copy is deterministic, so that a plan made twice asks for the same copy. When
that name is in use (the same version came to a conflict before), the next free second is taken. Unless it is the
copy itself: an agent that is stopped right after it has given the local version its second name leaves both.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.core import names
from agent.core.entries import Entry
from agent.core.reconcile import Rules

MAX_COPIES = 10
_SECOND = 1_000_000_000


class Copies:
    """Gives out names of conflict copies within one plan.

    taken: whether a path is in use on any side. holds: whether it has this very content, and only here. live: how many
    live conflict copies a path has.
    """

    def __init__(
        self,
        rules: Rules,
        taken: Callable[[str], bool],
        holds: Callable[[str, Entry], bool],
        live: Callable[[str], int],
    ) -> None:
        self._rules = rules
        self._taken = taken
        self._holds = holds
        self._live = live
        self._given: set[str] = set()

    def name(self, path: str, entry: Entry, *, kept: bool = False) -> str | None:
        """A free name for a copy of `entry`, which stands at `path`; None when it may not have one.

        kept: a name at which the copy is already will do.
        """
        if path.endswith("/") or names.is_conflict_copy(path) or self._live(path) >= MAX_COPIES:
            return None
        for attempt in range(MAX_COPIES + 1):
            name = names.conflict_name(
                path,
                agent=self._rules.agent,
                mtime_ns=(entry.mtime_ns or 0) + attempt * _SECOND,
                digest=names.copy_digest(entry),
                prefix_bytes=self._rules.prefix_bytes,
            )
            if name is None:
                return None
            if name not in self._given and (not self._taken(name) or (kept and self._holds(name, entry))):
                self._given.add(name)
                return name
        return None
