"""Progress of long work: a bar for each thing on stderr, when that is a terminal; nothing otherwise.

Events are what the work emits, in this process or in the agent: {"name", "total": bytes, "done": bytes}.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

OnEvent = Callable[[Mapping[str, Any]], None]


@contextmanager
def progress() -> Iterator[OnEvent]:
    """A bar for each mapping on stderr, when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        ids: dict[str, TaskID] = {}

        def on_event(event: Mapping[str, Any]) -> None:
            name = str(event["name"])
            if name not in ids:
                ids[name] = bars.add_task(name, total=None)
            if "total" in event:
                bars.update(ids[name], total=event["total"])
            if "done" in event:
                bars.update(ids[name], completed=event["done"])

        yield on_event
