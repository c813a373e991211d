"""A guard for work that never ends by itself: an unforeseen error is logged whole, and the work begins again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

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
