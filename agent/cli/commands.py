"""`run`, `sync`, `plan`, `status`, `healthcheck` and `version`.

With an agent running on the same state directory `sync`, `plan` and `status` are carried out by it, through its control
socket; otherwise the command does the work itself under the same lock.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agent.cli import render
from agent.cli.context import (
    EXIT_CONNECT,
    EXIT_DIFFERENCES,
    EXIT_FAILED,
    EXIT_PARTLY,
    Context,
    SignalledError,
    loop_factory,
    print_json,
    run_async,
    start_logging,
)
from agent.errors import ConfigError, JetsyncError, UsageError

if TYPE_CHECKING:
    from agent.config.load import Loaded
    from agent.config.model import Config

NAMES = typer.Argument(None, metavar="[NAME]...", help="Mappings; all when none is named.", show_default=False)
SYNC_NAMES = typer.Argument(
    None,
    metavar="[NAME]...",
    help="Mappings, publications, subscriptions; all when none is named, but for publications with `trigger: manual`.",
    show_default=False,
)
JSON = typer.Option(False, "--json", help="Print the result as JSON on stdout.")
TIMEOUT = typer.Option("30s", "--timeout", metavar="DURATION", help="How long to wait for a server that is away.")


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(sync)
    app.command()(plan)
    app.command()(status)
    app.command()(healthcheck)
    app.command()(version)


def run(ctx: typer.Context) -> None:
    """Run the agent until it is told to stop."""
    hung_up: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _frame: hung_up.append(number))  # from its first moment: it reloads
    context: Context = ctx.obj
    loaded = context.read()
    start_logging(loaded.config)
    import asyncio

    from agent.supervisor.service import serve

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        number = runner.run(serve(loaded, hung_up=lambda: bool(hung_up)))
    raise SignalledError(number)


def sync(  # noqa: PLR0917 - typer gives them by name
    ctx: typer.Context,
    names: list[str] = SYNC_NAMES,
    json_: bool = JSON,
    timeout: str = TIMEOUT,
    offline_ok: bool = typer.Option(
        False, "--offline-ok", help="Exit 0 when the server is away but this state converged before."
    ),
    tolerate: str = typer.Option(
        "", "--tolerate", metavar="LIST", help="Of `problems,conflicts`: what doesn't make the exit code 3."
    ),
    metrics_textfile: Path | None = typer.Option(
        None,
        "--metrics-textfile",
        metavar="FILE",
        help="Write the metrics there in the end, for node_exporter's textfile collector.",
        show_default=False,
    ),
) -> None:
    """Bring mappings, on-change publications and subscriptions to convergence once, then exit."""
    context: Context = ctx.obj
    tolerated = parse_tolerate(tolerate)
    loaded = context.read()
    config = loaded.config
    args: dict[str, Any] = {"names": names or [], "timeout": parse_timeout(timeout), "offline_ok": offline_ok}
    answer = ask_agent(config, "sync", args)
    if answer is None:
        start_logging(config)
        answer = _sync_here(loaded, args, metrics_textfile)
    elif metrics_textfile is not None and (metrics := ask_agent(config, "metrics", {})) is not None:
        _write_metrics(metrics_textfile, metrics["text"].encode)
    if json_:
        print_json(answer)
    else:
        render.reports(answer["mappings"])
        render.snapshots(answer["snapshots"])
    code = 0 if answer.get("offline_ok") else exit_code(answer["mappings"] + answer["snapshots"], tolerated)
    raise typer.Exit(code)


def _sync_here(loaded: Loaded, args: dict[str, Any], textfile: Path | None) -> dict[str, Any]:
    """`sync` by this process."""
    from agent.supervisor.once import sync_once

    if textfile is None:
        return run_async(lambda: sync_once(loaded.config, **args))
    import time

    from agent.observe.metrics import Metrics

    metrics = Metrics()
    metrics.config_loaded(True, time.time())
    metrics.config_in_force(loaded.digest)
    told = partial(_write_metrics, textfile, metrics.render_own)
    return run_async(lambda: sync_once(loaded.config, **args, metrics=metrics, told=told))


def _write_metrics(textfile: Path, render: Callable[[], bytes]) -> None:
    from agent.observe.textfile import write_textfile

    write_textfile(textfile, render())


def plan(
    ctx: typer.Context,
    names: list[str] = NAMES,
    json_: bool = JSON,
    timeout: str = TIMEOUT,
    detailed_exitcode: bool = typer.Option(False, "--detailed-exitcode", help="Exit 4 when there is something to do."),
) -> None:
    """Show what `sync` would do; changes nothing."""
    context: Context = ctx.obj
    config = context.load()
    args: dict[str, Any] = {"names": names or [], "timeout": parse_timeout(timeout)}
    answer = ask_agent(config, "plan", args)
    if answer is None:
        start_logging(config)
        from agent.supervisor.once import plan_once

        answer = run_async(lambda: plan_once(config, **args))
    if json_:
        print_json(answer)
    else:
        render.plan(answer["mappings"])
    code = exit_code(answer["mappings"], frozenset())
    if code in (0, EXIT_PARTLY) and detailed_exitcode and any(report["actions"] for report in answer["mappings"]):
        code = code or EXIT_DIFFERENCES
    raise typer.Exit(code)


def status(ctx: typer.Context, json_: bool = JSON) -> None:
    """Show how the running agent is doing."""
    context: Context = ctx.obj
    answer = _status(context)
    if json_:
        print_json(answer)
    else:
        render.status(answer)


def _status(context: Context) -> dict[str, Any]:
    """What the running agent answers, also when the file has become wrong: then it runs with what the file was.

    :raises ConfigError: the file is wrong, and no agent is found by it
    """
    from agent.config.load import state_dir_of
    from agent.control.client import call

    try:
        state_dir = context.load().state_dir
    except ConfigError:
        found = state_dir_of(context.config_path)
        answer = call(found, "status", {}) if found is not None and found.is_dir() else None
        if answer is None:
            raise
        return answer
    answer = call(state_dir, "status", {}) if state_dir.is_dir() else None
    if answer is None:
        raise JetsyncError(
            f"no agent runs on {state_dir}", remedy="start one with `jetsync run`, or `jetsync sync` once"
        )
    return answer


def healthcheck(
    ctx: typer.Context,
    ready: bool = typer.Option(False, "--ready", help="Ask /readyz instead of /livez."),
) -> None:
    """Ask the running agent's HTTP endpoint; exit 0 when it is well. For containers without curl."""
    import http.client

    context: Context = ctx.obj
    config = context.load()
    if config.http is None:
        raise UsageError("`http: false` leaves nothing to ask", remedy="set `http.listen`, or use `jetsync status`")
    host = config.http.host
    host = "127.0.0.1" if host in ("", "0.0.0.0", "*") else "::1" if host in ("::", "[::]") else host.strip("[]")  # noqa: S104
    connection = http.client.HTTPConnection(host, config.http.port, timeout=3)
    try:
        connection.request("GET", "/readyz" if ready else "/livez")
        response = connection.getresponse()
        body = response.read(1 << 16).decode("utf-8", "replace").strip()
    except OSError as error:
        raise JetsyncError(
            f"no answer from {config.http.host}:{config.http.port}: {error}", remedy="is `jetsync run` running?"
        ) from error
    finally:
        connection.close()
    print(body)
    raise typer.Exit(0 if response.status == 200 else EXIT_FAILED)


def version(json_: bool = JSON) -> None:
    """Show the version."""
    import platform

    from agent.observe.version import program_version

    if json_:
        print_json({"version": 1, "jetsync": program_version(), "python": platform.python_version()})
    else:
        print(f"jetsync {program_version()}")


def ask_agent(
    config: Config, command: str, args: dict[str, Any], *, on_event: Callable[[Mapping[str, Any]], None] | None = None
) -> dict[str, Any] | None:
    """Let the running agent do it; None when none runs on this state directory. on_event: called with its progress."""
    from agent.control.client import call

    if not config.state_dir.is_dir():
        return None
    return call(config.state_dir, command, args, on_event=on_event)


def parse_timeout(text: str, option: str = "--timeout") -> float:
    """Seconds from a duration such as 30s.

    :raises UsageError: it isn't one
    """
    from agent.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def parse_tolerate(text: str) -> frozenset[str]:
    chosen = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := chosen - {"problems", "conflicts"}:
        raise UsageError(f"--tolerate: unknown {', '.join(sorted(unknown))}", remedy="use problems,conflicts")
    return chosen


def exit_code(reports: list[dict[str, Any]], tolerated: frozenset[str]) -> int:
    """One code for all mappings; when several apply: 5, 1 (all failed), 3."""
    codes = [report_code(report, tolerated) for report in reports]
    if EXIT_CONNECT in codes:
        return EXIT_CONNECT
    if codes and all(code == EXIT_FAILED for code in codes):
        return EXIT_FAILED
    return EXIT_PARTLY if any(codes) else 0


def report_code(report: dict[str, Any], tolerated: frozenset[str]) -> int:
    if report.get("exit_code") == EXIT_CONNECT:
        return EXIT_CONNECT
    if report["state"] == "failed":
        return EXIT_FAILED
    if report["state"] == "halted" or report["errors"]:
        return EXIT_PARTLY
    counts = {what: report.get(what, ()) for what in ("conflicts", "problems")}  # a snapshot has neither
    return EXIT_PARTLY if any(found for what, found in counts.items() if what not in tolerated) else 0
