"""One subscription of a running agent, or of one command: when to install, and what came of it.

`converge` is one attempt, whoever asks for it: `jetsync snapshot install`, `jetsync sync`, or the loop (`run`). The
loop looks at its start, whenever the channel's meta has changed (one consumer that is sent this one subject), when
somebody pokes (the connection is back), and every LOOK_SECONDS. Attempts never overlap. A failing one is tried again
with back-off, and at once when the channel moves; the old version stays current meanwhile, and the reason is in
`status`.

The directory is opened, and locked, with the first attempt, and held as long as `run` goes on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent.config.model import Subscription as SubscriptionConfig
from agent.core.manifest import channel_name
from agent.directory import Versions
from agent.errors import (
    ConnectError,
    JetsyncError,
    NoChannelError,
    RefusedError,
    RootError,
    SnapshotError,
    SpaceError,
    StoreUnavailableError,
)
from agent.objectstore import Bucket, uninterrupted
from agent.observe.status import SnapshotCounts, SnapshotStatus, State
from agent.snapshots.install import Installing
from agent.snapshots.reach import Reach
from agent.snapshots.report import SUBSCRIPTION, Progress, SnapshotReport, no_progress
from agent.snapshots.standing import Standing
from agent.snapshots.threads import Threads
from agent.sync.db import Db
from agent.sync.remotes import Remotes
from agent.sync.retry import Backoff

LOOK_SECONDS = 600.0
# What a person or time has to change first: a command that says no, a full disk.
SLOW_SECONDS = 30.0
_FOREIGN_SHOWN = 20


class Subscription:
    """`run` is its only task; the other methods may be called from anywhere in the event loop, while it runs.

    installed, failed, nothing_new: how often an attempt came to that. unverified: of the failed ones, those in which a
    snapshot, its content or its channel wasn't what it has to be. last: the report of the last attempt.
    """

    kind = SUBSCRIPTION
    readies = True

    def __init__(
        self,
        *,
        config: SubscriptionConfig,
        folder: Path,
        state_path: Path,
        remotes: Remotes,
        follow: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """folder: that of the configuration file, where commands run. follow: install by itself; else only when
        somebody asks."""
        self.config = config
        self.name = config.name
        self._follows = follow
        self._folder = folder
        self._state_path = state_path
        self._remotes = remotes
        self._now = now
        self._standing = Standing(
            SUBSCRIPTION,
            config.name,
            repository=config.repository,
            channel=config.channel or "",
            directory=str(config.directory),
            now=now,
        )
        self._db: Db | None = None
        self._versions: Versions | None = None
        self._opened = asyncio.Event()
        self._lock = asyncio.Lock()
        self._poked = asyncio.Event()
        self._stopping = False
        self._checked = False  # the current version was looked at since the start
        self.converged = False
        self._stopped = False  # `run` has ended
        self._attempting: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._backoff = Backoff(base=1.0, ceiling=60.0)
        self._follow_backoff = Backoff(ceiling=60.0)
        self._next_removal: float | None = None
        self._patience = 0.0
        self.last: SnapshotReport | None = None
        self.last_install: float | None = None
        self.installed = self.failed = self.nothing_new = self.unverified = 0
        self.bytes_down = self.bytes_reused = 0

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Install whatever the channel leads to, until `drain`."""
        self._db = await Db.open(self._state_path, self.config.name)
        self._stopped = False
        self._opened.set()
        try:
            while not self._stopping:
                self._poked.clear()
                pause = await self._look() if self._follows else LOOK_SECONDS
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._poked.wait()
        finally:
            await uninterrupted(self._close())

    async def _look(self) -> float:
        """One attempt; gives the seconds until the next, unless somebody pokes."""
        report = await self.converge()
        if report.exit_code == 0:
            self._backoff.reset()
            pause = LOOK_SECONDS * random.uniform(0.9, 1.1)
        else:
            pause = max(self._backoff.next(), self._patience)
        return pause if self._next_removal is None else min(pause, self._next_removal + 0.1)

    async def _close(self) -> None:
        self._opened.clear()
        self._stopped = True
        tasks = [task for task in (self._attempting, self._following) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        versions, self._versions = self._versions, None
        if versions is not None:
            await asyncio.to_thread(versions.close)
        if self._db is not None:
            await self._db.close()

    def poke(self) -> None:
        """Something may be different: look now."""
        self._poked.set()

    async def drain(self) -> bool:
        """Begin nothing new. False: `run` may be cancelled; what is half done is finished by the next run."""
        self._stopping = True
        self._poked.set()
        return not self._lock.locked() and self._opened.is_set()

    def _hear(self, bucket: Bucket, channel: str) -> None:
        """Be told of the channel's moves, from now on."""
        if self._follows and (self._following is None or self._following.done()):
            work = self._follow_channel(bucket, channel_name(channel))
            self._following = asyncio.create_task(work, name=f"follow {self.config.name}")

    async def _follow_channel(self, bucket: Bucket, name: str) -> None:
        """Poke with each change, until following fails; the look that this causes begins anew."""
        try:
            async with bucket.follow(name=name) as batches:
                async for batch in batches:
                    self._follow_backoff.reset()
                    if batch.metas:
                        self.poke()
        except JetsyncError as error:
            self._standing.log.debug("channel_not_followed", error=error.message)
            await asyncio.sleep(self._follow_backoff.next())
        self._following = None
        self.poke()

    # -- one attempt ---------------------------------------------------------------------------------------------

    async def converge(self, on_progress: Progress = no_progress) -> SnapshotReport:
        """Install what the subscription wants, if it isn't current."""
        report = SnapshotReport(SUBSCRIPTION, self.config.name)
        await self._opened.wait()
        async with self._lock:
            self._standing.enter(State.SYNCING)
            try:
                await self._attempted(report, on_progress)
            except JetsyncError as error:
                report.failed(error)
                self._failed(error, report)
            else:
                self._came_through(report)
        self.last = report
        return report

    async def _attempted(self, report: SnapshotReport, on_progress: Progress) -> None:
        """The attempt, in a task that ends with `run`, whoever asked for it."""
        stops = RefusedError("the agent stops", remedy="ask again when it runs")
        if self._stopped:
            raise stops
        self._attempting = asyncio.create_task(self._attempt(report, on_progress), name=f"install {self.config.name}")
        try:
            await self._attempting
        except asyncio.CancelledError as error:
            if self._stopped:  # it was cancelled, not the one who asked
                raise stops from error
            raise

    async def _attempt(self, report: SnapshotReport, on_progress: Progress) -> None:
        db = self._db
        assert db is not None
        threads = Threads()
        versions = await self._directory(threads)
        installing = Installing(
            self.config,
            versions,
            db,
            folder=self._folder,
            report=report,
            threads=threads,
            on_progress=on_progress,
        )
        await self._tell_foreign(versions, threads)
        try:
            reach = Reach(self.config, self._remotes, db)
            try:
                if self.config.channel is not None:
                    self._hear((await reach.repository()).bucket, self.config.channel)
                await installing.run(reach, check=not self._checked)
            except (ConnectError, StoreUnavailableError):
                await installing.stay()
                raise
            await db(lambda store: store.kv_set("converged", "1"))
            # What `after` and the webhook still owe keeps nobody waiting: who is to answer may wait for the install.
            self._checked = self.converged = True
        finally:
            self._next_removal = installing.next_removal
            self.bytes_down += report.bytes_down
            self.bytes_reused += report.bytes_reused

    async def _directory(self, threads: Threads) -> Versions:
        """The directory, opened; anew when another one has come into its place."""
        if self._versions is not None:
            try:
                await threads(self._versions.check_root)
            except RootError:
                versions, self._versions = self._versions, None
                await threads(versions.close)
        if self._versions is None:
            self._checked = False
            await threads(self._open_versions)
        assert self._versions is not None
        return self._versions

    def _open_versions(self) -> None:
        """Whatever becomes of the one who waits for this, `_close` finds what was opened."""
        self._versions = Versions.open(self.config.directory)

    async def _tell_foreign(self, versions: Versions, threads: Threads) -> None:
        """What isn't ours in the directory is left alone, and told once."""
        found = await threads(versions.foreign)
        self._standing.foreign = tuple(found[:_FOREIGN_SHOWN])
        if found and self._standing.once.news("foreign", tuple(found)):
            self._standing.log.warning(
                "foreign_content",
                directory=str(self.config.directory),
                detail=f"not of this agent, left alone: {', '.join(found[:_FOREIGN_SHOWN])}",
                count=len(found),
                remedy="move it away; a subscription has its directory to itself",
            )

    async def converged_before(self) -> bool:
        """Whether what an attempt has installed, in this run or an earlier one, is there; of a pin, just that."""
        await self._opened.wait()
        assert self._db is not None
        if not await self._db(lambda store: store.kv_get("converged") is not None):
            return False
        threads = Threads()
        async with self._lock:
            try:
                versions = await self._directory(threads)
                current = await threads(versions.current)
                there = bool(current) and await threads(versions.exists, current)
            except JetsyncError:
                return False
        return there and self.config.snapshot in (None, current)

    # -- what it says of itself ----------------------------------------------------------------------------------

    def _came_through(self, report: SnapshotReport) -> None:
        self._standing.current = report.id
        if report.changed or not report.exit_code:
            self._count(report)
        if report.exit_code:  # installed, but `after` or the webhook failed
            self.failed += 1
            error = RefusedError(report.errors[0], remedy="it is tried again")
            self._tell(error, State.RETRYING)
            return
        self._standing.came_through()

    def _failed(self, error: JetsyncError, report: SnapshotReport) -> None:
        self._standing.current = report.id or self._standing.current
        if report.changed:
            self._count(report)
        self.failed += 1
        self.unverified += isinstance(error, SnapshotError) and not isinstance(error, RefusedError | NoChannelError)
        self._tell(error, State.RETRYING if _waits(error) else State.FAILED)

    def _count(self, report: SnapshotReport) -> None:
        if report.changed:
            self.installed += 1
            self.last_install = self._now()
        else:
            self.nothing_new += 1

    def _tell(self, error: JetsyncError, state: State) -> None:
        self._patience = SLOW_SECONDS if isinstance(error, SpaceError) else 0.0
        self._standing.failed(error, state)

    def status(self) -> SnapshotStatus:
        """What it does now."""
        return self._standing.status()

    def counts(self) -> SnapshotCounts:
        """What it did."""
        return SnapshotCounts(
            changed=self.installed,
            noop=self.nothing_new,
            error=self.failed,
            last_change=self.last_install,
            transferred=self.bytes_down,
            reused=self.bytes_reused,
            unverified=self.unverified,
        )


def _waits(error: JetsyncError) -> bool:
    """Whether it is only the server, or the disk, that has to come round."""
    return error.transient or isinstance(error, ConnectError)
