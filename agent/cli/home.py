"""What the commands share that work on a mapping's state and need no connection: the agent does it, or they do."""

from __future__ import annotations

from typing import Any

import typer

from agent.cli.commands import ask_agent
from agent.cli.context import Context, run_async, start_logging

NAME = typer.Argument(..., metavar="NAME", help="A mapping.")


def carry_out(ctx: typer.Context, command: str, args: dict[str, Any]) -> dict[str, Any]:
    """Have the running agent do it, or do it here."""
    context: Context = ctx.obj
    config = context.load()
    answer = ask_agent(config, command, args)
    if answer is not None:
        return answer
    start_logging(config)
    from agent.supervisor.requests import home_work

    return run_async(lambda: home_work(config, command, args))
