"""The state store of one mapping, from the event loop: every call runs in one thread of its own, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from agent.errors import StateError
from agent.state import StateReader, StateStore

T = TypeVar("T")


class Db:
    """`await db(lambda store: ...)` runs the function with the store and gives back what it returns."""

    def __init__(self, store: StateStore, name: str) -> None:
        self._store = store
        self._name = name
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"state {name}")

    @classmethod
    async def open(cls, path: Path, name: str) -> Db:
        """:raises StateError: the file can't be used"""
        return cls(await asyncio.to_thread(StateStore.open, path), name)

    async def __call__(self, work: Callable[[StateStore], T]) -> T:
        """:raises StateError: it is closed"""
        if self._closed:
            raise StateError(f"the state of {self._name!r} is closed", remedy="ask again")
        return await self._run(work)

    async def _run(self, work: Callable[[StateStore], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._store)

    @property
    def dirtied(self) -> int:
        """How many rows have become dirty so far: without a call to the thread."""
        return self._store.dirtied

    @property
    def recovered(self) -> str:
        """Why the store had to be begun anew at this start; "" when it hadn't."""
        return self._store.recovered or ""

    def reader(self) -> StateReader:
        """A read-only connection for another thread; close it (it is a context manager)."""
        return self._store.reader()

    async def close(self) -> None:
        """What was asked for before comes first."""
        self._closed = True
        await self._run(lambda store: store.close())
        self._thread.shutdown(wait=False)
