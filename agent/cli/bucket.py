"""`bucket list|show|apply|seal|link|delete`: what buckets there are, how they are made, and bringing declared ones to
their shape.

What can't be undone asks on a terminal. Elsewhere `delete` wants `--yes` for a bucket that holds something."""

from __future__ import annotations

import sys
from typing import Any

import typer

from agent.cli import render
from agent.cli.commands import ask_agent
from agent.cli.context import Context, print_json, run_async, start_logging
from agent.cli.screen import say, table

app = typer.Typer(no_args_is_help=True)
YES = typer.Option(False, "--yes", "-y", help="Don't ask.")
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


@app.command()
def seal(
    ctx: typer.Context, name: str = typer.Argument(..., metavar="BUCKET"), yes: bool = YES, json_: bool = JSON
) -> None:
    """Make a bucket read-only for ever."""
    _confirm(yes, f"Nothing can ever be written to bucket {name} again. Seal it?")
    answer = _do(ctx, "bucket-seal", {"name": name})
    if json_:
        print_json(answer)
    else:
        print(f"{answer['name']} is sealed")


@app.command()
def link(
    ctx: typer.Context,
    bucket: str = typer.Argument(..., metavar="BUCKET"),
    name: str = typer.Argument(..., metavar="NAME", help="The object that becomes a link."),
    target: str = typer.Argument(..., metavar="BUCKET[/OBJECT]", help="What it leads to: an object, or a bucket."),
    json_: bool = JSON,
) -> None:
    """Make an object a link to another object, or to a bucket."""
    answer = _do(ctx, "bucket-link", {"bucket": bucket, "name": name, "target": target})
    if json_:
        print_json(answer)
    else:
        print(f"{answer['bucket']}/{render.printable(answer['name'])} leads to {render.printable(answer['target'])}")


@app.command()
def delete(
    ctx: typer.Context, name: str = typer.Argument(..., metavar="BUCKET"), yes: bool = YES, json_: bool = JSON
) -> None:
    """Delete a bucket with everything in it."""
    yes = _confirm(yes, f"Everything in bucket {name} will be lost. Delete it?")
    answer = _do(ctx, "bucket-delete", {"name": name, "yes": yes})
    if json_:
        print_json(answer)
    else:
        print(f"{answer['name']} is deleted ({render.human(answer['size'])})")


def _confirm(yes: bool, question: str) -> bool:
    """Ask on a terminal; whether somebody has said yes."""
    if yes or not sys.stdin.isatty():
        return yes
    typer.confirm(question, abort=True, err=True)
    return True


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
