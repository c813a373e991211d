"""One session of a mapping: the loop on one opened directory and one opened bucket.

Whatever happens is a step (`sync.steps`), and steps run one after the other. After each round of steps the loop
*advances*: it starts what can be started (looks, scans, checks, batches of actions), all of which run beside it in
one task group and post their results as further steps. When nothing is under way and no row is dirty, but for paths
that are held back after failures, the mapping has settled.

Nothing is planned before the first scan is over and the bucket's metas have been followed to their end and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from agent.config.model import Mapping
from agent.core.entries import Local
from agent.core.filters import Filters
from agent.core.reconcile import Rules
from agent.directory import Contents, Directory, HintBuffer, Watcher
from agent.errors import JetsyncError
from agent.objectstore import Bucket
from agent.observe.meter import Meter
from agent.observe.status import State
from agent.state import StateStore
from agent.sync.batches import Batches
from agent.sync.db import Db
from agent.sync.echoes import Echoes
from agent.sync.execute import Executor
from agent.sync.feed import Feed
from agent.sync.guard import Stop
from agent.sync.identity import keep_generation
from agent.sync.janitor import Janitor
from agent.sync.limits import SMALL, Limits
from agent.sync.local import LocalSide
from agent.sync.mending import Mending
from agent.sync.outcome import Outcome
from agent.sync.rehash import Rehash
from agent.sync.remote import Scope
from agent.sync.remoteside import RemoteSide
from agent.sync.rescans import Rescans
from agent.sync.steps import Steps


@dataclass(eq=False, slots=True)
class Goal:
    """Somebody waits until the mapping has settled: `scan` and `check` are the scans and checks that must be over."""

    done: asyncio.Future[None]
    scan: int
    check: int


class Session:
    """:raises JetsyncError: from `run`, when the mapping as a whole can't go on"""

    def __init__(
        self,
        *,
        config: Mapping,
        agent_name: str,
        directory: Directory,
        bucket: Bucket | None,
        feed: Feed | None,
        db: Db,
        filters: Filters,
        metrics: Meter,
        online: Callable[[], bool],
        on_outcomes: Callable[[list[Outcome]], None],
        on_state: Callable[[State], None],
        on_stop: Callable[[Stop | None], None],
        on_settled: Callable[[bool], Awaitable[None]],
        progress: Callable[[], None],
        failed: Callable[[JetsyncError], None],
        dry: bool,
    ) -> None:
        self._config = config
        self.directory = directory
        self.bucket = bucket
        self._db = db
        self._metrics = metrics
        self._on_state = on_state
        self._on_settled = on_settled
        self._dry = dry
        self._loop = asyncio.get_running_loop()
        self.steps = Steps()
        self._group: asyncio.TaskGroup | None = None
        self._goals: list[Goal] = []
        self._lost: JetsyncError | None = None
        self._draining = False
        self._advanced_at = 0.0
        self.rules = Rules(
            mode=config.mode,
            policy=config.conflicts,
            permissions=config.permissions,
            agent=agent_name,
            empty_directories=config.empty_directories,
            prefix_bytes=len(config.prefix.encode()),
        )
        limits = Limits(transfers=config.transfers, upload=config.limits.upload, download=config.limits.download)
        self.contents = Contents(largest=SMALL) if config.mode.pushes and not dry else None
        self.local = LocalSide(
            config=config,
            directory=directory,
            db=db,
            post=self.steps.post,
            spawn=self._spawn,
            metrics=metrics,
            filters=filters,
            contents=self.contents,
        )
        self.local.on_filters = self._filters_changed
        self.local.on_scanned = self._expect_rescans
        self._rescans = Rescans(
            config.rescan, took=lambda: self.local.scan_seconds, looking=lambda: self.local.scanning
        )
        self.echoes = Echoes(config.prefix)
        self.remote = RemoteSide(
            config=config,
            bucket=bucket,
            feed=feed,
            db=db,
            call=self.steps.call,
            lost=self._feed_lost,
            scope=self.scope,
            metrics=metrics,
            echoes=self.echoes,
            heals=not dry,
            progress=progress,
            failed=failed,
        )
        executor = (
            Executor(
                directory=directory,
                bucket=bucket,
                scope=self.scope,
                limits=limits,
                rules=self.rules,
                expect=self.echoes.expect,
                contents=self.contents,
            )
            if bucket is not None
            else None
        )
        self.batches = Batches(
            config=config,
            directory=directory,
            db=db,
            executor=executor,
            rules=self.rules,
            workers=limits.workers,
            post=self.steps.post,
            spawn=self._spawn,
            on_outcomes=self._outcomes(on_outcomes),
            online=online,
            on_full=self._make_room,
            on_stop=on_stop,
            look_again=self.local.hints.add_ready,
        )
        self.janitor = (
            Janitor(
                config=config,
                bucket=bucket,
                directory=directory,
                db=db,
                active=self.batches.nuids,
                known=lambda: self.remote.ready,
            )
            if bucket is not None and not dry
            else None
        )
        self._mending = Mending(
            config=config, db=db, batches=self.batches, local=self.local, steps=self.steps, metrics=metrics
        )
        self._buffer = HintBuffer(self._wake_for_hints)
        self._seen_events = (0, 0)
        self.watcher = Watcher(
            directory.path,
            self._buffer.add,
            mode=config.watch,
            poll_interval=config.poll_interval,
            ignore=lambda path: self.local.filters.prunes(path),  # noqa: PLW0108 - the filters change
        )
        self._settled_once = False

    def scope(self) -> Scope:
        """How names and paths belong together now (the filters change when .jetsyncignore files do)."""
        config = self._config
        return Scope(
            bucket=config.bucket,
            prefix=config.prefix,
            pulls_only=not config.mode.pushes,
            symlinks=config.symlinks,
            max_size=config.max_size,
            empty_directories=config.empty_directories,
            repository=_is_repository(self.bucket),
            filters=self.local.filters,
        )

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled, or until `drain` has ended what was under way."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                if not self._dry:
                    await asyncio.to_thread(self.watcher.start)
                beside = [await self._start_janitor(group), self._start_rehash(group), self._start_keeping(group)]
                self.local.scan()
                await self.remote.start()
                self._rescans.begun()
                await self._turn_forever()
                for task in beside:
                    task.cancel()
                self.local.stop()
        except* JetsyncError as errors:
            raise _first(errors) from None
        finally:
            self.steps.end()
            self.local.stop()
            await self.remote.stop()
            await asyncio.to_thread(self.watcher.stop)

    async def _start_janitor(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        if self.janitor is None:
            return group.create_task(asyncio.sleep(0))
        await self.janitor.start()
        return group.create_task(self.janitor.run(), name=f"janitor {self._config.name}")

    def _start_rehash(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        rehash = Rehash(
            interval=0.0 if self._dry else self._config.rehash,
            directory=self.directory,
            db=self._db,
            found=self._mending.found,
            changed=self._stat_changed,
        )
        return group.create_task(rehash.run(), name=f"rehash {self._config.name}")

    def _start_keeping(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        work = asyncio.sleep(0) if self._dry else keep_generation(self._db, self.directory)
        return group.create_task(work, name=f"generation {self._config.name}")

    async def _turn_forever(self) -> None:
        while not (self._draining and self.batches.idle):
            await self.steps.run()
            if self._lost is not None:
                raise self._lost
            more = await self._advance()
            if not self.steps and not more:
                await self._sleep()

    async def _sleep(self) -> None:
        """Until a step is posted or something is due.

        Due as seen from the last advance: what fell due since then hasn't been started, and must not be slept over.
        """
        now = self._advanced_at
        rescan = self._rescans.due
        dues = [
            self.local.hints.next_due(now),
            self.batches.holds.next_due(now),
            self.batches.gates.next_due(now),
            rescan - now if rescan is not None else None,
            self.remote.next_due(),
            1.0 if self.batches.held_back else None,
        ]
        due = min((due for due in dues if due is not None), default=60.0)
        if due > 0:
            await self.steps.sleep(max(0.0, due - (self._loop.time() - now)))
        else:
            await self.steps.sleep(0.01)  # it was due at the advance already, and waits for something else

    async def _advance(self) -> bool:
        """Start what can be started; returns whether to come back at once."""
        if self._draining:
            return False
        self._advanced_at = self._loop.time()
        due = self._rescans.due
        if due is not None and self._advanced_at >= due:
            self.rescan()
        await self.local.advance(self.batches.busy)
        await self.remote.advance()
        started = False
        if self.local.scanned and self.local.filters_known and self.remote.ready and not self._dry:
            self.batches.urgent = bool(self._goals)
            started = await self.batches.advance(self.local.state())
        self._show()
        if not started and self._quiet():
            await self._settle()
        return started

    def _quiet(self) -> bool:
        return self.local.idle and self.remote.idle and self.batches.idle and not self.steps

    async def _settle(self) -> None:
        """Nothing is under way: answer who waits, unless rows are left that will be tried again soon."""
        if self.contents is not None:
            self.contents.clear()
        waiting = [
            goal for goal in self._goals if goal.scan <= self.local.scanned and goal.check <= self.remote.checked
        ]
        dirty = [] if self._dry else await self._db(lambda store: [row.path for row in store.dirty(1000)])
        if self.batches.undecided:
            return
        stopped = self.batches.stop is not None or self.batches.paused
        if not stopped and not all(self.batches.hopeless(path) for path in dirty):
            return
        if not dirty and not self._dry and not stopped:
            if not self._settled_once:
                await self._db(lambda store: store.kv_set("converged", "1"))
                if self.janitor is not None:
                    self.janitor.wake()  # what an earlier run left is known to be nobody's now
            self._settled_once = True
        await self._on_settled(not dirty and not stopped)
        for goal in waiting:
            self._goals.remove(goal)
            if not goal.done.done():
                goal.done.set_result(None)

    def _show(self) -> None:
        if self.batches.paused:
            self._on_state(State.PAUSED)
        elif self.batches.stop is not None:
            self._on_state(State.HALTED)
        elif self.local.scanning:
            self._on_state(State.SCANNING)
        elif not self.remote.caught_up:
            self._on_state(State.STARTING)
        elif self.batches.idle and self.local.idle:
            self._on_state(State.RETRYING if len(self.batches.holds) else State.IDLE)
        else:
            self._on_state(State.SYNCING)

    # -- what others call ----------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Look at everything on both sides, and wait until the mapping has settled."""
        self.local.scan()
        self.remote.check_wanted()
        self.batches.retry_all()
        goal = Goal(self._loop.create_future(), self.local.wanted_scans, self.remote.wanted_checks)
        self._goals.append(goal)
        self.steps.wake()
        await goal.done

    def rescan(self) -> None:
        """A full look at both sides, at intervals with jitter."""
        self.local.scan()
        self.remote.check_wanted()
        self._rescans.begun()

    def retry(self) -> None:
        """The connection is back: what failed may be tried at once."""
        self.batches.retry_all()
        self.remote.connection_is_back()
        self.steps.wake()

    def stopped(self, stop: Stop | None) -> None:
        """What the guard has said in an earlier session."""
        self.batches.stop = stop

    def pause(self, *, paused: bool) -> None:
        """Begin nothing new, or go on."""
        self.batches.paused = paused
        self.reconsider()

    def reconsider(self) -> None:
        """Somebody has approved what stopped the mapping, or resumed it."""
        self.batches.reconsider()
        self.steps.wake()

    def drain(self) -> None:
        """Start nothing new; `run` ends when what is under way has ended."""
        self._draining = True
        self.batches.draining = True
        self.steps.wake()

    # -- inside --------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._group is not None
        self._group.create_task(work, name=name)

    def _wake_for_hints(self) -> None:
        """In the watcher's thread."""
        self._loop.call_soon_threadsafe(self._take_hints)

    def _take_hints(self) -> None:
        self.local.hint(self._buffer.drain())
        events, overflows = self.watcher.events, self.watcher.overflows
        self._metrics.watch(events - self._seen_events[0], overflows - self._seen_events[1])
        self._seen_events = (events, overflows)
        self.steps.wake()

    def _stat_changed(self, paths: list[str]) -> None:
        self.local.hints.add_ready(paths)
        self.steps.wake()

    def _make_room(self, disk: bool) -> None:
        """The bucket is full, or the `disk`: what only waits to be purged is purged now, and the trash gives way."""
        if self.janitor is not None:
            self.janitor.make_room(disk=disk)

    def _feed_lost(self, error: JetsyncError) -> None:
        self._lost = error
        self.steps.wake()

    def _outcomes(self, pass_on: Callable[[list[Outcome]], None]) -> Callable[[list[Outcome]], None]:
        def handle(outcomes: list[Outcome]) -> None:
            self.echoes.committed(outcomes)
            for outcome in outcomes:
                for change in outcome.changes:
                    if isinstance(change.local, Local):
                        self.local.filled(change.path)
                        if outcome.bytes_down:
                            self.local.placed(change.path, change.local)
                self.local.hints.add_ready(outcome.look)
                self.remote.suspect(outcome.vanished)
            pass_on(outcomes)

        return handle

    async def _filters_changed(self, filters: Filters) -> None:
        """Rows that are filtered now lose their ancestor; names that aren't any more are read again."""
        await self._db(lambda store: drop_filtered(store, filters))
        await asyncio.to_thread(self.watcher.refresh)
        self.remote.listing_wanted()

    def _expect_rescans(self) -> None:
        """Whoever watches the metrics learns how long it may take until all is known to be well again."""
        self._metrics.expect(self._rescans.longest)


def _is_repository(bucket: Bucket | None) -> bool:
    metadata = bucket.config.get("metadata") if bucket is not None else None
    return isinstance(metadata, dict) and metadata.get("jetsync.repository") == "1"


def drop_filtered(store: StateStore, filters: Filters) -> None:
    """Filtered paths have no row: nothing is known, and so nothing is ever done to them."""
    filtered = [row.path for row in store.all_rows() if not filters.allows(row.path)]
    with store.transaction():
        for path in filtered:
            store.drop(path)


def _first(group: BaseExceptionGroup[JetsyncError]) -> JetsyncError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, JetsyncError)
    return error
