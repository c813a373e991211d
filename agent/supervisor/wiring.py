"""The one wiring place: from a configuration to running mappings, and back to nothing.

    start     lock the state directory, start the embedded server, connect (in the background), run the mappings
    run       the above, with HTTP endpoints and the control socket, until told to stop
    sync      ask mappings to converge once; plan: ask dry copies of them what they would do
    stop      drain: actions under way may end for a bounded time, then they are cancelled and clean up

Every task has a name and a guard: one that ends early is logged and begun again, so that a mistake in one mapping never
stops another. The connection is shared; a server that is away is waited for, and nothing else waits for it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from agent.config.model import Config
from agent.config.model import Mapping as MappingConfig
from agent.config.reload import Changes, same_place
from agent.errors import JetsyncError, StateError, UsageError
from agent.observe.logging import get_logger
from agent.observe.meter import Meters
from agent.observe.readiness import MappingReadiness, Readiness
from agent.observe.status import AgentStatus, ConfigStatus
from agent.observe.version import program_version
from agent.state import StateLock, lock, lock_for_reading
from agent.supervisor.gauges import Gauges
from agent.supervisor.guarded import end, guarded
from agent.supervisor.items import Items
from agent.supervisor.uplink import Uplink
from agent.sync.mapping import DRAIN_SECONDS, MappingSync
from agent.sync.record import Record
from agent.sync.report import Report

T = TypeVar("T")


class Supervisor:
    """Use as an async context manager: leaving it stops everything that it started.

    :raises LockedError: another agent holds the state directory
    """

    def __init__(
        self, config: Config, *, config_path: Path | None = None, metrics: Meters | None = None, dry: bool = False
    ) -> None:
        """dry: only `plan` will be asked for; nothing in the state directory is changed."""
        self.config = config
        self._dry = dry and config.nats.embedded is None  # an embedded server keeps its password there
        self._config_path = config_path
        self.metrics = metrics or Meters()
        self._log = get_logger()
        self._lock: StateLock | None = None
        self.uplink = Uplink(config, self.metrics, self._connection_is_back)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._mappings: dict[str, MappingSync] = {}
        self.items = Items(config, self.uplink, self.metrics, self._spawn)
        self.gauges = Gauges(self._mappings.values, self.items)
        self._started_at = time.time()
        self.loaded = ConfigStatus()

    # -- start and stop ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        state_dir = self.config.state_dir
        self._lock = await asyncio.to_thread(lock_for_reading if self._dry else lock, state_dir)
        try:
            if not self._dry:
                await asyncio.to_thread((state_dir / "mappings").mkdir, mode=0o700, exist_ok=True)
            await self.uplink.start_embedded()
            self._spawn("connect", self.uplink.run())
            self._spawn("metrics", self.gauges.run())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.uplink.closing()
        await asyncio.gather(self._stop_mappings(list(self._mappings)), self.items.stop(within=DRAIN_SECONDS))
        left = set(self._tasks.values())
        while left:  # Python 3.11's asyncio.wait_for, which nats-py uses, can swallow a cancellation: repeat it
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=1.0)
        await self.uplink.close()
        if self._lock is not None:
            self._lock.release()

    async def _stop_mappings(self, names: Sequence[str]) -> dict[str, MappingSync]:
        """Drain: nothing new; what is under way ends, or is cancelled after a bounded time. Gives those that ran.

        They are still told of (they have converged if they had) until others take their places.
        """
        stopped = {name: self._mappings[name] for name in names if name in self._mappings}
        for name, mapping in stopped.items():
            if not await mapping.drain():
                self._tasks[f"mapping {name}"].cancel()
        await end([self._tasks[f"mapping {name}"] for name in stopped], within=DRAIN_SECONDS)
        return stopped

    async def reconfigure(self, changes: Changes) -> None:
        """Go over to another configuration: only what is different ends, or begins.

        All that ends has ended before anything begins: a directory may go from one mapping to another. The series of
        what is gone go; what begins anew in its old place goes on in its records: it was converged if it was.
        """
        before, self.config = self.config, changes.config
        self.items.use(changes.config)
        stopped, _ = await asyncio.gather(
            self._stop_mappings(changes.mappings.ends),
            self.items.stop((*changes.publications.ends, *changes.subscriptions.ends), within=DRAIN_SECONDS),
        )
        for name in stopped:
            del self._mappings[name], self._tasks[f"mapping {name}"]
        self.uplink.use(changes.config)
        for delta in (changes.mappings, changes.publications, changes.subscriptions):
            for name in delta.removed:
                self.metrics.forget(name)
        for config in changes.config.mappings:
            old, place = stopped.get(config.name), before.mapping(config.name)
            if old is not None and place is not None and same_place(place, config):
                self._start(config, old.record)
        self.start_mappings(changes.config.mappings)
        self.items.start([*changes.config.publications, *changes.config.subscriptions], follow=True)
        for mapping in self._mappings.values():
            mapping.try_again()  # a bucket that was missing may be declared now
        self.items.try_again()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        return task

    def _connection_is_back(self) -> None:
        for mapping in self._mappings.values():
            mapping.poke()
        self.items.poke()

    # -- mappings ------------------------------------------------------------------------------------------------

    def select(self, names: Sequence[str]) -> list[MappingConfig]:
        """The mappings of these names, or all.

        :raises UsageError: no such mapping
        """
        return select(self.config, names)

    def mappings(self, names: Sequence[str]) -> list[MappingSync]:
        """The same, running."""
        configs = self.select(names)
        self.start_mappings(configs)
        return [self._mappings[config.name] for config in configs]

    async def journalled(self) -> set[str]:
        """The nuids in the journals of all running mappings."""
        mappings = list(self._mappings.values())
        journals = [await mapping.on_store(lambda store: store.journal_all()) for mapping in mappings]
        return {entry.nuid for journal in journals for entry in journal}

    def start_mappings(self, configs: Sequence[MappingConfig]) -> None:
        for config in configs:
            if config.name not in self._mappings:
                self._start(config)

    def _start(self, config: MappingConfig, record: Record | None = None) -> None:
        mapping = MappingSync(
            config=config,
            agent_name=self.config.name,
            state_path=self._state_path(config.name),
            remotes=self.uplink.remotes,
            metrics=self.metrics.mapping(
                config.name, bucket=config.bucket, mode=config.mode, expected_interval=config.rescan * 1.25
            ),
            record=record,
        )
        self._mappings[config.name] = mapping
        work = guarded(mapping.run, kind="mapping", name=config.name, broken=mapping.broken)
        self._spawn(f"mapping {config.name}", work)

    def _state_path(self, name: str) -> Path:
        return state_path(self.config, name)

    async def sync(self, names: Sequence[str], *, timeout: float) -> list[Report]:
        """Bring the mappings to convergence once. `timeout`: seconds to wait for a server that is away."""
        return await self.ask([(mapping, mapping.converge()) for mapping in self.mappings(names)], timeout, _unreached)

    async def plan(self, names: Sequence[str], *, timeout: float) -> list[Report]:
        """What `sync` would do: dry mappings on copies of the state, in a temporary directory."""
        configs = self.select(names)
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="jetsync-plan-"))
        metrics = Meters()
        tasks: list[asyncio.Task[None]] = []
        try:
            dry: list[MappingSync] = []
            for config in configs:
                await self._copy_state(config.name, folder / f"{config.name}.db")
                mapping = MappingSync(
                    config=config,
                    agent_name=self.config.name,
                    state_path=folder / f"{config.name}.db",
                    remotes=self.uplink.remotes,
                    metrics=metrics.mapping(config.name, bucket=config.bucket, mode=config.mode),
                    dry=True,
                )
                dry.append(mapping)
                tasks.append(asyncio.create_task(mapping.run(), name=f"plan {config.name}"))
            reports = await self.ask([(mapping, mapping.plan()) for mapping in dry], timeout, _unreached)
            for report in reports:
                report.actions = report.actions or []
            return reports
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _copy_state(self, name: str, target: Path) -> None:
        running = self._mappings.get(name)
        if running is not None:
            await running.copy_state(target)
        elif (path := self._state_path(name)).exists():
            await asyncio.to_thread(copy_state, path, target)

    async def ask(
        self,
        questions: Sequence[tuple[MappingSync, Coroutine[Any, Any, T]]],
        timeout: float,
        unreached: Callable[[MappingSync, JetsyncError], T],
    ) -> list[T]:
        """Wait for the answers; `unreached` gives those that don't come while the store does nothing for `timeout`."""
        tasks = {asyncio.create_task(question): mapping for mapping, question in questions}
        try:
            while waiting := {task: mapping for task, mapping in tasks.items() if not task.done()}:
                if self.uplink.given_up(timeout) or all(
                    _waits_too_long(mapping, timeout) for mapping in waiting.values()
                ):
                    break
                await asyncio.wait(waiting, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            return [
                task.result() if task.done() else unreached(mapping, self._why_unreached(mapping, timeout))
                for task, mapping in tasks.items()
            ]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _why_unreached(self, mapping: MappingSync, timeout: float) -> JetsyncError:
        if self.uplink.online and mapping.waiting is not None and _waits_too_long(mapping, timeout):
            return mapping.waiting[1]
        return self.uplink.why_not()

    async def converged_before(self, names: Sequence[str]) -> bool:
        """Whether every mapping's state says that it had converged once (`sync --offline-ok`)."""
        found = [await self._mappings[config.name].converged_before() for config in self.select(names)]
        return all(found)

    # -- what it says of itself ----------------------------------------------------------------------------------

    async def status(self) -> AgentStatus:
        return AgentStatus(
            name=self.config.name,
            version=program_version(),
            pid=os.getpid(),
            started=self._started_at,
            config=str(self._config_path or ""),
            nats=self.uplink.status(),
            mappings=tuple([await mapping.status() for mapping in list(self._mappings.values())]),
            snapshots=self.items.status(),
            loaded=self.loaded,
        )

    def readiness(self) -> Readiness:
        return Readiness(
            started=all(mapping.name in self._mappings for mapping in self.config.mappings),
            connected=self.uplink.online,
            mappings=[
                MappingReadiness(
                    name=mapping.config.name,
                    converged=mapping.converged,
                    serving=mapping.serving,
                    converged_before=mapping.converged_earlier,
                    sentence=mapping.sentence,
                    halted=mapping.record.halt is not None,
                )
                for mapping in self._mappings.values()
            ]
            + self.items.readiness(),
        )


def state_path(config: Config, name: str) -> Path:
    """The state store of a mapping."""
    return config.state_dir / "mappings" / f"{name}.db"


def split_names(config: Config, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of mappings, and names of publications and subscriptions.

    :raises UsageError: nothing has this name
    """
    for name in names:
        if name not in config.names:
            raise UsageError(
                f"nothing in the configuration is named {name!r}",
                remedy="known are: " + ", ".join(sorted(config.names)),
            )
    mappings = [name for name in names if config.mapping(name) is not None]
    return mappings, [name for name in names if config.mapping(name) is None]


def select(config: Config, names: Sequence[str]) -> list[MappingConfig]:
    """The configured mappings of these names, or all.

    :raises UsageError: no such mapping
    """
    known = {mapping.name: mapping for mapping in config.mappings}
    for name in names:
        if name not in known:
            raise UsageError(f"no mapping is named {name!r}", remedy="known are: " + ", ".join(sorted(known)))
    return [known[name] for name in names] if names else list(known.values())


def _unreached(mapping: MappingSync, error: JetsyncError) -> Report:
    return Report(mapping.config.name, state="failed", errors=[str(error)], exit_code=error.exit_code)


def _waits_too_long(mapping: MappingSync, timeout: float) -> bool:
    return mapping.waiting is not None and mapping.waiting[0] > timeout


def copy_state(source: Path, target: Path) -> None:
    """Copy a mapping's state that no agent has open: the file and, after a crash, its log. Changes nothing there.

    :raises StateError: it can't be read, or copied
    """
    try:
        for part in ("", "-wal"):
            old = source.with_name(source.name + part)
            if old.exists():
                shutil.copyfile(old, target.with_name(target.name + part))
    except OSError as error:
        raise StateError(
            f"the state store {source} can't be copied for a plan: {error.strerror}",
            remedy="see whether it can be read, and that there is space for temporary files",
        ) from error
