"""`jetsync demo`: the command; what is shown is in `tour`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import typer

from agent.cli.context import run_async


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    keep: bool = typer.Option(False, "--keep", help="Leave the temporary directories in place and say where."),
) -> None:
    """Two directories stay equal through a bucket on an embedded server, live, in a temporary place."""
    from agent.cli.tour import tour  # it needs an event loop, which most commands don't

    folder = Path(tempfile.mkdtemp(prefix="jetsync-demo-"))
    try:
        run_async(lambda: tour(folder))
    finally:
        if keep:
            print(f"left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
