"""The publications and subscriptions of an agent, or of one command: running, asked, and stopped.

They run as the mappings do: each in a task with a guard, all on the one connection. `sync` converges publications with
`trigger: on-change` and all subscriptions, after the mappings: a directory that a mapping has just filled is published,
and what is published is installed, in one go. What is named is converged whatever its trigger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.config.model import Config
from agent.config.model import Publication as PublicationConfig
from agent.config.model import Subscription as SubscriptionConfig
from agent.errors import ConnectError, JetsyncError, StoreUnavailableError, UsageError
from agent.observe.meter import Meters
from agent.observe.readiness import MappingReadiness
from agent.observe.status import SnapshotStatus, State
from agent.snapshots.report import PUBLICATION, SUBSCRIPTION, SnapshotReport
from agent.supervisor.guarded import end, guarded
from agent.supervisor.uplink import Uplink
from agent.sync.retry import Backoff

if TYPE_CHECKING:
    from agent.snapshots.item import Item

ItemConfig = PublicationConfig | SubscriptionConfig


Emit = Callable[[Mapping[str, Any]], None]
# Between two words on how far something is.
_TELL_SECONDS = 0.1


class Telling:
    """Tells whoever has asked how far one item is, but not each small step. A Progress."""

    def __init__(self, name: str, emit: Emit) -> None:
        self._name = name
        self._emit = emit
        self._told = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._told >= _TELL_SECONDS:
            self._told = now
            self._emit({"name": self._name, "done": done, "total": total})


class Items:
    """spawn: starts a task of the supervisor's, by its name."""

    def __init__(
        self,
        config: Config,
        uplink: Uplink,
        metrics: Meters,
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._uplink = uplink
        self._spawn = spawn
        self._running: dict[str, tuple[Item, asyncio.Task[None]]] = {}

    # -- start and stop ------------------------------------------------------------------------------------------

    def start(self, configs: Sequence[ItemConfig], *, follow: bool) -> list[Item]:
        """Run those that don't run yet; gives all of them. follow: an agent's, which act by themselves."""
        for config in configs:
            if config.name not in self._running:
                item = self._made(config, follow=follow)
                self._show(item)
                work = guarded(item.run, kind=item.kind, name=item.name)
                self._running[config.name] = item, self._spawn(f"{item.kind} {item.name}", work)
        return [self._running[config.name][0] for config in configs]

    def _made(self, config: ItemConfig, *, follow: bool) -> Item:
        folder = self._config.state_dir / (f"{kind_of(config)}s")
        folder.mkdir(mode=0o700, exist_ok=True)
        state_path = folder / f"{config.name}.db"
        remotes = self._uplink.remotes
        if isinstance(config, PublicationConfig):
            from agent.snapshots.publication import Publication

            return Publication(config=config, state_path=state_path, remotes=remotes, follow=follow)
        from agent.snapshots.subscription import Subscription

        return Subscription(
            config=config, folder=self._config.folder, state_path=state_path, remotes=remotes, follow=follow
        )

    def use(self, config: Config) -> None:
        """Another configuration; what is different in it is for others to stop and to start."""
        self._config = config

    async def stop(self, names: Sequence[str] | None = None, *, within: float) -> None:
        """Drain those of these names, or all; what doesn't end `within` seconds is cancelled."""
        running = {
            name: self._running[name] for name in (self._running if names is None else names) if name in self._running
        }
        for item, task in running.values():
            if not await item.drain():
                task.cancel()
        await end([task for _, task in running.values()], within=within)
        for name in running:
            del self._running[name]

    def try_again(self) -> None:
        """What made some of them fail may be gone; the others aren't disturbed."""
        for item, _ in self._running.values():
            if item.status().state in (State.RETRYING, State.FAILED):
                item.poke()

    def poke(self) -> None:
        for item, _ in self._running.values():
            item.poke()

    # -- asking --------------------------------------------------------------------------------------------------

    def chosen(self, names: Sequence[str]) -> list[ItemConfig]:
        """Those of these names; without names, what `sync` converges."""
        everything: list[ItemConfig] = [*self._config.publications, *self._config.subscriptions]
        if names:
            return [config for config in everything if config.name in names]
        return [config for config in everything if _is_automatic(config)]

    def only(self, kind: str, name: str) -> ItemConfig:
        """The publication or subscription of this name.

        :raises UsageError: there is none
        """
        everything: list[ItemConfig] = [*self._config.publications, *self._config.subscriptions]
        known = {config.name: config for config in everything if kind_of(config) == kind}
        if name not in known:
            there_are = "known are: " + ", ".join(sorted(known)) if known else f"the configuration has no {kind}s"
            raise UsageError(f"no {kind} is named {name!r}", remedy=there_are)
        return known[name]

    async def converge(
        self, configs: Sequence[ItemConfig], *, timeout: float, emit: Emit = lambda _: None
    ) -> list[SnapshotReport]:
        """One after the other. timeout: seconds to wait for a server that is away. emit: gets their progress."""
        return [await self._converge(item, timeout, emit) for item in self.start(configs, follow=False)]

    async def _converge(self, item: Item, timeout: float, emit: Emit) -> SnapshotReport:
        """As `_come_through`; a failure when the item is stopped meanwhile."""
        stopped = JetsyncError(f"{item.kind} {item.name!r} was stopped meanwhile", remedy="ask again")
        running = self._running.get(item.name)
        if running is None or running[0] is not item:
            return _failure(item, stopped)
        coming = asyncio.create_task(self._come_through(item, timeout, emit), name=f"converge {item.name}")
        try:
            await asyncio.wait([coming, running[1]], return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else _failure(item, stopped)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _come_through(self, item: Item, timeout: float, emit: Emit) -> SnapshotReport:
        """Until it has come through, or has failed for another reason than that the server was away."""
        backoff = Backoff(base=0.1, ceiling=2.0)
        began = time.monotonic()
        while True:
            if (why := await self._unreachable(timeout)) is not None:
                self._uplink.remotes.unreachable(why)
                return await item.converge()  # it tells what is installed, and does what needs no server
            report = await item.converge(Telling(item.name, emit))
            if report.exit_code != StoreUnavailableError.exit_code or time.monotonic() - began > timeout:
                return report
            await asyncio.sleep(backoff.next())

    async def _unreachable(self, timeout: float) -> ConnectError | None:
        """None once the server is there; else why it isn't."""
        while not self._uplink.online:
            if self._uplink.given_up(timeout):
                return self._uplink.why_not()
            await asyncio.sleep(0.05)
        return None

    async def converged_before(self, configs: Sequence[ItemConfig]) -> bool:
        found = [await item.converged_before() for item in self.start(configs, follow=False)]
        return all(found)

    # -- what they say of themselves -----------------------------------------------------------------------------

    def status(self) -> tuple[SnapshotStatus, ...]:
        return tuple(item.status() for item, _ in self._running.values())

    def show_metrics(self) -> None:
        for item, _ in self._running.values():
            self._show(item)

    def _show(self, item: Item) -> None:
        self._metrics.snapshots(item.kind, item.name).show(item.status(), item.counts())

    def readiness(self) -> list[MappingReadiness]:
        found = [(item, item.status()) for item, _ in self._running.values() if item.readies]
        return [
            MappingReadiness(
                name=status.name,
                converged=item.converged,
                serving=bool(status.snapshot),
                converged_before=bool(status.snapshot),
                sentence=status.sentence,
            )
            for item, status in found
        ]


def _failure(item: Item, why: JetsyncError) -> SnapshotReport:
    report = SnapshotReport(item.kind, item.name)
    report.failed(why)
    return report


def kind_of(config: ItemConfig) -> str:
    return PUBLICATION if isinstance(config, PublicationConfig) else SUBSCRIPTION


def _is_automatic(config: ItemConfig) -> bool:
    return not isinstance(config, PublicationConfig) or config.trigger == "on-change"
