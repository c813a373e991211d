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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

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
    StoreUnavailableError,
)
from agent.observe.logging import Once, get_logger
from agent.observe.metrics import MappingMetrics
from agent.observe.reasons import of_problem
from agent.observe.status import LastError, MappingStatus, State
from agent.state import StateStore
from agent.sync import view
from agent.sync.batches import make_plan
from agent.sync.db import Db
from agent.sync.identity import adopt_identity
from agent.sync.outcome import Outcome, Result
from agent.sync.remotes import Remotes
from agent.sync.report import STATE_FAILED, Report, Tally, action_json
from agent.sync.retry import Backoff, Holds
from agent.sync.session import Session

# While a mapping drains, actions under way may take this long to end by themselves (seconds).
DRAIN_SECONDS = 8.0
# A directory that isn't there is looked for at least this often (seconds): it costs nothing.
ROOT_SECONDS = 5.0
# Problems that are looked through for new ones.
PROBLEMS_TOLD = 1000


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
        self._metrics = metrics
        self._dry = dry
        self._log = get_logger(mapping=config.name)
        self._once = Once()
        self._told = Once()
        self._db: Db | None = None
        self._session: Session | None = None
        self._root: tuple[int, int] | None = None  # of the first session
        self._retry = asyncio.Event()
        self._loaded = asyncio.Event()
        self._began = asyncio.Event()
        self._stopping = False
        self._error: LastError | None = None
        self._failure: JetsyncError | None = None
        self._failures = 0
        self._waiting: tuple[float, JetsyncError] | None = None  # since when, and for what
        self._state = State.STARTING
        self._since = time.time()
        self._converged_at: float | None = None
        self._pending_since: float | None = None
        self._tallies: list[Tally] = []
        self.converged_earlier = False  # in an earlier run, on this state

    # -- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run sessions until `drain`, or until cancelled."""
        backoff = Backoff(ceiling=60.0)
        self._db = await Db.open(self._state_path, self.config.name)
        if self._db.recovered:
            self._log.warning("state_recovered", detail=self._db.recovered)
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
                metrics=self._metrics,
                online=lambda: self._remotes.online,
                on_outcomes=self._outcomes,
                on_state=self._set_state,
                on_settled=self._on_settled,
                progress=self._progress,
                failed=self._waits,
                dry=self._dry,
            )
            self._failure = None
            self._waits(StoreUnavailableError(f"bucket {self.config.bucket!r} doesn't tell what it holds"))
            self._began.set()
            self._metrics.attempt(time.time())
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
        """A session ended with an error: say so once, and wait for the next one."""
        waits = waits_for_server(error)
        if waits:
            self._waits(error)
        reason = self._metrics.failure(error)
        self._error = LastError(reason.value, error.message, error.remedy, time.time())
        self._failure = error
        self._failures += 1
        self._set_state(State.RETRYING if waits else State.FAILED)
        if self._once.news("session", str(error)):
            event = "mapping_waits" if waits else "mapping_failed"
            self._log.warning(event, error=error.message, remedy=error.remedy, retry_in=round(seconds, 1))
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

    def _outcomes(self, outcomes: list[Outcome]) -> None:
        for tally in self._tallies:
            tally.add(outcomes)
        for outcome in outcomes:
            self._count(outcome)
            if outcome.result is Result.APPLIED:
                self._progress()
            elif isinstance(outcome.error, StoreUnavailableError):
                self._waits(outcome.error)

    def _count(self, outcome: Outcome) -> None:
        action = outcome.action
        operation = action.verb.value.partition("-")[0].replace("update", "metadata").replace("conflict", "download")
        self._metrics.transfer(operation, outcome.result.value, outcome.bytes_up + outcome.bytes_down, 0.0)
        if outcome.result is Result.APPLIED:
            self._log.debug("applied", action=action.verb.value, path=action.row.path, to=action.to or None)
            self._once.clear(action.row.path)
        elif outcome.result is Result.FAILED:
            assert outcome.error is not None
            self._metrics.failure(outcome.error)
            if self._once.news(action.row.path, str(outcome.error)):
                self._log.warning(
                    "action_failed", action=action.verb.value, path=action.row.path, error=str(outcome.error)
                )

    def _set_state(self, state: State) -> None:
        if state is State.SYNCING and self._pending_since is None:
            self._pending_since = time.time()
        if state is not self._state:
            self._state, self._since = state, time.time()
            self._metrics.set_state(state)

    async def _on_settled(self, converged: bool) -> None:
        """Nothing is under way; `converged`: and nothing is left to do."""
        self._progress()
        if converged:
            self._converged_at = time.time()
            self._pending_since = None
            self._metrics.success(self._converged_at)
            self._once.clear("session")
        await self._tell_problems()

    def _waits(self, error: JetsyncError) -> None:
        """The store didn't do what it was asked for, and was asked again."""
        self._waiting = (self._waiting[0] if self._waiting else time.monotonic(), error)

    def _progress(self) -> None:
        self._waiting = None

    # -- what others ask -----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> tuple[float, JetsyncError] | None:
        """How long nothing but waiting for the store was done (seconds), and why; None when something is going on."""
        return (time.monotonic() - self._waiting[0], self._waiting[1]) if self._waiting else None

    async def converge(self) -> Report:
        """Look at everything, bring both sides together, and say what was done. Waits while the server is away."""
        tally = Tally()
        self._tallies.append(tally)
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
            self._tallies.remove(tally)
        return report

    async def _settled(self) -> None:
        """Wait until a session has settled.

        :raises JetsyncError: the last session's error, when waiting can't help
        """
        failures = self._failures  # of earlier sessions: what failed then is tried again now
        self._retry.set()
        while True:
            failure = self._failure if self._failures > failures else None
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

    @property
    def converged(self) -> bool:
        """Whether both sides were known to be equal at least once since the start."""
        return self._converged_at is not None

    @property
    def serving(self) -> bool:
        """The state is loaded and the directory is there, whether or not the server is."""
        return self._db is not None and not isinstance(self._failure, DirectoryError | StateError)

    @property
    def sentence(self) -> str:
        """What the mapping is doing, for people."""
        if self._failure is not None:
            return f"{self._state.value}: {self._failure}"
        return self._state.value

    async def converged_before(self) -> bool:
        """Whether this state converged in this run or an earlier one."""
        await self._loaded.wait()
        return self.converged or self.converged_earlier

    def broken(self, error: JetsyncError) -> None:
        """`run` ended with an error."""
        self._loaded.set()
        self._failure = error
        self._failures += 1
        self._error = LastError(self._metrics.failure(error).value, error.message, error.remedy, time.time())
        self._set_state(State.FAILED)

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
            state=self._state,
            since=self._since,
            converged=self.converged,
            last_success=self._converged_at,
            last_error=self._error,
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
            pending=view.pending(snapshot.counts, self._pending_since),
            conflicts=snapshot.counts.conflicts,
            diverged=snapshot.counts.diverged,
            problems=view.problem_counts(snapshot, strays, holds),
            problem_paths=view.problem_paths(snapshot, strays, holds),
            skipped={str(reason): number for reason, number in snapshot.counts.skipped.items()},
            watch=session.watcher.kind,
            watch_detail=session.watcher.why,
        )

    async def _tell_problems(self) -> None:
        """Log and count each problem once, until it changes or clears."""
        session = self._session
        if self._db is None or session is None:
            return
        found = dict(await self._db(lambda store: store.problems(PROBLEMS_TOLD)))
        found |= {path: why for path, why in session.local.strays.items() if not why.reason.skipped}
        for path, obstacle in found.items():
            if self._told.news(path, obstacle.reason):
                self._metrics.error(of_problem(obstacle.reason))
                remedy = obstacle.detail or view.REMEDIES.get(obstacle.reason, "")
                self._log.warning("problem", path=path, reason=obstacle.reason.value, remedy=remedy)
        self._told.keep(found)

    async def show_metrics(self) -> None:
        """Bring the gauges up to date, and tell of what is new among the problems."""
        self._metrics.show(await self.status())
        await self._tell_problems()
        if self._session is not None:
            with suppress(OSError):
                self._metrics.disk_free(await asyncio.to_thread(self._session.directory.free_bytes))

    async def copy_state(self, target: Path) -> None:
        """Copy the state store for a dry run."""
        if self._db is not None:
            await self._db(lambda store: store.copy_to(target))


def waits_for_server(error: JetsyncError) -> bool:
    """Whether the error goes away by itself when the server (or a little time) comes; a missing permission doesn't."""
    if isinstance(error, NotAllowedError):
        return False
    return error.transient or isinstance(error, ConnectError)
