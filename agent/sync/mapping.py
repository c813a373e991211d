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
from agent.errors import (
    BucketError,
    BucketNotFoundError,
    BucketReplacedError,
    ConnectError,
    DirectoryError,
    HaltError,
    JetsyncError,
    NotAllowedError,
    RootError,
    StateError,
)
from agent.observe.meter import Meter
from agent.observe.status import Halt, MappingStatus, State
from agent.state import StateStore
from agent.sync import view
from agent.sync.db import Db
from agent.sync.guard import Guard, approve
from agent.sync.identity import (
    adopt_identity,
    identity_is_well,
    store_halt,
)
from agent.sync.opening import open_bucket, open_directory
from agent.sync.planning import plan_all
from agent.sync.record import PROBLEMS_TOLD, Record
from agent.sync.remotes import Remotes
from agent.sync.report import Report, Tally, action_json
from agent.sync.retry import Backoff, Holds
from agent.sync.session import Session

T = TypeVar("T")

# While a mapping drains, actions under way may take this long to end by themselves (seconds).
DRAIN_SECONDS = 8.0
# A directory or a bucket that isn't there is looked for at least this often (seconds): it costs next to nothing.
ROOT_SECONDS = 5.0
RECHECK_SECONDS = 0.2


class RecheckError(BucketError):
    """The root or the bucket isn't there as the session had it. What that means the next session's checks say."""

    transient = True


class MappingSync:
    """One mapping. `run` is its only task; the other methods may be called from anywhere in the event loop."""

    def __init__(
        self,
        *,
        config: Mapping,
        agent_name: str,
        state_path: Path,
        remotes: Remotes,
        metrics: Meter,
        record: Record | None = None,
        dry: bool = False,
    ) -> None:
        """record: that of a mapping which this one takes the place of, with the same directory and bucket."""
        self.config = config
        self._agent_name = agent_name
        self._state_path = state_path
        self._remotes = remotes
        self.record = record or Record(config.name, metrics)
        self.record.begins()
        self._dry = dry
        self._db: Db | None = None
        self._session: Session | None = None
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
            db, self._db = self._db, None
            await db.close()

    async def _run_session(self) -> None:
        assert self._db is not None
        await self._db(lambda store: adopt_identity(store, self.config))
        directory = await open_directory(self.config, self._db, dry=self._dry)
        try:
            opened = await open_bucket(self.config, self._db, self._remotes, dry=self._dry)
            stop = await self._db(identity_is_well)
            self.record.stopped(stop)
            self._session = Session(
                config=self.config,
                agent_name=self._agent_name,
                directory=directory,
                bucket=opened.bucket,
                feed=opened.feed,
                db=self._db,
                filters=Filters(self.config.include, self.config.exclude),
                metrics=self.record.metrics,
                online=lambda: self._remotes.online,
                on_outcomes=self.record.outcomes,
                on_state=self.record.set_state,
                on_stop=self.record.stopped,
                on_settled=self._on_settled,
                progress=self.record.progress,
                failed=self.record.waits,
                dry=self._dry,
            )
            self._session.stopped(stop)
            self._session.pause(paused=await self._db(lambda store: store.kv_get("paused") is not None))
            self.record.session_begins(self.config.bucket)
            self._began.set()
            try:
                await self._session.run()
            except (RootError, BucketReplacedError, BucketNotFoundError) as error:
                raise RecheckError(error.message) from error
        finally:
            self._began.clear()
            self._session = None
            await asyncio.to_thread(directory.close)

    async def _rest(self, error: JetsyncError, seconds: float) -> None:
        """A session ended with an error: say so, and wait for the next one."""
        state = State.RETRYING if waits_for_server(error) else State.FAILED
        if isinstance(error, HaltError) and self._db is not None:
            halt = error
            state = State.HALTED
            self.record.stopped(await self._db(lambda store: store_halt(store, halt)))
        self.record.session_failed(error, state, retry_in=seconds)
        self._retry.clear()
        if isinstance(error, RootError | HaltError):
            seconds = min(seconds, ROOT_SECONDS)
        elif isinstance(error, RecheckError):
            seconds = min(seconds, RECHECK_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._retry.wait()

    async def drain(self) -> bool:
        """Start nothing new and let what is under way end; `run` returns.

        False: nothing is under way, since no session has begun (it may wait for the server): `run` may be cancelled.
        """
        self._stopping = True
        self._retry.set()
        if self._session is None:
            return False
        self._session.drain()
        return True

    # -- what happened -------------------------------------------------------------------------------------------

    async def _on_settled(self, converged: bool) -> None:
        self.record.settled(converged=converged, known=self._remotes.online)
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
            session, db = await self._settled()
            if session.janitor is not None:
                await session.janitor.tidy()
            await db(
                lambda store: view.fill_report(report, store, strays=session.local.strays, holds=session.batches.holds)
            )
            if session.batches.paused:
                report.failing(f"{self.config.name} is paused; go on with: jetsync resume {self.config.name}")
            report.halted(self.record.halt)
        except JetsyncError as error:
            report.failed(error, self.record.halt)
        finally:
            self.record.tallies.remove(tally)
        return report

    async def _settled(self) -> tuple[Session, Db]:
        """Wait until a session has settled; gives it, and the state.

        :raises JetsyncError: the last session's error, when waiting can't help; or the mapping is being stopped
        """
        failures = self.record.failures  # of earlier sessions: what failed then is tried again now
        self._retry.set()
        while True:
            if self._stopping:
                raise JetsyncError(f"mapping {self.config.name!r} was stopped meanwhile", remedy="ask again")
            failure = self.record.failure if self.record.failures > failures else None
            if failure is not None and not waits_for_server(failure):
                raise failure
            session, db = self._session, self._db
            if session is None or db is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._began.wait()
                continue
            waiting = asyncio.create_task(session.settle())
            try:
                while not waiting.done() and self._session is session:
                    await asyncio.wait([waiting], timeout=0.05)
                if waiting.done():
                    waiting.result()
                    return session, db
            finally:
                waiting.cancel()

    async def approve(self) -> Halt | None:
        """End the halt that there is, as it is shown (`guard.approve`); returns it, or None when there is none."""
        await self._loaded.wait()
        if self._db is None:
            return None
        approved = await self._db(lambda store: approve(store, time.time()))
        if approved is not None:
            self.record.stopped(None)  # a paused mapping makes no plan that would say so
        self._retry.set()
        if self._session is not None:
            if approved is not None:
                self._session.stopped(None)
            self._session.reconsider()
        return approved

    async def pause(self, *, paused: bool) -> None:
        """Begin nothing new until told otherwise, over restarts too; or go on."""
        await self._loaded.wait()
        if self._db is None:
            return
        await self._db(lambda store: store.kv_set("paused", "1" if paused else None))
        if self._session is not None:
            self._session.pause(paused=paused)

    async def plan(self) -> Report:
        """What `converge` would do. Only for a dry mapping."""
        report = Report(self.config.name)
        try:
            session, db = await self._settled()
            directory = session.directory

            def make(store: StateStore) -> None:
                made = plan_all(store, session.rules, case_insensitive=directory.case_insensitive)
                stop = Guard(self.config, lambda _: made).judge(store, made, time.time())
                report.halted(stop.shown() if stop is not None else None)
                store.put(made.settled, dirty=False)
                report.tally.planned(made.actions)
                report.actions = [action_json(action) for action in made.actions]
                view.fill_report(report, store, strays=session.local.strays, holds=Holds())

            await db(make)
        except JetsyncError as error:
            report.failed(error, self.record.halt)
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
        session, db = self._session, self._db
        while session is None or db is None or not (session.local.scanned and session.remote.ready):
            session, db = await self._settled()
        return session, db

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

    def try_again(self) -> None:
        """What keeps a session from beginning may be gone: don't wait. A session that goes on isn't disturbed."""
        self._retry.set()

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
            halt=self.record.halt,
        )
        if self._db is None:
            return status
        snapshot = await self._db(view.read)  # what is known stays so while no session goes on
        waiting, all_of_them = view.waiting(snapshot)
        self.record.ages.look(time.time(), waiting, all_of_them=all_of_them)
        local, remote = view.trees(snapshot.counts)
        strays, holds = (session.local.strays, session.batches.holds) if session is not None else ({}, Holds())
        return replace(
            status,
            local=local,
            remote=remote,
            pending=view.pending(snapshot.counts, self.record.ages.oldest),
            conflicts=snapshot.counts.conflicts,
            diverged=snapshot.counts.diverged,
            problems=view.problem_counts(snapshot, strays, holds),
            problem_paths=view.problem_paths(snapshot, strays, holds),
            skipped={str(reason): number for reason, number in snapshot.counts.skipped.items()},
            watch=session.watcher.kind if session is not None else "",
            watch_detail=session.watcher.why if session is not None else "",
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
        """Bring the gauges up to date, and tell of what is new among the problems. What ended stays as it was shown."""
        if self._stopping and self._db is None:
            return
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
