"""Plans into practice: dirty rows -> plan -> actions at once, within bounds -> outcomes -> rows.

A batch is one plan. Its stages run one after the other, the actions of a stage at once. Several batches may be under
way, over different paths, so that a transfer of an hour holds nothing else up; `busy` has the paths of all of them, and
no plan is made for a busy path. Before a batch starts, the nuids of its uploads are in the journal: what a crash
leaves in the store is known at the next start.

Deletions wait while anything is being looked at (`held_since`, 10 s at most): the other half of a rename may be among
it, and a rename costs nothing where a deletion and a transfer cost the content.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from agent.config.model import Mapping
from agent.core.entries import Row
from agent.core.plan import Action, Plan, Verb, plan
from agent.core.reconcile import Rules
from agent.directory import Directory
from agent.errors import StoreUnavailableError
from agent.objectstore import new_nuid
from agent.state import JournalEntry, StateStore
from agent.sync.db import Db
from agent.sync.execute import Executor
from agent.sync.local import Spawn, Step
from agent.sync.outcome import Outcome, Result, merged
from agent.sync.retry import Holds

# Dirty rows planned at once: bounds memory (about 1 KiB a row), and is what renames are found within.
PLAN_ROWS = 50_000
BATCHES = 4
# Outcomes committed in one transaction.
COMMIT = 256
HELD_SECONDS = 10.0
OLD_CHUNKS_SECONDS = 30


class Absent:
    """A container of paths that holds what any of `parts` holds."""

    def __init__(self, *parts: Container[str]) -> None:
        self._parts = parts

    def __contains__(self, path: object) -> bool:
        return any(path in part for part in self._parts)


@dataclass(slots=True)
class Batch:
    """`settled`: held paths that need nothing any more. `deferred`: paths whose rows contradict each other, to be
    looked at again. `held`: deletions were left out for now."""

    stages: tuple[tuple[Action, ...], ...] = ()
    nuids: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    held: bool = False


class Batches:
    """Makes and runs the plans of one mapping. Owned by the mapping's loop."""

    def __init__(
        self,
        *,
        config: Mapping,
        directory: Directory,
        db: Db,
        executor: Executor | None,
        rules: Rules,
        workers: int,
        post: Callable[[Step], None],
        spawn: Spawn,
        on_outcomes: Callable[[list[Outcome]], None],
        online: Callable[[], bool],
        look_again: Callable[[list[str]], None],
    ) -> None:
        self._config = config
        self._directory = directory
        self._db = db
        self._executor = executor
        self._rules = rules
        self._workers = workers
        self._post = post
        self._spawn = spawn
        self._on_outcomes = on_outcomes
        self._online = online
        self._look_again = look_again
        self._running = 0
        self._held_since: float | None = None
        self.busy: set[str] = set()
        self.nuids: set[str] = set()  # of the uploads under way
        self.holds = Holds()
        self.draining = False
        self.held_back = False

    @property
    def idle(self) -> bool:
        return self._running == 0

    async def advance(self, *, looking: Container[str], quiet: bool) -> bool:
        """Plan the dirty rows and start a batch; returns whether anything was found to do.

        `looking`: paths whose local side is being looked at. `quiet`: no hint and no look is pending.
        """
        now = asyncio.get_running_loop().time()
        if self.draining or self._running >= BATCHES or not self._online():
            return False
        skip = Absent(self.busy, looking, self.holds.waiting(now))
        hold_deletions = self._hold_deletions(quiet, now)
        batch = await self._db(lambda store: self._plan(store, skip, hold_deletions))
        for path in batch.settled:
            self.holds.clear(path)
        for path in batch.deferred:
            self.holds.failed(path, now, message="its rows contradict each other; looking again", stale=True)
        if batch.deferred:
            self._look_again(batch.deferred)
        self.held_back = batch.held
        if batch.held and self._held_since is None:
            self._held_since = now
        if not batch.stages:
            return False
        self._start(batch)
        return True

    def _hold_deletions(self, quiet: bool, now: float) -> bool:
        if quiet or (self._held_since is not None and now - self._held_since > HELD_SECONDS):
            self._held_since = None
            return False
        return True

    def _plan(self, store: StateStore, skip: Absent, hold_deletions: bool) -> Batch:
        """In the state's thread: plan the dirty rows, store what needs no action, journal what will be uploaded."""
        rows = store.dirty(PLAN_ROWS, skip=skip)
        batch = Batch()
        if hold_deletions:
            kept = [row for row in rows if not _is_deletion(row)]
            batch.held, rows = len(kept) < len(rows), kept
        if not rows:
            return batch
        clashes = store.clashes([row.path for row in rows])
        in_the_way = {row.path for row in clashes if row.path in skip}
        if in_the_way:
            rows = [row for row in rows if not _touches(row.path, in_the_way)]
            clashes = [row for row in clashes if row.path not in in_the_way]
        self._directory.check_root()
        made = make_plan(store, rows, clashes, self._rules, case_insensitive=self._directory.case_insensitive)
        batch.stages = made.stages
        batch.settled = [row.path for row in made.settled if row.path in self.holds]
        batch.deferred = list(made.deferred)
        with store.transaction():
            store.put(made.settled, dirty=False)
            batch.nuids = self._journal(store, batch)
        return batch

    def _journal(self, store: StateStore, batch: Batch) -> dict[str, str]:
        """Give every upload a nuid, and write it down before a chunk is sent under it."""
        uploads = [action for stage in batch.stages for action in stage if action.verb is Verb.UPLOAD]
        nuids = {action.row.path: new_nuid() for action in uploads}
        now = time.time_ns()
        store.journal_add(
            JournalEntry(
                nuid=nuids[action.row.path],
                bucket=self._config.bucket,
                name=self._config.prefix + action.row.path,
                kind="upload",
                expected_revision=action.row.revision,
                due_ns=now,
                created_ns=now,
            )
            for action in uploads
        )
        return nuids

    # -- running -------------------------------------------------------------------------------------------------

    def _start(self, batch: Batch) -> None:
        for stage in batch.stages:
            for action in stage:
                self.busy.add(action.row.path)
                if action.to:
                    self.busy.add(action.to)
        self._running += 1
        self.nuids.update(batch.nuids.values())
        self._spawn(self._run(batch), f"batch {self._config.name}")

    async def _run(self, batch: Batch) -> None:
        untouched: list[Action] = []
        for stage in batch.stages:
            untouched += await self._run_stage(stage, batch.nuids)
        self._post(lambda: self._finished(batch, untouched))

    async def _run_stage(self, stage: tuple[Action, ...], nuids: dict[str, str]) -> list[Action]:
        """Run the actions with a bounded number of workers; returns those that never ran (draining, or offline)."""
        waiting = deque(stage)
        done: list[Outcome] = []

        def hand_over() -> None:
            outcomes = done.copy()
            done.clear()
            if outcomes:
                self._post(lambda: self._commit(outcomes))

        async def work() -> None:
            while waiting and not self.draining and self._online():
                action = waiting.popleft()
                done.append(await self._one(action, nuids.get(action.row.path)))
                if len(done) >= COMMIT or action.bytes > 1 << 20:
                    hand_over()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._workers, len(stage))):
                group.create_task(work())
        hand_over()
        return list(waiting)

    async def _one(self, action: Action, nuid: str | None) -> Outcome:
        assert self._executor is not None
        try:
            return await self._executor.run(action, nuid)
        except StoreUnavailableError as error:
            # The nuid stays in the journal: whether its meta was stored isn't known.
            return Outcome(action, Result.FAILED, error=error)

    async def _finished(self, batch: Batch, untouched: list[Action]) -> None:
        self._running -= 1
        self.nuids.difference_update(batch.nuids.values())
        for action in untouched:
            self.busy.discard(action.row.path)
            self.busy.discard(action.to)
        nuids = [batch.nuids[action.row.path] for action in untouched if action.row.path in batch.nuids]
        if nuids:
            await self._db(lambda store: store.journal_remove(nuids))

    # -- committing ----------------------------------------------------------------------------------------------

    async def _commit(self, outcomes: list[Outcome]) -> None:
        await self._db(lambda store: self._write(store, outcomes))
        now = asyncio.get_running_loop().time()
        for outcome in outcomes:
            self.busy.difference_update(outcome.paths)
            path = outcome.action.row.path
            if outcome.result is Result.APPLIED:
                self.holds.clear(path)
            else:
                stale = outcome.result is Result.STALE or isinstance(outcome.error, StoreUnavailableError)
                self.holds.failed(path, now, message=str(outcome.error), reason=outcome.reason, stale=stale)
        self._on_outcomes(outcomes)

    def _write(self, store: StateStore, outcomes: list[Outcome]) -> None:
        due = time.time_ns() + OLD_CHUNKS_SECONDS * 1_000_000_000
        with store.transaction():
            for outcome in outcomes:
                for change in outcome.changes:
                    row, dirty = merged(store.row(change.path), change)
                    store.put([row], dirty=dirty)
                store.journal_remove(outcome.settled_nuids)
                store.journal_add(
                    JournalEntry(
                        nuid=old.nuid,
                        bucket=self._config.bucket,
                        name=old.name,
                        kind="old",
                        expected_revision=0,
                        due_ns=due,
                        created_ns=time.time_ns(),
                    )
                    for old in outcome.old_chunks
                )


def make_plan(store: StateStore, rows: list[Row], clashes: list[Row], rules: Rules, *, case_insensitive: bool) -> Plan:
    """Plan over the state's rows."""

    def taken(path: str) -> bool:
        row = store.row(path)
        return row.local is not None or row.remote_side is not None

    return plan(rows, rules, clashes=clashes, taken=taken, copies=store.live_copies, case_insensitive=case_insensitive)


def _is_deletion(row: Row) -> bool:
    return row.ancestor is not None and (row.local is None or row.remote_side is None)


def _touches(path: str, others: set[str]) -> bool:
    return any(path.startswith(other + "/") or other.startswith(path + "/") for other in others)
