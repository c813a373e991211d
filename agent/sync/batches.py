"""Plans into practice: dirty rows -> plan -> actions at once, within bounds -> outcomes -> rows.

A batch is one plan. Its stages run one after the other, the actions of a stage at once. Several batches may be under
way, over different paths, so that a transfer of an hour holds nothing else up; `busy` has the paths of all of them, and
no plan is made for a busy path. Before a batch starts, the nuids of its uploads are in the journal: what a crash
leaves in the store is known at the next start.

The halves of a rename are found one by one, and a rename costs nothing where a deletion and a transfer cost the
content. So deletions wait while anything is hinted or looked at, 10 s at most; and new local files wait while something
that has settled is still being looked at: 2 s at most, or for as long as there are deletions that wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.config.model import Mapping
from agent.core.entries import Row
from agent.core.plan import Action, Plan, Verb
from agent.core.reconcile import Rules
from agent.directory import Directory
from agent.errors import NotAllowedError, StoreFullError, StoreUnavailableError
from agent.observe.logging import get_logger
from agent.state import StateStore
from agent.sync.committing import old_chunks, write
from agent.sync.db import Db
from agent.sync.execute import Executor
from agent.sync.gates import Direction, Gates, is_disk_full
from agent.sync.guard import Guard, Stop, losses
from agent.sync.hints import Absent, Looking
from agent.sync.local import Spawn, Step
from agent.sync.outcome import Outcome, Result
from agent.sync.planning import (
    Hold,
    is_deletion,
    make_plan,
    plan_all,
    stands_in_the_way,
    without_touching,
)
from agent.sync.resume import forget, journal_uploads
from agent.sync.retry import Holds
from agent.sync.stage import StageRunner

# Dirty rows planned at once: bounds memory (about 1 KiB a row), and is what renames are found within.
PLAN_ROWS = 50_000
BATCHES = 4
# The same with those that only wait for large transfers, which `transfers` bounds.
BATCHES_IN_ALL = 256
HELD_SECONDS = 10.0
# Deletions that count wait until none has come for so long.
ARRIVING_SECONDS = 2.0
# While the guard says stop, it is asked again after so long at the earliest.
STOPPED_SECONDS = 0.5
CREATIONS_HELD_SECONDS = 2.0
# Passing over rows that can't be planned yet is worth a thought when it takes longer than this.
SIFTED_SECONDS = 0.02


@dataclass(slots=True)
class Batch:
    """`settled`: held paths that need nothing any more. `deferred`: paths whose rows contradict each other, to be
    looked at again. `held`: rows were left out for now. `waiting`: rows wait for others that are in their way. `stop`:
    nothing may be done."""

    stages: tuple[tuple[Action, ...], ...] = ()
    nuids: dict[str, str] = field(default_factory=dict)
    doomed: set[str] = field(default_factory=set)  # nuids of what will be replaced or deleted
    settled: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    held: bool = False
    waiting: bool = False
    stop: Stop | None = None
    sifted: float = 0.0  # seconds that went by in passing over rows that can't be planned yet
    clean: bool = False  # no row is dirty
    full: bool = False  # rows were settled, and there may be more dirty ones behind the PLAN_ROWS of this plan


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the last plan depended on, besides the rows that were dirty then.

    dirtied: how many rows have become dirty. released: how often paths were given free again. looking, hints: looks
    that ended, and hints that are left. holds: paths that wait after failures. arriving: deletions wait for more.
    """

    dirtied: int
    released: int
    looks: int
    hints: int
    holds: int
    hold: Hold
    arriving: bool


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
        on_full: Callable[[bool], None],
        on_stop: Callable[[Stop | None], None],
        look_again: Callable[[list[str]], None],
    ) -> None:
        self._config = config
        self._directory = directory
        self._db = db
        self._runner = StageRunner(executor=executor, workers=workers, go_on=self._go_on, take=self._take)
        self._rules = rules
        self._post = post
        self._spawn = spawn
        self._on_outcomes = on_outcomes
        self._online = online
        self._on_full = on_full
        self._on_stop = on_stop
        self._guard = Guard(config, lambda store: plan_all(store, rules, case_insensitive=directory.case_insensitive))
        self._lost = 0
        self._lost_since = 0.0
        self._lost_until = 0.0
        self._look_again = look_again
        self._running = 0
        self._held_since: float | None = None
        self._released = 0
        self._waiting = False
        self._seen: _Seen | None = None
        self._clean = -1  # how many rows had become dirty when none was
        self._plan_at = 0.0
        self.busy: set[str] = set()
        self.nuids: set[str] = set()  # of the uploads under way, and of what they replace
        self.holds = Holds()
        self.gates = Gates(get_logger(mapping=config.name), self.holds)
        self.draining = False
        self.paused = False
        self.urgent = False  # somebody waits for it all to be done
        self.stop: Stop | None = None
        self.undecided = False  # whether it still says stop isn't known yet
        self.held_back = False
        self._deletions_held = False
        self._alone: dict[str, asyncio.Future[Outcome | None]] = {}  # path -> who waits for an action that no plan made

    @property
    def idle(self) -> bool:
        return self._running == 0

    def hopeless(self, path: str) -> bool:
        """Whether a one-shot run should give the path up for now."""
        return self.holds.hopeless(path) or self.gates.hopeless(path)

    def retry_all(self) -> None:
        """Somebody asked, or the connection is back: what failed may be tried at once."""
        self.holds.retry_all()
        self.gates.retry_all()

    async def advance(self, looking: Looking) -> bool:
        """Plan the dirty rows and start a batch; returns whether anything was found to do."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self.draining or self.paused or not self._online():
            return False
        if self._running - self._runner.heavy >= BATCHES or self._running >= BATCHES_IN_ALL:
            return False
        if looking.searching and now < self._plan_at:
            return False
        if self._clean == self._db.dirtied and self.stop is None:
            self._held_since, self.held_back, self.undecided = None, False, False
            return False
        if self.gates.due(now):
            self._released += 1
        held = self.holds.waiting(now)
        hold = self._to_hold(looking.quiet, looking.searching, now)
        arriving = now < self._lost_until
        seen = _Seen(self._db.dirtied, self._released, looking.looks, looking.hints, len(held), hold, arriving)
        self.undecided = seen != self._seen and self.stop is not None and now < self._plan_at
        if seen == self._seen or self.undecided:
            return False
        waiting = self.gates.waiting(now)
        skip = Absent(self.busy, looking.paths, held, waiting)
        batch = await self._db(lambda store: self._plan(store, skip, hold, now))
        more = batch.full or self.gates.waiting(now) != waiting  # others may stand behind those that wait now
        self._seen = None if more else seen
        self._clean = seen.dirtied if batch.clean else -1
        if batch.stop is not None or self.stop is not None:
            self._stopped(batch.stop, cost=loop.time() - now)
        self._waiting = batch.waiting
        for path in batch.settled:
            self.holds.clear(path)
        for path in batch.deferred:
            self.holds.failed(path, now, message="its rows contradict each other; looking again", stale=True)
        if batch.deferred:
            self._look_again(batch.deferred)
        self.held_back = batch.held or batch.stop is not None or batch.sifted > 0
        if batch.held and self._held_since is None:
            self._held_since = now
        # What can't be planned yet is looked through again and again while the search goes on: in proportion to what
        # that costs.
        if not batch.stages and batch.stop is None:
            self._plan_at = loop.time() + max(0.02, 3 * (loop.time() - now)) if batch.held else 0.0
        if batch.sifted and batch.stop is None:
            self._plan_at = max(self._plan_at, loop.time() + 3 * batch.sifted)
            more = more and not looking.searching
        if not batch.stages:
            return more
        self._start(batch)
        return True

    def _stopped(self, stop: Stop | None, *, cost: float) -> None:
        """The guard has spoken: while it says stop, it is asked again when rows have changed, and not all the time."""
        self._plan_at = asyncio.get_running_loop().time() + max(STOPPED_SECONDS, 3 * cost) if stop is not None else 0.0
        changed = stop != self.stop
        self.stop = stop
        if changed:
            self._on_stop(stop)

    def reconsider(self) -> None:
        """A person has approved, or resumed: plan again at once."""
        self._released += 1
        self._clean = -1
        self._plan_at = 0.0

    def _to_hold(self, quiet: bool, searching: bool, now: float) -> Hold:
        """Which halves of a rename wait for the other one: see the module's docstring."""
        held_for = now - self._held_since if self._held_since is not None else 0.0
        if quiet or held_for > HELD_SECONDS:
            self._held_since = None
            return Hold(deletions=False, creations=False)
        return Hold(deletions=True, creations=searching and (self._deletions_held or held_for < CREATIONS_HELD_SECONDS))

    def _plan(self, store: StateStore, skip: Absent, hold: Hold, now: float) -> Batch:
        """In the state's thread: plan the dirty rows, store what needs no action, journal what will be uploaded."""
        began = time.monotonic()
        dirty = store.dirty(PLAN_ROWS, skip=skip)
        sifted = time.monotonic() - began
        if sifted < SIFTED_SECONDS or 2 * len(dirty) >= store.dirty_count():
            sifted = 0.0
        if dirty:
            self._directory.check_root()
        if hold.creations and not store.kv_get("converged"):
            hold = replace(hold, creations=False)  # a first time: nothing can have been renamed
        batch, made = self._made(store, dirty, skip, hold)
        if not hold.deletions and self._arriving(losses(made.actions).total(), now):
            batch, made = self._made(store, dirty, skip, replace(hold, deletions=True))
        batch.sifted = sifted
        batch.clean = not dirty and not store.dirty_count()
        batch.stop = self._guard.judge(store, made, time.time())
        if batch.stop is None:
            self._take_up(store, batch, made, now)
            batch.full = bool(made.settled) and len(dirty) >= PLAN_ROWS
        return batch

    def _made(self, store: StateStore, dirty: list[Row], skip: Absent, hold: Hold) -> tuple[Batch, Plan]:
        """The plan over those rows that needn't wait; nothing of it is stored yet."""
        batch = Batch()
        rows = [row for row in dirty if not hold.holds(row)]
        self._deletions_held = hold.deletions and any(is_deletion(row) for row in dirty)
        batch.held = len(rows) < len(dirty)
        clashes = store.clashes([row.path for row in dirty]) if rows else []
        waiting = [row.path for row in clashes if row.path in skip]
        if batch.held:
            waiting += [row.path for row in dirty if is_deletion(row) and stands_in_the_way(row)]
        batch.waiting = bool(waiting)
        if waiting:
            rows = without_touching(rows, waiting)
            clashes = store.clashes([row.path for row in rows])
        if not rows:
            return batch, Plan()
        return batch, make_plan(store, rows, clashes, self._rules, case_insensitive=self._directory.case_insensitive)

    def _arriving(self, lost: int, now: float) -> bool:
        """Whether deletions that count are still coming in: those are judged together (DESIGN section 6, "Brakes")."""
        if lost < self._guard.limit.floor or self.urgent:
            self._lost, self._lost_since, self._lost_until = lost, now, 0.0
        elif lost > self._lost:
            self._lost, self._lost_until = lost, min(now + ARRIVING_SECONDS, self._lost_since + HELD_SECONDS)
        return now < self._lost_until

    def _take_up(self, store: StateStore, batch: Batch, made: Plan, now: float) -> None:
        batch.stages = self.gates.admit(made.stages, now)
        batch.settled = [row.path for row in made.settled if row.path in self.holds]
        batch.deferred = list(made.deferred)
        if made.settled or made.stages:
            with store.transaction(durable=bool(made.settled)):
                store.put(made.settled, dirty=False)
                batch.nuids = self._journal(store, batch)

    def _journal(self, store: StateStore, batch: Batch) -> dict[str, str]:
        """Give every upload a nuid, and write it down before a chunk is sent under it."""
        batch.doomed = self._journal_doomed(store, batch)
        uploads = [action for stage in batch.stages for action in stage if action.verb is Verb.UPLOAD]
        return journal_uploads(store, self._config.bucket, self._config.prefix, uploads)

    def _journal_doomed(self, store: StateStore, batch: Batch) -> set[str]:
        """Write down what will be nobody's when the actions have succeeded, in case nobody is left to do it then."""
        actions = (action for stage in batch.stages for action in stage)
        rows = [action.row for action in actions if action.verb in (Verb.UPLOAD, Verb.DELETE_REMOTE)]
        old = [(row.remote.nuid, row.path) for row in rows if row.remote and row.remote.nuid and row.remote.chunks]
        now = time.time_ns()
        bucket, prefix = self._config.bucket, self._config.prefix
        store.journal_add(old_chunks(bucket, prefix + path, nuid, now=now) for nuid, path in old)
        return {nuid for nuid, _ in old}

    # -- running -------------------------------------------------------------------------------------------------

    async def start_alone(self, action: Action) -> asyncio.Future[Outcome | None] | None:
        """Run an action that no plan has made (a repair) as a batch of its own. A step, as all that writes rows.

        Its outcome is written and counted like any other, and comes in the future too; None: it never ran. Gives back
        None when nothing may be started now, or the path has an action under way.
        """
        path = action.row.path
        if path in self.busy or not self._go_on() or self.paused or self.stop is not None:
            return None
        batch = Batch(stages=((action,),))
        batch.nuids = await self._db(lambda store: self._journal(store, batch))
        done = self._alone[path] = asyncio.get_running_loop().create_future()
        self._start(batch)
        return done

    def look_again(self, paths: list[str]) -> None:
        """Have local paths looked at. In the loop."""
        self._look_again(paths)

    def _tell(self, path: str, outcome: Outcome | None) -> None:
        waiting = self._alone.pop(path, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    def _start(self, batch: Batch) -> None:
        for stage in batch.stages:
            for action in stage:
                self.busy.add(action.row.path)
                if action.to:
                    self.busy.add(action.to)
        self._running += 1
        self.nuids.update(batch.nuids.values(), batch.doomed)
        self._spawn(self._run(batch), f"batch {self._config.name}")

    def _go_on(self) -> bool:
        return not self.draining and self._online()

    def _take(self, outcomes: list[Outcome]) -> None:
        self._post(lambda: self._commit(outcomes))

    async def _run(self, batch: Batch) -> None:
        untouched: list[Action] = []
        for stage in batch.stages:
            untouched += await self._runner.run(stage, batch.nuids)
        self._post(lambda: self._finished(batch, untouched))

    async def _finished(self, batch: Batch, untouched: list[Action]) -> None:
        self._running -= 1
        self._released += 1
        self.nuids.difference_update(batch.nuids.values(), batch.doomed)
        for action in untouched:
            self.busy.discard(action.row.path)
            self.busy.discard(action.to)
            self._tell(action.row.path, None)
            self.gates.ended(action.row.path)
        nuids = [batch.nuids[action.row.path] for action in untouched if action.row.path in batch.nuids]
        if nuids:
            await self._db(lambda store: forget(store, nuids))

    # -- committing ----------------------------------------------------------------------------------------------

    async def _commit(self, outcomes: list[Outcome]) -> None:
        bucket, full = self._config.bucket, self.gates.closed(Direction.UPLOADS)
        await self._db(lambda store: write(store, outcomes, guard=self._guard, bucket=bucket, full=full))
        now = asyncio.get_running_loop().time()
        if self._waiting or any(outcome.result is not Result.APPLIED for outcome in outcomes):
            self._released += 1
        for outcome in outcomes:
            self.busy.difference_update(outcome.paths)
            path = outcome.action.row.path
            if outcome.result is Result.APPLIED:
                self.holds.clear(path)
                if opened := self.gates.applied(path, now):
                    self.holds.clear(opened)
                    self._released += 1
            elif self.gates.failed(outcome, now):
                self.holds.clear(path)
            else:
                stale = outcome.result is Result.STALE or isinstance(outcome.error, StoreUnavailableError)
                refused = isinstance(outcome.error, NotAllowedError)
                self.holds.failed(
                    path, now, message=str(outcome.error), reason=outcome.reason, stale=stale, refused=refused
                )
        errors = [outcome.error for outcome in outcomes]
        if any(isinstance(error, StoreFullError) for error in errors) or self.gates.closed(Direction.DOWNLOADS):
            self._on_full(any(is_disk_full(error) for error in errors))
        self._on_outcomes(outcomes)
        for outcome in outcomes:
            self._tell(outcome.action.row.path, outcome)
