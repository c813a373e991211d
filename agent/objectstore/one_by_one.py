"""What is left of a lot that went in one piece: each by itself, some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 64


async def each(work: Callable[[int, T], Awaitable[None]], items: Iterable[tuple[int, T]]) -> None:
    """Run the work for each."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(place: int, more: T) -> None:
        async with places:
            await work(place, more)

    async with asyncio.TaskGroup() as group:
        for place, more in list(items):
            group.create_task(one(place, more), name="one by one")
