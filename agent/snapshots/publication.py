"""One publication of a running agent, or of one command: when to publish, and what came of it.

`converge` is one attempt, whoever asks for it: `jetsync snapshot publish`, `jetsync sync`, or the loop (`run`) of a
publication with `trigger: on-change`, which publishes at its start and whenever the tree has changed and come to rest.
Attempts never overlap. A failing one is tried again with back-off, and sooner when somebody pokes; the channel stays
where it is meanwhile, and the reason is in `status`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent.config.model import Publication as PublicationConfig
from agent.errors import ConnectError, JetsyncError, StoreUnavailableError
from agent.objectstore import Bucket
from agent.observe.status import SnapshotCounts, SnapshotStatus, State
from agent.snapshots import changes
from agent.snapshots.changes import Changes
from agent.snapshots.publish import Publishing, published_last
from agent.snapshots.report import PUBLICATION, Progress, SnapshotReport, no_progress
from agent.snapshots.repository import Repository
from agent.snapshots.standing import Standing
from agent.snapshots.tree import BucketTree, DirectoryTree, Tree
from agent.sync.db import Db
from agent.sync.remotes import Remotes
from agent.sync.retry import Backoff


class Publication:
    """`run` is its only task; the other methods may be called from anywhere in the event loop, while it runs.

    published, failed, nothing_new: how often an attempt came to that. last: the report of the last attempt.
    last_publish: when this run last published something.
    """

    kind = PUBLICATION
    readies = False  # nobody waits for what is sent

    def __init__(
        self,
        *,
        config: PublicationConfig,
        state_path: Path,
        remotes: Remotes,
        follow: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """follow: publish by itself, if it is `on-change`; else only when somebody asks."""
        self.config = config
        self._follow = follow
        self._state_path = state_path
        self._remotes = remotes
        self._now = now
        self._standing = Standing(
            PUBLICATION,
            config.name,
            repository=config.repository,
            channel=config.channel,
            directory=str(config.directory or ""),
            now=now,
        )
        self._db: Db | None = None
        self._opened = asyncio.Event()
        self._lock = asyncio.Lock()
        self._poked = asyncio.Event()
        self._stopping = asyncio.Event()
        self.name = config.name
        self.last: SnapshotReport | None = None
        self.published = self.failed = self.nothing_new = 0
        self.last_publish: float | None = None
        self.bytes_up = self.bytes_reused = 0

    @property
    def converged(self) -> bool:
        return self._standing.succeeded is not None

    # -- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish whenever it is time, until `drain`."""
        self._db = await Db.open(self._state_path, self.config.name)
        try:
            self._standing.current = await published_last(self._db)
            self._opened.set()
            self._standing.enter(State.IDLE)
            if self._follow and self.config.trigger == "on-change":
                stopping = asyncio.create_task(self._stopping.wait(), name=f"stop {self.config.name}")
                following = asyncio.create_task(self._publish_on_change(), name=f"on change {self.config.name}")
                try:
                    await asyncio.wait([stopping, following], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (stopping, following):
                        task.cancel()
                    await asyncio.gather(stopping, following, return_exceptions=True)
            await self._stopping.wait()
            async with self._lock:
                pass  # an attempt under way ends
        finally:
            self._opened.clear()
            await self._db.close()

    async def _publish_on_change(self) -> None:
        backoff = Backoff(ceiling=60.0)
        while True:
            try:
                async with self._changes() as stirring:
                    await self._until_it_fails(stirring, backoff)
            except JetsyncError as error:
                self._failed(error)
            self._poked.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await self._poked.wait()

    async def _until_it_fails(self, stirring: Changes, backoff: Backoff) -> None:
        while (await self.converge()).exit_code == 0:
            backoff.reset()
            await stirring.wait()

    @asynccontextmanager
    async def _changes(self) -> AsyncIterator[Changes]:
        if self.config.directory is not None:
            async with changes.of_directory(self.config.directory) as stirring:
                yield stirring
        else:
            async with changes.of_bucket(await self._source()) as stirring:
                yield stirring

    def poke(self) -> None:
        """The connection is back: what failed may be tried at once."""
        self._poked.set()

    async def drain(self) -> bool:
        """Begin nothing new; `run` returns when an attempt under way has ended. False: it may wait for the server."""
        self._stopping.set()
        return self._opened.is_set() and self._remotes.online

    # -- one attempt ---------------------------------------------------------------------------------------------

    async def converge(self, on_progress: Progress = no_progress) -> SnapshotReport:
        """Publish the tree as it is now, if that is news."""
        report = SnapshotReport(PUBLICATION, self.config.name)
        await self._opened.wait()
        async with self._lock:
            self._standing.enter(State.SYNCING)
            try:
                await self._attempt(report, on_progress)
            except JetsyncError as error:
                report.failed(error)
                self._failed(error)
            else:
                self._came_through(report)
        self.last = report
        self.bytes_up += report.bytes_up
        self.bytes_reused += report.bytes_reused
        return report

    async def _attempt(self, report: SnapshotReport, on_progress: Progress) -> None:
        db = self._db
        assert db is not None
        repository = Repository(await self._bucket(self.config.repository))
        if self.config.directory is None:
            source = await self._source()
            tree: Tree = BucketTree(source, self.config.prefix, repository=source.name == self.config.repository)
            await self._publishing(repository, tree, db, on_progress).run(report)
            return
        directory = DirectoryTree(self.config.directory, db)
        try:
            await self._publishing(repository, directory, db, on_progress).run(report)
        finally:
            await directory.close()

    def _publishing(self, repository: Repository, tree: Tree, db: Db, on_progress: Progress) -> Publishing:
        return Publishing(self.config, repository, tree, db, now=self._now, on_progress=on_progress)

    async def _source(self) -> Bucket:
        assert self.config.bucket is not None
        return await self._bucket(self.config.bucket)

    async def _bucket(self, name: str) -> Bucket:
        """A bucket; a declared one is made when this state has never seen it.

        :raises ConnectError, BucketNotFoundError, NotABucketError
        """
        db = self._db
        assert db is not None
        key = f"seen {name}"
        seen = await db(lambda store: store.kv_get(key) is not None)
        opened = await self._remotes.open(name, seen=seen)
        assert opened.bucket is not None  # only a dry run has none
        await db(lambda store: store.kv_set(key, "1"))
        return opened.bucket

    async def converged_before(self) -> bool:
        """Whether it has published something, in this run or an earlier one."""
        await self._opened.wait()
        assert self._db is not None
        return await self._db(lambda store: store.kv_get("published") is not None)

    # -- what it says of itself ----------------------------------------------------------------------------------

    def _came_through(self, report: SnapshotReport) -> None:
        self._standing.current = report.id
        self._standing.came_through()
        if report.changed:
            self.published += 1
            self.last_publish = self._now()
            self._standing.log.info("published", snapshot=report.id, previous=report.previous, uploads=report.uploads)
        else:
            self.nothing_new += 1

    def _failed(self, error: JetsyncError) -> None:
        self.failed += 1
        self._standing.failed(
            error, State.RETRYING if isinstance(error, StoreUnavailableError | ConnectError) else State.FAILED
        )

    def status(self) -> SnapshotStatus:
        """What it does now."""
        return self._standing.status()

    def counts(self) -> SnapshotCounts:
        """What it did."""
        return SnapshotCounts(
            changed=self.published,
            noop=self.nothing_new,
            error=self.failed,
            last_change=self.last_publish,
            transferred=self.bytes_up,
            reused=self.bytes_reused,
        )
