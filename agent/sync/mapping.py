"""The life of one mapping: sessions, one after the other, and what others ask of them.

A session (`sync.session`) is the loop on one opened directory and one opened bucket. An error that concerns the mapping
as a whole ends it: with back-off another one begins, sooner when somebody asks or the server is back. Every session
begins with a scan and with catching up from the cursor; that is all the recovery there is.

The state store is opened once and outlives the sessions. A dry mapping (`plan`) works on a copy of the store, reads
both sides as ever, and changes neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from agent.config.model import Mapping
from agent.core.filters import Filters
from agent.directory import Directory, DirectoryOptions
from agent.errors import (
    ConnectError,
    DirectoryError,
    JetsyncError,
    NotAllowedError,
    RootError,
    StateError,
)
from agent.observe.metrics import MappingMetrics
from agent.observe.status import MappingStatus, State
from agent.state import StateStore
from agent.sync import view
from agent.sync.batches import make_plan
from agent.sync.db import Db
from agent.sync.identity import adopt_identity
from agent.sync.record import PROBLEMS_TOLD, Record
from agent.sync.remotes import Remotes
from agent.sync.report import STATE_FAILED, Report, Tally, action_json
from agent.sync.retry import Backoff, Holds
from agent.sync.session import Session

T = TypeVar("T")

# While a mapping drains, actions under way may take this long to end by themselves (seconds).
DRAIN_SECONDS = 8.0
# A directory that isn't there is looked for at least this often (seconds): it costs nothing.
ROOT_SECONDS = 5.0


class MappingSync:
    """One mapping. `run` is its only task; the other methods may be called from anywhere in the event loop."""

    def __init__(
        self,
        *,
        config: Mapping,
        agent_name: str,
        state_path: Path,
        remotes: Remotes,
        metrics: MappingMetrics,
        dry: bool = False,
    ) -> None:
        self.config = config
        self._agent_name = agent_name
        self._state_path = state_path
        self._remotes = remotes
        self.record = Record(config.name, metrics)
        self._dry = dry
        self._db: Db | None = None
        self._session: Session | None = None
        self._root: tuple[int, int] | None = None  # of the first session
        self._retry = asyncio.Event()
        self._loaded = asyncio.Event()
        self._began = asyncio.Event()
        self._stopping = False
        self.converged_earlier = False  # in an earlier run, on this state

    # -- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run sessions until `drain`, or until cancelled."""
        backoff = Backoff(ceiling=60.0)
        self._db = await Db.open(self._state_path, self.config.name)
        if self._db.recovered:
            self.record.log.warning("state_recovered", detail=self._db.recovered)
        self.converged_earlier = await self._db(lambda store: store.kv_get("converged") is not None)
        self._loaded.set()
        try:
            while not self._stopping:
                started = time.monotonic()
                try:
                    await self._run_session()
                except JetsyncError as error:
                    if time.monotonic() - started > 60:
                        backoff.reset()
                    await self._rest(error, backoff.next())
        finally:
            await self._db.close()

    async def _run_session(self) -> None:
        directory = await asyncio.to_thread(Directory.open, self.config.directory, options=self._options())
        try:
            assert self._db is not None
            self._see_that_it_is_the_same(directory)
            filters = Filters(self.config.include, self.config.exclude)
            await self._db(lambda store: adopt_identity(store, self.config))
            seen = await self._db(lambda store: store.kv_get("bucket_seen") is not None)
            opened = await self._remotes.open(self.config.bucket, seen=seen, dry=self._dry)
            if opened.bucket is not None:
                await self._db(lambda store: store.kv_set("bucket_seen", "1"))
            self._session = Session(
                config=self.config,
                agent_name=self._agent_name,
                directory=directory,
                bucket=opened.bucket,
                feed=opened.feed,
                db=self._db,
                filters=filters,
                metrics=self.record.metrics,
                online=lambda: self._remotes.online,
                on_outcomes=self.record.outcomes,
                on_state=self.record.set_state,
                on_settled=self._on_settled,
                progress=self.record.progress,
                failed=self.record.waits,
                dry=self._dry,
            )
            self.record.session_begins(self.config.bucket)
            self._began.set()
            await self._session.run()
        finally:
            self._began.clear()
            self._session = None
            await asyncio.to_thread(directory.close)

    def _see_that_it_is_the_same(self, directory: Directory) -> None:
        """A root that was replaced or unmounted while we ran looks like one in which everything was deleted.

        :raises RootError: it isn't the directory that earlier sessions of this process had; it may come back
        """
        if self._root is None:
            self._root = directory.identity
        elif self._root != directory.identity:
            raise RootError(
                f"{directory.path}: another directory or file system is in its place since the agent started",
                remedy="mount it or put it back; or restart the agent, to go on with what is there now",
            )

    async def _rest(self, error: JetsyncError, seconds: float) -> None:
        """A session ended with an error: say so, and wait for the next one."""
        state = State.RETRYING if waits_for_server(error) else State.FAILED
        self.record.session_failed(error, state, retry_in=seconds)
        self._retry.clear()
        if isinstance(error, RootError):
            seconds = min(seconds, ROOT_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._retry.wait()

    def _options(self) -> DirectoryOptions:
        config = self.config
        return DirectoryOptions(
            file_mode=config.file_mode,
            directory_mode=config.directory_mode,
            symlinks=config.symlinks,
            max_size=config.max_size,
            permissions=config.permissions,
            empty_directories=config.empty_directories,
            trash=config.trash,
            read_only=self._dry,
        )

    async def drain(self) -> None:
        """Start nothing new and let what is under way end, for a bounded time; `run` returns."""
        self._stopping = True
        self._retry.set()
        if self._session is not None:
            self._session.drain()

    # -- what happened -------------------------------------------------------------------------------------------

    async def _on_settled(self, converged: bool) -> None:
        self.record.settled(converged=converged)
        await self._tell_problems()

    # -- what others ask -----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> tuple[float, JetsyncError] | None:
        """How long nothing but waiting for the store was done (seconds), and why; None when something is going on."""
        return self.record.waiting

    async def converge(self) -> Report:
        """Look at everything, bring both sides together, and say what was done. Waits while the server is away."""
        tally = Tally()
        self.record.tallies.append(tally)
        report = Report(self.config.name, tally=tally)
        try:
            await self._settled()
            session = self._session
            assert self._db is not None
            assert session is not None
            if session.janitor is not None:
                await session.janitor.tidy()
            await self._db(
                lambda store: view.fill_report(report, store, strays=session.local.strays, holds=session.batches.holds)
            )
        except JetsyncError as error:
            report.state, report.exit_code = STATE_FAILED, error.exit_code
            report.errors.append(str(error))
        finally:
            self.record.tallies.remove(tally)
        return report

    async def _settled(self) -> None:
        """Wait until a session has settled.

        :raises JetsyncError: the last session's error, when waiting can't help
        """
        failures = self.record.failures  # of earlier sessions: what failed then is tried again now
        self._retry.set()
        while True:
            failure = self.record.failure if self.record.failures > failures else None
            if failure is not None and not waits_for_server(failure):
                raise failure
            session = self._session
            if session is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._began.wait()
                continue
            waiting = asyncio.create_task(session.settle())
            try:
                while not waiting.done() and self._session is session:
                    await asyncio.wait([waiting], timeout=0.05)
                if waiting.done():
                    return waiting.result()
            finally:
                waiting.cancel()

    async def plan(self) -> Report:
        """What `converge` would do. Only for a dry mapping."""
        report = Report(self.config.name)
        try:
            await self._settled()
            session = self._session
            assert self._db is not None
            assert session is not None
            directory = session.directory

            def make(store: StateStore) -> None:
                rows = store.dirty(1_000_000, skip=frozenset())
                made = make_plan(
                    store,
                    rows,
                    store.clashes([row.path for row in rows]),
                    session.rules,
                    case_insensitive=directory.case_insensitive,
                )
                store.put(made.settled, dirty=False)
                actions = [action for stage in made.stages for action in stage]
                report.tally.planned(actions)
                report.actions = [action_json(action) for action in actions]
                view.fill_report(report, store, strays=session.local.strays, holds=Holds())

            await self._db(make)
        except JetsyncError as error:
            report.state, report.exit_code = STATE_FAILED, error.exit_code
            report.errors.append(str(error))
            report.actions = []
        return report

    async def on_store(self, work: Callable[[StateStore], T]) -> T:
        """Run something in the state's thread, whether or not there is a session.

        :raises JetsyncError: the state can't be used
        """
        await self._loaded.wait()
        if self._db is None:
            raise self.record.failure or StateError(f"the state of mapping {self.config.name!r} isn't open")
        return await self._db(work)

    async def session_that_knows(self) -> tuple[Session, Db]:
        """A session that has looked at both sides (the one that runs, or the next one when it has settled), and the
        state. Waits while the server is away.

        :raises JetsyncError: the last session's error, when waiting can't help
        """
        while self._session is None or not (self._session.local.scanned and self._session.remote.ready):
            await self._settled()
        assert self._db is not None
        return self._session, self._db

    @property
    def converged(self) -> bool:
        """Whether both sides were known to be equal at least once since the start."""
        return self.record.converged_at is not None

    @property
    def serving(self) -> bool:
        """The state is loaded and the directory is there, whether or not the server is."""
        return self._db is not None and not isinstance(self.record.failure, DirectoryError | StateError)

    @property
    def sentence(self) -> str:
        """What the mapping is doing, for people."""
        return self.record.sentence

    async def converged_before(self) -> bool:
        """Whether this state converged in this run or an earlier one."""
        await self._loaded.wait()
        return self.converged or self.converged_earlier

    def broken(self, error: JetsyncError) -> None:
        """`run` ended with an error."""
        self._loaded.set()
        self.record.broke(error)

    def poke(self) -> None:
        """The connection is back: try again now."""
        self._retry.set()
        if self._session is not None:
            self._session.retry()

    async def status(self) -> MappingStatus:
        config, session = self.config, self._session
        status = MappingStatus(
            name=config.name,
            directory=str(config.directory),
            bucket=config.bucket,
            prefix=config.prefix,
            mode=config.mode.value,
            state=self.record.state,
            since=self.record.since,
            converged=self.converged,
            last_success=self.record.converged_at,
            last_error=self.record.error,
        )
        if self._db is None or session is None:
            return status
        snapshot = await self._db(view.read)
        local, remote = view.trees(snapshot.counts)
        strays, holds = session.local.strays, session.batches.holds
        return replace(
            status,
            local=local,
            remote=remote,
            pending=view.pending(snapshot.counts, self.record.pending_since),
            conflicts=snapshot.counts.conflicts,
            diverged=snapshot.counts.diverged,
            problems=view.problem_counts(snapshot, strays, holds),
            problem_paths=view.problem_paths(snapshot, strays, holds),
            skipped={str(reason): number for reason, number in snapshot.counts.skipped.items()},
            watch=session.watcher.kind,
            watch_detail=session.watcher.why,
        )

    async def _tell_problems(self) -> None:
        session = self._session
        if self._db is None or session is None:
            return
        found = dict(await self._db(lambda store: store.problems(PROBLEMS_TOLD)))
        found |= {path: why for path, why in session.local.strays.items() if not why.reason.skipped}
        self.record.problems(found)
        self.record.conflicts(await self._db(lambda store: store.conflicts()))

    async def show_metrics(self) -> None:
        """Bring the gauges up to date, and tell of what is new among the problems."""
        self.record.metrics.show(await self.status())
        await self._tell_problems()
        if self._session is not None:
            with suppress(OSError):
                self.record.metrics.disk_free(await asyncio.to_thread(self._session.directory.free_bytes))

    async def copy_state(self, target: Path) -> None:
        """Copy the state store for a dry run."""
        if self._db is not None:
            await self._db(lambda store: store.copy_to(target))


def waits_for_server(error: JetsyncError) -> bool:
    """Whether the error goes away by itself when the server (or a little time) comes; a missing permission doesn't."""
    if isinstance(error, NotAllowedError):
        return False
    return error.transient or isinstance(error, ConnectError)
