"""`verify`: read every byte on both sides, tell what is damaged, and with --repair mend it from the good side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from agent.cli import render
from agent.cli.commands import JSON, NAMES, TIMEOUT, ask_agent, parse_timeout
from agent.cli.context import EXIT_CONNECT, EXIT_FAILED, EXIT_PARTLY, Context, print_json, run_async, start_logging
from agent.cli.progress import progress
from agent.cli.screen import Styled, say, table

_EXIT = {"ok": 0, "repaired": 0, "damaged": EXIT_PARTLY}


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    ctx: typer.Context,
    names: list[str] = NAMES,
    repair: bool = typer.Option(False, "--repair", help="Mend it from the good side; purge orphan chunks."),
    json_: bool = JSON,
    timeout: str = TIMEOUT,
) -> None:
    """Read every byte on both sides: damaged files, damaged objects, chunks that no object names."""
    context: Context = ctx.obj
    config = context.load()
    args: dict[str, Any] = {"names": names or [], "repair": repair, "timeout": parse_timeout(timeout)}
    with progress() as on_event:
        answer = ask_agent(config, "verify", args, on_event=on_event)
        if answer is None:
            start_logging(config)
            from agent.supervisor.requests import verify_alone

            answer = run_async(lambda: verify_alone(config, args, on_event))
    if json_:
        print_json(answer)
    else:
        _show(answer["mappings"])
    raise typer.Exit(exit_code(answer["mappings"]))


def exit_code(reports: Sequence[Mapping[str, Any]]) -> int:
    """0: all whole, or made so; 5: can't connect; 1: none was read to its end; 3: damage is left, or one wasn't."""
    if any(report.get("exit_code") == EXIT_CONNECT for report in reports):
        return EXIT_CONNECT
    codes = [_EXIT.get(report["state"], EXIT_FAILED) for report in reports]
    if codes and all(code == EXIT_FAILED for code in codes):
        return EXIT_FAILED
    return EXIT_PARTLY if any(codes) else 0


def _show(reports: Sequence[Mapping[str, Any]]) -> None:
    for report in reports:
        style = {"ok": "green", "repaired": "green", "damaged": "yellow"}.get(report["state"], "red")
        read = render.human(report["bytes_local"] + report["bytes_remote"])
        checked = f": {report['checked_files']} files and {report['checked_objects']} objects read, {read}"
        say(f"{report['name']}: ", Styled(report["state"], style), checked)
        _damage(report)
        orphans = report["orphans"]
        if orphans["nuids"]:
            say(f"  {orphans['chunks']} chunks that no object names, {render.human(orphans['bytes'])}")
        if orphans["young"]:
            say(f"  {orphans['young']} uploads that may still be under way were left alone")
        if report["purged"]:
            say(f"  {report['purged']} chunks purged")
        for error in report["errors"]:
            say(Styled(f"  error: {error}", "yellow"))


def _damage(report: Mapping[str, Any]) -> None:
    rows = [("file", damage) for damage in report["damaged_files"]]
    rows += [("object", damage) for damage in report["damaged_objects"]]
    if not rows:
        return
    mended = dict.fromkeys(report["repaired"], "  repaired")
    table(
        ("", "DAMAGED", "PATH", "WHY"),
        [
            [mended.get(damage["path"], ""), kind, render.printable(damage["path"]), damage["reason"]]
            for kind, damage in rows
        ],
    )
