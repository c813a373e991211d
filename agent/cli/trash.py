"""`trash list|restore`: what sync has overwritten or deleted locally, and bringing it back."""

from __future__ import annotations

import sys

import typer

from agent.cli import render
from agent.cli.commands import JSON
from agent.cli.context import EXIT_FAILED, EXIT_PARTLY, print_json
from agent.cli.home import NAME, carry_out

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    ctx: typer.Context,
    name: str = typer.Argument(None, metavar="[NAME]", help="A mapping; all when none is named.", show_default=False),
    json_: bool = JSON,
) -> None:
    """List the kept versions, newest first."""
    answer = carry_out(ctx, "trash-list", {"names": [name] if name else []})
    if json_:
        print_json(answer)
    else:
        for version in answer["versions"]:
            size = render.human(version["size"])
            print(f"{version['time']}  {size:>10}  {version['name']}: {render.printable(version['path'])}", end="")
            print(f"  ({version['batch']})")
        if not answer["versions"] and not answer["errors"]:
            print("the trash is empty")
    for error in answer["errors"]:
        print(f"jetsync: {error['name']}: {error['message']}", file=sys.stderr)
    if answer["errors"]:
        raise typer.Exit(EXIT_PARTLY if answer["versions"] else EXIT_FAILED)


@app.command()
def restore(
    ctx: typer.Context,
    name: str = NAME,
    path: str = typer.Argument(..., metavar="PATH", help="Relative to the mapping's directory, or inside it."),
    batch: str = typer.Option(
        None, "--batch", metavar="BATCH", help="The version of this batch; the newest when none is named."
    ),
    json_: bool = JSON,
) -> None:
    """Move a kept version back to its path, over nothing."""
    answer = carry_out(ctx, "trash-restore", {"name": name, "path": path, "batch": batch})
    if json_:
        print_json(answer)
    else:
        print(f"{name}: {render.printable(answer['path'])}: restored from {answer['batch']}")
