"""The command line: one module for each command group, this one joins them and turns errors into exit codes.

`-c FILE` may stand before or after the command; it is taken out of the arguments before typer sees them. Results go to
stdout, everything else to stderr. Exit codes (DESIGN section 3): 0 done, 1 failed, 2 usage, 3 partly, 4 differences,
5 can't connect or not allowed, 78 invalid configuration, 130 and 143 for signals.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from agent.cli import brakes, bucket, commands, conflicts, snapshot, trash, verify
from agent.cli import config as config_commands
from agent.cli import demo as demo_command
from agent.cli.context import EXIT_USAGE, Context, SignalledError
from agent.errors import ConfigError, JetsyncError

# typer brings click with it under one name or another; its public errors are what is sure to be the right class.
_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="jetsync",
    help="Keeps local directories and NATS JetStream Object Store buckets equal, by digest.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 partly, 4 differences (plan --detailed-exitcode), "
    "5 can't connect or not allowed, 78 invalid configuration, 130/143 signals.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    config: Path | None = typer.Option(
        None,
        "-c",
        "--config",
        help="The configuration file; also $JETSYNC_CONFIG. Default ./config.yaml, then /etc/jetsync/config.yaml. "
        "May stand before or after the command.",
        show_default=False,
    ),
) -> None:
    named = os.environ.get("JETSYNC_CONFIG") if config is None else config
    ctx.obj = Context(config_path=Path(named) if named else None)


commands.register(app)
conflicts.register(app)
brakes.register(app)
verify.register(app)
demo_command.register(app)
app.add_typer(bucket.app, name="bucket", help="Buckets: list, show, and bring declared ones to their shape.")
app.add_typer(snapshot.app, name="snapshot", help="Snapshots: publish, install, list, compare, promote, prune.")
app.add_typer(trash.app, name="trash", help="The trash: list kept versions, and restore one.")
app.add_typer(config_commands.app, name="config", help="The configuration: validate, show, schema.")


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code. Nothing is raised."""
    try:
        try:
            result = typer.main.get_command(app).main(
                config_first(list(arguments)), prog_name="jetsync", standalone_mode=False
            )
        finally:
            sys.stdout.flush()
    except _USAGE_ERROR as error:
        error.show()
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except typer.Exit as exit_:
        return exit_.exit_code
    except SignalledError as signalled:
        return 128 + signalled.number
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    except JetsyncError as error:
        print(f"jetsync: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"  {error.remedy}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # Of stdout: what else the system refuses has become an error of ours where it happened.
        print(f"jetsync: the output can't be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def config_first(arguments: list[str]) -> list[str]:
    """Move `-c FILE`, `-cFILE`, `--config FILE` and `--config=FILE` to the front, from wherever they stand."""
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            rest += ["--", *arguments[position:]]
            break
        if argument in ("-c", "--config") and position < len(arguments):
            front += ["--config", arguments[position]]
            position += 1
        elif argument.startswith("--config="):
            front += ["--config", argument.removeprefix("--config=")]
        elif argument.startswith("-c") and len(argument) > 2 and not argument.startswith("--"):
            front += ["--config", argument[2:]]
        else:
            rest.append(argument)
    return front + rest


__all__ = ["app", "config_first", "run"]
