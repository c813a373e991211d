"""Work on many things at once, a bounded number at a time; the first error ends the others and is raised itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from agent.errors import JetsyncError

T = TypeVar("T")

AT_ONCE = 128


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int = AT_ONCE) -> None:
    """Do `work` for each item; `at_once` of them at a time.

    :raises JetsyncError: the first one that any of them has raised
    """
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(at_once):
                group.create_task(worker(), name=f"snapshots {number}")
    except* JetsyncError as errors:
        raise next(_flat(errors)) from None


def _flat(error: BaseException) -> Iterator[JetsyncError]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _flat(one)
    elif isinstance(error, JetsyncError):
        yield error
