"""`snapshot`: publish, install, and what there is in a repository.

`publish` and `install` are for entries of the configuration; the other commands take any repository that the connection
reaches. All are carried out by the running agent, when there is one on the same state directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from agent.cli import render
from agent.cli.commands import TIMEOUT, ask_agent, parse_timeout
from agent.cli.context import EXIT_PARTLY, Context, print_json, run_async, start_logging
from agent.cli.progress import progress
from agent.cli.screen import Styled, say, table

app = typer.Typer(no_args_is_help=True)
JSON = typer.Option(False, "--json", help="Print the result as JSON on stdout.")
REPOSITORY = typer.Argument(..., metavar="REPOSITORY", help="The bucket with the content and the channels.")
SNAPSHOT = typer.Argument(..., metavar="ID|CHANNEL", help="A snapshot, or the channel that leads to it.")
SIGN_WITH = typer.Option(
    None,
    "--sign-with",
    metavar="FILE",
    help="A file with an nkey seed; without, that of a publication to this channel.",
    show_default=False,
)


@app.command()
def publish(
    ctx: typer.Context,
    name: str = typer.Argument(..., metavar="PUBLICATION"),
    json_: bool = JSON,
    timeout: str = TIMEOUT,
) -> None:
    """Publish the tree of a publication, if it differs from what was published last."""
    _one(ctx, "snapshot-publish", name, json_=json_, timeout=timeout)


@app.command()
def install(
    ctx: typer.Context,
    name: str = typer.Argument(..., metavar="SUBSCRIPTION"),
    json_: bool = JSON,
    timeout: str = TIMEOUT,
) -> None:
    """Install the snapshot that a subscription's channel leads to."""
    _one(ctx, "snapshot-install", name, json_=json_, timeout=timeout)


def _one(ctx: typer.Context, command: str, name: str, *, json_: bool, timeout: str) -> None:
    answer = _do(ctx, command, {"name": name, "timeout": parse_timeout(timeout)})
    if json_:
        print_json(answer)
    else:
        render.snapshots([answer])
    raise typer.Exit(int(answer.get("exit_code", 0)))


@app.command("list")
def list_(ctx: typer.Context, repository: str = REPOSITORY, json_: bool = JSON) -> None:
    """List the snapshots and channels of a repository."""
    answer = _do(ctx, "snapshot-list", {"repository": repository})
    if json_:
        print_json(answer)
        return
    rows = [
        [
            one["id"],
            ", ".join(map(render.printable, one["channels"])),
            render.printable(one["publication"]),
            "yes" if one["sealed"] else "no",
            one["created"][:19],
        ]
        for one in answer["snapshots"]
    ]
    table(("SNAPSHOT", "CHANNELS", "PUBLICATION", "SEALED", "CREATED"), rows)
    for channel in answer["channels"]:
        if channel["error"]:
            say(Styled(render.printable(f"channel {channel['name']}: {channel['error']}"), "yellow"))


@app.command()
def show(ctx: typer.Context, repository: str = REPOSITORY, snapshot: str = SNAPSHOT, json_: bool = JSON) -> None:
    """Show one snapshot and the files in it."""
    answer = _do(ctx, "snapshot-show", {"repository": repository, "snapshot": snapshot})
    if json_:
        print_json(answer)
        return
    for key in ("id", "bucket", "sealed", "manifest", "signer", "files"):
        say(f"{key:<14}{'none' if answer[key] is None else answer[key]}")
    say(f"{'size':<14}{render.human(answer['bytes'])}")
    for entry in answer["entries"]:
        what = entry.get("mode") or ("link" if "target" in entry else "dir")
        size = render.human(entry["size"]) if "size" in entry else ""
        target = f" -> {render.printable(entry['target'])}" if "target" in entry else ""
        say(f"  {what:<5}{size:>12}  {render.printable(entry['path'])}{target}")


@app.command()
def verify(ctx: typer.Context, repository: str = REPOSITORY, snapshot: str = SNAPSHOT, json_: bool = JSON) -> None:
    """Read every byte of a snapshot, and compare it with the manifest."""
    answer = _do(ctx, "snapshot-verify", {"repository": repository, "snapshot": snapshot})
    problems = answer["problems"]
    if json_:
        print_json(answer)
    else:
        words = f"{len(problems)} problems" if problems else "whole"
        read = f"{answer['files']} files, {render.human(answer['bytes'])} read"
        say(f"{answer['id']}: ", Styled(words, "yellow" if problems else "green"), f": {read}")
        for problem in problems:
            path = render.printable(problem["path"]) or "the snapshot"
            say(f"  {path}: {render.printable(problem['reason'])}")
    raise typer.Exit(EXIT_PARTLY if problems else 0)


@app.command()
def diff(
    ctx: typer.Context,
    repository: str = REPOSITORY,
    before: str = typer.Argument(..., metavar="ID|CHANNEL"),
    after: str = typer.Argument(..., metavar="ID|CHANNEL"),
    json_: bool = JSON,
) -> None:
    """Show what differs between two snapshots."""
    answer = _do(ctx, "snapshot-diff", {"repository": repository, "before": before, "after": after})
    if json_:
        print_json(answer)
        return
    for change in answer["changes"]:
        say(f"{change['change']:<8} {render.printable(change['path'])}")


@app.command()
def promote(  # noqa: PLR0917 - typer gives them by name
    ctx: typer.Context,
    repository: str = REPOSITORY,
    snapshot: str = SNAPSHOT,
    channel: str = typer.Argument(..., metavar="CHANNEL"),
    sign_with: Path | None = SIGN_WITH,
    json_: bool = JSON,
) -> None:
    """Point a channel to a snapshot."""
    args = {"repository": repository, "snapshot": snapshot, "channel": channel, "sign_with": _absolute(sign_with)}
    _moved(_do(ctx, "snapshot-promote", args), json_=json_)


@app.command()
def rollback(  # noqa: PLR0917 - typer gives them by name
    ctx: typer.Context,
    repository: str = REPOSITORY,
    channel: str = typer.Argument(..., metavar="CHANNEL"),
    snapshot: str = typer.Argument("", metavar="[ID]", help="Without: the one before.", show_default=False),
    sign_with: Path | None = SIGN_WITH,
    json_: bool = JSON,
) -> None:
    """Point a channel back to an earlier snapshot."""
    args = {"repository": repository, "snapshot": snapshot, "channel": channel, "sign_with": _absolute(sign_with)}
    _moved(_do(ctx, "snapshot-rollback", args), json_=json_)


def _absolute(path: Path | None) -> str | None:
    return str(path.absolute()) if path is not None else None


def _moved(answer: Mapping[str, Any], *, json_: bool) -> None:
    if json_:
        print_json(answer)
        return
    before = f", before {answer['previous']}" if answer["previous"] else ""
    print(f"{answer['channel']} of {answer['repository']} leads to {answer['snapshot']}{before}")


@app.command()
def prune(  # noqa: PLR0917 - typer gives them by name
    ctx: typer.Context,
    repository: str = REPOSITORY,
    dry_run: bool = typer.Option(False, "--dry-run", help="Only tell what would be removed."),
    keep: int | None = typer.Option(
        None,
        "--keep",
        min=1,
        help="Snapshots of each publication that stay; without: `keep` of the publications here, 5 for others.",
        show_default=False,
    ),
    grace: str = typer.Option("24h", "--grace", metavar="DURATION", help="Younger content stays."),
    json_: bool = JSON,
) -> None:
    """Remove old snapshots, and content that no snapshot refers to."""
    args = {"repository": repository, "dry_run": dry_run, "keep": keep, "grace": parse_timeout(grace, "--grace")}
    answer = _do(ctx, "snapshot-prune", args)
    if json_:
        print_json(answer)
        return
    for identity in answer["snapshots"]:
        print(identity)
    would = "would be " if dry_run else ""
    size = render.human(answer["bytes"])
    print(
        f"{len(answer['snapshots'])} snapshots and {answer['contents']} contents ({size}) {would}removed,"
        f" {answer['kept']} snapshots stay"
    )


def _do(ctx: typer.Context, command: str, args: dict[str, Any]) -> dict[str, Any]:
    """Have the running agent do it, or do it here."""
    context: Context = ctx.obj
    config = context.load()
    with progress() as on_event:
        answer = ask_agent(config, command, args, on_event=on_event)
        if answer is not None:
            return answer
        start_logging(config)
        from agent.supervisor.service import snapshot_work

        return run_async(lambda: snapshot_work(config, command, args, on_event))
