"""`bucket list|show|apply`: what buckets there are, how they are made, and bringing declared ones to their shape."""

from __future__ import annotations

from typing import Any

import typer

from agent.cli import render
from agent.cli.commands import ask_agent
from agent.cli.context import Context, print_json, run_async, start_logging
from agent.cli.screen import say, table

app = typer.Typer(no_args_is_help=True)
JSON = typer.Option(False, "--json", help="Print the result as JSON on stdout.")


@app.command("list")
def list_(ctx: typer.Context, json_: bool = JSON) -> None:
    """List the account's buckets."""
    answer = _do(ctx, "bucket-list", {})
    if json_:
        print_json(answer)
        return
    rows = [
        [
            bucket["name"],
            render.human(bucket["size"]),
            bucket["storage"],
            str(bucket["replicas"]),
            f"{bucket['ttl']:g}s" if bucket["ttl"] else "",
            "yes" if bucket["sealed"] else "",
            bucket["mirror"] or "",
            render.printable(bucket["description"]),
        ]
        for bucket in answer["buckets"]
    ]
    table(("BUCKET", "SIZE", "STORAGE", "REPLICAS", "TTL", "SEALED", "MIRROR OF", "DESCRIPTION"), rows)


@app.command()
def show(ctx: typer.Context, name: str = typer.Argument(..., metavar="BUCKET"), json_: bool = JSON) -> None:
    """Show one bucket."""
    answer = _do(ctx, "bucket-show", {"name": name})
    if json_:
        print_json(answer)
        return
    for key, value in answer.items():
        if key != "version":
            say(f"{key:<14}{render.printable(str(value))}")


@app.command()
def apply(
    ctx: typer.Context,
    names: list[str] = typer.Argument(
        None, metavar="[BUCKET]...", help="Declared buckets; all when none is named.", show_default=False
    ),
    json_: bool = JSON,
) -> None:
    """Create the declared buckets that don't exist, and bring the others to their declared shape."""
    answer = _do(ctx, "bucket-apply", {"names": names or []})
    if json_:
        print_json(answer)
        return
    for result in answer["buckets"]:
        print(f"{result['name']}: {', '.join(result['changes']) or 'as declared'}")
        for warning in result["warnings"]:
            print(f"  {warning}")


def _do(ctx: typer.Context, command: str, args: dict[str, Any]) -> dict[str, Any]:
    """Have the running agent do it, or connect and do it here."""
    context: Context = ctx.obj
    config = context.load()
    if command == "bucket-apply":
        from agent.supervisor.buckets import chosen

        chosen(config, args["names"])  # a wrong name should be told before anybody is connected
    answer = ask_agent(config, command, args)
    if answer is not None:
        return answer
    start_logging(config)
    from agent.supervisor.service import bucket_work

    return run_async(lambda: bucket_work(config, command, args))
