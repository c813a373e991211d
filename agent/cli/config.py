"""`jetsync config validate|show|schema`: the configuration file, without a server and without a running agent.

Results go to stdout. A wrong file raises ConfigError (exit 78), which the main command line renders; with `--json`,
`validate` prints the problems as its result instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from agent.config.load import Loaded

app = typer.Typer(help="Check and show the configuration file.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command()
def validate(
    ctx: typer.Context,
    as_json: _Json = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Files with keys, passwords and certificates must be usable here and now.")
    ] = False,
) -> None:
    """Check the configuration file; all problems are told at once. Exit 78 when there are any.

    Files that it names for keys, passwords and certificates are looked at too; they may be on another machine, so that
    what is wrong with them is a warning, unless --strict is given.
    """
    from agent.config.load import check_files, read

    try:
        loaded = read(_path(ctx))
        warnings = check_files(loaded.config, loaded)
        if strict and warnings:
            raise ConfigError(warnings)
    except ConfigError as error:
        if not as_json:
            raise
        file = error.problems[0].file
        _print_json({"version": 1, "file": file, "valid": False, "problems": _rows(error.problems), "warnings": []})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        _print_json(
            {"version": 1, "file": str(loaded.path), "valid": True, "problems": [], "warnings": _rows(warnings)}
        )
        return
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(_summary(loaded))


@app.command()
def show(ctx: typer.Context, as_json: _Json = False) -> None:
    """The effective configuration: every key with the value that holds, secrets hidden."""
    from agent.config.load import read
    from agent.config.show import effective, values

    config = read(_path(ctx)).config
    if as_json:
        _print_json(values(config))
    else:
        print(effective(config), end="")


@app.command()
def schema() -> None:
    """The JSON Schema of the configuration file, for editors. Needs no configuration."""
    from agent.config.schema import render

    print(render(), end="")


def _path(ctx: typer.Context) -> Path | None:
    path: Path | None = ctx.obj.config_path
    return path


def _summary(loaded: Loaded) -> str:
    config = loaded.config
    counts = (
        (len(config.buckets), "declared bucket"),
        (len(config.mappings), "mapping"),
        (len(config.publications), "publication"),
        (len(config.subscriptions), "subscription"),
    )
    said = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return f"{loaded.path}: valid ({', '.join(said) or 'nothing to keep equal yet'})"


def _rows(problems: tuple[ConfigProblem, ...] | list[ConfigProblem]) -> list[dict[str, Any]]:
    return [
        {"file": found.file, "line": found.line, "column": found.column, "message": found.message} for found in problems
    ]


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
