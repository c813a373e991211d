"""A guard for work that never ends by itself: an unforeseen error is logged whole, and the work begins again.

`end` waits for it where it was told to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from agent.errors import JetsyncError
from agent.observe.logging import get_logger
from agent.sync.retry import Backoff


async def guarded(
    run: Callable[[], Awaitable[None]],
    *,
    kind: str,
    name: str,
    broken: Callable[[JetsyncError], None] = lambda _error: None,
) -> None:
    """Run it until it returns. kind, name: of what runs, for the log. broken: told why it has to begin again."""
    backoff = Backoff(base=1.0, ceiling=60.0)
    log = get_logger(**{kind: name})
    failed, crashed = f"{kind}_failed", f"{kind}_crashed"
    while True:
        try:
            return await run()
        except JetsyncError as error:
            broken(error)
            log.error(failed, error=error.message, remedy=error.remedy)
        except Exception as error:
            broken(JetsyncError(f"unforeseen: {error!r}", remedy="please report this, with the log"))
            log.exception(crashed)
        await asyncio.sleep(backoff.next())


async def end(tasks: Sequence[asyncio.Task[None]], *, within: float) -> None:
    """Wait for tasks that have been told to end; those that don't `within` seconds are cancelled."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=within)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)
