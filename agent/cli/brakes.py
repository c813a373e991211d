"""`approve`, `pause` and `resume`: what a person says about whether a mapping may go on."""

from __future__ import annotations

import typer

from agent.cli.commands import JSON
from agent.cli.context import print_json
from agent.cli.home import NAME, carry_out


def register(app: typer.Typer) -> None:
    app.command()(approve)
    app.command()(pause)
    app.command()(resume)


def approve(ctx: typer.Context, name: str = NAME, json_: bool = JSON) -> None:
    """Let a halted mapping go on: what the halt shows may happen, once."""
    answer = carry_out(ctx, "approve", {"name": name})
    if json_:
        print_json(answer)
    elif answer["approved"] is None:
        print(f"{name}: is not halted; there is nothing to approve")
    else:
        print(f"{name}: approved: {answer['approved']['reason']}: {answer['approved']['detail']}")


def pause(ctx: typer.Context, name: str = NAME, json_: bool = JSON) -> None:
    """Have a mapping start nothing new until `resume`; also after a restart."""
    answer = carry_out(ctx, "pause", {"name": name})
    if json_:
        print_json(answer)
    else:
        print(f"{name}: paused" if answer["changed"] else f"{name}: was paused already")


def resume(ctx: typer.Context, name: str = NAME, json_: bool = JSON) -> None:
    """Have a paused mapping go on."""
    answer = carry_out(ctx, "resume", {"name": name})
    if json_:
        print_json(answer)
    else:
        print(f"{name}: goes on" if answer["changed"] else f"{name}: was not paused")
