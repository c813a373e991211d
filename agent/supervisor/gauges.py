"""Keeping the gauges true: what mappings and snapshots say of themselves. Counters count by themselves.

Who scrapes gets what is true now (`fresh`). Between scrapes there is a round at intervals, since the age of a change
that hasn't arrived is told from when it was first seen. A mapping that is idle and has done nothing since is passed
over for some rounds: asking it takes its state's thread and a thread of the disk out of their sleep, and with a million
files nothing else would use the processor (measured: two thirds of what an idle agent used).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from agent.errors import StateError
from agent.observe.status import State
from agent.supervisor.items import Items
from agent.sync.mapping import MappingSync

# Seconds between two rounds; the same while all mappings are idle; until a mapping that is idle is asked again.
ROUND = 2.0
IDLE_ROUND = 5.0
IDLE_MAPPING = 20.0
# Who scrapes waits at most so long (seconds): a state store can be busy, and yesterday's figures are better than none.
SCRAPE = 1.0


class Gauges:
    """`run` is its only task."""

    def __init__(self, mappings: Callable[[], Iterable[MappingSync]], items: Items) -> None:
        self._mappings = mappings
        self._items = items
        self._shown: dict[MappingSync, tuple[object, float]] = {}  # how it was, and when
        self._wanted = asyncio.Event()
        self._round = asyncio.Event()  # set when a round that was asked for is over

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            asked = self._wanted.is_set()
            self._wanted.clear()
            await self.show(everything=asked)
            if asked:
                self._round.set()
            idle = all(mapping.record.state is State.IDLE for mapping in self._mappings())
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_ROUND if idle else ROUND):
                    await self._wanted.wait()

    async def fresh(self) -> None:
        """Have a round now, and wait until it is over, for a moment at most."""
        self._round.clear()
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(SCRAPE):
                await self._round.wait()

    async def show(self, *, everything: bool = True) -> None:
        """Bring the gauges up to date."""
        mappings = list(self._mappings())
        self._shown = {mapping: seen for mapping, seen in self._shown.items() if mapping in mappings}
        for mapping in mappings:
            now, how = time.monotonic(), mapping.record.marks
            before, at = self._shown.get(mapping, (None, 0.0))
            if not everything and mapping.record.state is State.IDLE and how == before and now - at < IDLE_MAPPING:
                continue
            with suppress(StateError):  # it is ending
                await mapping.show_metrics()
                self._shown[mapping] = how, now
        self._items.show_metrics()
