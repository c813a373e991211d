"""`conflicts` and `resolve`: which paths have two versions, and which of them is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from agent.cli import render
from agent.cli.commands import JSON, TIMEOUT, ask_agent, parse_timeout
from agent.cli.context import EXIT_FAILED, Context, print_json, run_async, start_logging
from agent.cli.home import NAME, carry_out
from agent.cli.screen import Piece, Styled, say
from agent.errors import UsageError

_KEEP = ("local", "remote", "both")


def register(app: typer.Typer) -> None:
    app.command()(conflicts)
    app.command()(resolve)


def conflicts(
    ctx: typer.Context,
    name: str = typer.Argument(None, metavar="[NAME]", help="A mapping; all when none is named.", show_default=False),
    json_: bool = JSON,
) -> None:
    """List paths in conflict, with both versions, and conflict copies."""
    answer = carry_out(ctx, "conflicts", {"names": [name] if name else []})
    if json_:
        print_json(answer)
        return
    found = False
    for mapping in answer["mappings"]:
        for conflict in mapping["conflicts"]:
            found = True
            say(*_line(mapping["name"], conflict["path"], f"conflict: {conflict['reason']}"))
            say(f"  local   {_version(conflict['local'])}")
            say(f"  remote  {_version(conflict['remote'])}")
        for copy in mapping["copies"]:
            if copy["kept"]:
                continue
            found = True
            of = f"copy of {render.printable(copy['of'])}" if copy["of"] else "copy"
            say(*_line(mapping["name"], copy["path"], f"{of}, {_origin(copy)}"))
            say(f"  {_version(copy['version'])}")
    if found:
        say("\nresolve with: jetsync resolve NAME PATH --keep local|remote|both")
    else:
        say("no conflicts")


def _line(name: str, path: str, words: str) -> tuple[Piece, ...]:
    return f"{name}: ", Styled(render.printable(path), "yellow"), f"  {words}"


def _origin(copy: Mapping[str, Any]) -> str:
    return f"by {copy['agent']}" + (f" of {copy['written']}" if copy["written"] else "")


def _version(version: Mapping[str, Any] | None) -> str:
    if version is None:
        return "deleted, or not there"
    if version["kind"] == "link":
        return f"link to {render.printable(version['target'] or '')}"
    words = [render.human(version["size"])]
    if version["mtime"]:
        words.append(f"modified {version['mtime']}")
    if version["digest"]:
        words.append(version["digest"][:8])
    if version["executable"]:
        words.append("executable")
    return ", ".join(words)


def resolve(  # noqa: PLR0917 - typer gives them by name
    ctx: typer.Context,
    name: str = NAME,
    path: str = typer.Argument(..., metavar="PATH", help="Relative to the mapping's directory, or inside it."),
    keep: str = typer.Option(..., "--keep", metavar="local|remote|both", help="Which version is right."),
    json_: bool = JSON,
    timeout: str = TIMEOUT,
) -> None:
    """Resolve a conflict: keep one version, or both. For a conflict copy, `local` is the copy's version."""
    if keep not in _KEEP:
        raise UsageError(f"--keep: unknown {keep!r}", remedy="use local, remote or both")
    context: Context = ctx.obj
    config = context.load()
    args: dict[str, Any] = {"name": name, "path": path, "keep": keep, "timeout": parse_timeout(timeout)}
    answer = ask_agent(config, "resolve", args)
    if answer is None:
        start_logging(config)
        from agent.supervisor.requests import resolve_alone

        answer = run_async(lambda: resolve_alone(config, args))
    if json_:
        print_json(answer)
    else:
        _tell(answer)
    raise typer.Exit(EXIT_FAILED if answer.get("errors") else 0)


_DONE = {
    "upload": "the local version is in the bucket now",
    "download": "the bucket's version is here now",
    "delete-local": "deleted here",
    "delete-remote": "deleted in the bucket",
    "conflict-copy": "both are kept: the other version is {to}",
    "move-local": "its version is {to} now",
    "update-metadata": "only the executable bit differed",
}


def _tell(answer: Mapping[str, Any]) -> None:
    for action in answer["actions"]:
        words = _DONE[action["action"]].format(to=render.printable(action["to"] or ""))
        say(*_line(answer["name"], action["path"], words))
    if answer["detail"]:
        say(*_line(answer["name"], answer["path"], answer["detail"]))
    if answer["saved"]:
        say(f"  the version that gave way is in the trash: jetsync trash list {answer['name']}")
    for error in answer.get("errors", ()):
        say(Styled(f"  not sent yet: {error}", "yellow"))
