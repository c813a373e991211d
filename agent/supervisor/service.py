"""The agent until a signal, and what it answers through its control socket; `bucket` commands.

`sync` and `plan` are in `once`, as a command does them alone. What is asked of mappings one by one (conflicts, pauses,
the trash, `verify`) is in `requests`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from agent.config.load import Loaded
from agent.config.model import Config
from agent.control.server import serve as serve_control
from agent.objectstore import Connection
from agent.observe.logging import get_logger
from agent.observe.metrics import Metrics
from agent.snapshots.report import PUBLICATION, SUBSCRIPTION
from agent.supervisor import buckets, once, requests, snapshots
from agent.supervisor.pages import Pages
from agent.supervisor.reload import Reloader
from agent.supervisor.snapshots import Emit
from agent.supervisor.wiring import Supervisor


async def serve(loaded: Loaded, *, hung_up: Callable[[], bool] = lambda: False) -> int:
    """Run the agent until SIGINT or SIGTERM; returns the signal's number. SIGHUP reloads the configuration.

    hung_up: whether there was a SIGHUP before we could hear it.

    :raises LockedError: another agent runs on the state directory
    """
    config = loaded.config
    log = get_logger()
    stop = asyncio.Event()
    reload = asyncio.Event()
    received: list[int] = []

    def note(number: int) -> None:
        received.append(number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, note, number)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    if hung_up():
        reload.set()
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        supervisor = await stack.enter_async_context(Supervisor(config, config_path=loaded.path, metrics=metrics))
        await stack.enter_async_context(serve_control(config.state_dir, handlers(supervisor, metrics)))
        pages = Pages(supervisor, metrics)
        stack.push_async_callback(pages.stop)
        await pages.use(config.http)
        supervisor.start_mappings(config.mappings)
        supervisor.items.start([*config.publications, *config.subscriptions], follow=True)
        log.info("started", name=config.name, mappings=len(config.mappings), snapshots=len(supervisor.items.status()))
        reloader = Reloader(loaded, supervisor, pages, metrics)
        if reload.is_set():
            reloader.ask()
        loop.add_signal_handler(signal.SIGHUP, reloader.ask)
        await stack.enter_async_context(_running(reloader))
        await stop.wait()
        log.info("stopping", signal=signal.Signals(received[0]).name)
    log.info("stopped")
    return received[0]


@contextlib.asynccontextmanager
async def _running(reloader: Reloader) -> AsyncIterator[None]:
    task = asyncio.create_task(reloader.run(), name="reload")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def handlers(supervisor: Supervisor, metrics: Metrics) -> dict[str, Any]:
    """The control socket's commands."""

    async def status(_args: Mapping[str, Any], _emit: Any) -> Mapping[str, Any]:
        return (await supervisor.status()).to_json()

    async def own_metrics(_args: Mapping[str, Any], _emit: Any) -> Mapping[str, Any]:
        await supervisor.gauges.show()
        return {"version": once.RESULT_VERSION, "text": metrics.render_own().decode()}

    async def sync(args: Mapping[str, Any], _emit: Any) -> Mapping[str, Any]:
        return await once.sync(supervisor, **_chosen(args, "names", "timeout", "offline_ok"))

    async def plan(args: Mapping[str, Any], _emit: Any) -> Mapping[str, Any]:
        return await once.plan(supervisor, **_chosen(args, "names", "timeout"))

    async def resolve(args: Mapping[str, Any], _emit: Any) -> Mapping[str, Any]:
        return await requests.resolve_conflict(supervisor, args)

    async def verify(args: Mapping[str, Any], emit: Any) -> Mapping[str, Any]:
        return await requests.verify_mappings(supervisor, args, emit)

    home = requests.AgentHome(supervisor)

    def at_home(command: str) -> Any:
        async def handle(args: Mapping[str, Any], _emit: Any) -> Mapping[str, Any]:
            return await requests.HOME_WORK[command](home, args)

        return handle

    def for_buckets(work: buckets.Work) -> Any:
        async def handle(args: Mapping[str, Any], _emit: Any) -> Mapping[str, Any]:
            return await work(supervisor.config, supervisor.uplink.connection_now(), args)

        return handle

    def for_snapshots(command: str) -> Any:
        async def handle(args: Mapping[str, Any], emit: Any) -> Mapping[str, Any]:
            return await _snapshot_work(supervisor, command, args, emit)

        return handle

    here = {"status": status, "metrics": own_metrics, "sync": sync, "plan": plan, "resolve": resolve, "verify": verify}
    here |= {command: at_home(command) for command in requests.HOME_WORK}
    here |= {command: for_snapshots(command) for command in (*snapshots.WORK, *_OF_ITEMS)}
    return here | {command: for_buckets(work) for command, work in buckets.WORK.items()}


def _chosen(args: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: args[key] for key in keys}


# Commands that are an attempt of one publication or subscription.
_OF_ITEMS = {"snapshot-publish": PUBLICATION, "snapshot-install": SUBSCRIPTION}


async def snapshot_work(config: Config, command: str, args: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """One of the `snapshot` commands by this process.

    :raises ConnectError: nobody answers, or doesn't let us in
    """
    if command not in _OF_ITEMS:
        async with _connected(config) as connection:
            return await snapshots.WORK[command](config, connection, args, emit)
    async with Supervisor(config) as supervisor:
        return await _snapshot_work(supervisor, command, args, emit)


async def _snapshot_work(supervisor: Supervisor, command: str, args: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    if command not in _OF_ITEMS:
        return await snapshots.WORK[command](supervisor.config, supervisor.uplink.connection_now(), args, emit)
    item = supervisor.items.only(_OF_ITEMS[command], str(args["name"]))
    (report,) = await supervisor.items.converge([item], timeout=float(args["timeout"]), emit=emit)
    return {"version": once.RESULT_VERSION, **report.as_json()}


async def bucket_work(config: Config, command: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """One of the `bucket` commands by this process.

    :raises ConnectError: nobody answers, or doesn't let us in
    """
    async with _connected(config) as connection:
        return await buckets.WORK[command](config, connection, args)


@contextlib.asynccontextmanager
async def _connected(config: Config) -> AsyncIterator[Connection]:
    """A connection for a single command; with an embedded server, one of its own for as long as the command lasts.

    :raises ConnectError: nobody answers, or doesn't let us in
    """
    if config.nats.embedded is None:
        async with await Connection.open(config.nats, name=f"jetsync {config.name}") as connection:
            yield connection
        return
    async with Supervisor(config) as supervisor:
        yield await supervisor.uplink.connection()
