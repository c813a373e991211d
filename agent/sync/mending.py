"""What `rehash` finds damaged: fetched again where there is a whole copy of it, told where there is none."""

from __future__ import annotations

from agent.config.model import Mapping
from agent.core.entries import Local, Obstacle, Reason
from agent.errors import StoreUnavailableError
from agent.observe.logging import get_logger
from agent.observe.meter import Meter
from agent.observe.reasons import of_problem
from agent.sync import repair
from agent.sync.batches import Batches
from agent.sync.db import Db
from agent.sync.local import LocalSide
from agent.sync.outcome import Result
from agent.sync.steps import Steps


class Mending:
    """`found` is what a `Rehash` calls."""

    def __init__(
        self, *, config: Mapping, db: Db, batches: Batches, local: LocalSide, steps: Steps, metrics: Meter
    ) -> None:
        self._mode = config.mode
        self._db = db
        self._batches = batches
        self._local = local
        self._steps = steps
        self._metrics = metrics
        self._log = get_logger(mapping=config.name)

    async def found(self, path: str, known: Local, found: Local, again: bool) -> bool:
        """Damage is repaired where that can be done, or told.

        False: not now (a path with an action under way is looked at by the action itself); it comes again then.
        """
        if path in self._batches.busy:
            return not again
        damaged = isinstance(found.side, Obstacle) and found.side.reason is Reason.BAD_DIGEST
        row = await self._db(lambda store: store.row(path))
        action = repair.of_file(row, known, self._mode) if damaged else None
        if action is not None:
            outcome = await repair.run(action, batches=self._batches, call=self._steps.call)
            if outcome is not None and outcome.result is Result.APPLIED:
                self._metrics.error(of_problem(Reason.BAD_DIGEST))
                self._log.warning("repaired", path=path, remedy="the damaged file is in the trash; check the disk")
                return True
            if again and (outcome is None or isinstance(outcome.error, StoreUnavailableError)):
                return False
        await self._steps.call(lambda: self._local.rehashed(path, known, found))
        return True
