"""Blocking work of one attempt, in threads; a cancelled attempt tells it to stop, and waits until it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from agent.directory import StoppedError

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """`await threads(work, ...)` runs the function in a thread. `stopped` is what long work asks between two steps.

    Nothing is left running behind an awaiting that was cancelled: descriptors that the work uses can be closed then.
    """

    def __init__(self) -> None:
        self._stopped = False

    def stopped(self) -> bool:
        return self._stopped

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
        task = asyncio.create_task(asyncio.to_thread(work, *args, **options))
        interrupted: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                self._stopped, interrupted = True, error
        if interrupted is not None:
            task.exception()
            raise interrupted
        try:
            return task.result()
        except StoppedError as error:  # another part of the attempt was cancelled
            raise asyncio.CancelledError from error
