"""`verify`: read every byte of a mapping, on both sides, and say what isn't what it should be.

Path by path, in the order of the rows, two at a time: the file is read (`check`), then the object. What is in order is
forgotten at once; a path that changed, or has an action under way, is put off and looked at again in the end, from its
row as it is then. Nothing is called damaged unless its row was the same before and after the look, and the path had no
action under way. With `repair`, damage that has a whole other side is made good by an ordinary action (`repair`), as
far as the mode changes that side. Then the chunks of the bucket are gone through (`sweep`).

Memory doesn't depend on sizes: a block of a file, a few chunks of an object, a page of rows, and one page of the
bucket's chunk subjects.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from agent.config.model import Mapping
from agent.core.entries import Row
from agent.core.plan import Action
from agent.directory import Directory
from agent.objectstore import Bucket
from agent.state import StateStore
from agent.sync import repair as repairs
from agent.sync.batches import Batches
from agent.sync.check import Checker, Damaged, Finding, Good, Unreadable, Unsure
from agent.sync.db import Db
from agent.sync.limits import RateLimiter
from agent.sync.local import Step
from agent.sync.outcome import Result
from agent.sync.remote import Scope
from agent.sync.sweep import Sweep

# Chunks that no meta names are purged when none of them is younger than this (seconds, by the server's clock): longer
# than any upload is still between two chunks.
GRACE_SECONDS = 24 * 3600.0
PAGE = 512
AT_ONCE = 2
# How often, and how far apart (seconds), a path that keeps changing is looked at before that is given up.
TRIES = 8
PAUSE = 0.5

OK, DAMAGED, REPAIRED, FAILED = "ok", "damaged", "repaired", "failed"


@dataclass(frozen=True, slots=True)
class Damage:
    """A path that isn't what it should be; `reason` is a sentence for people."""

    path: str
    reason: str


@dataclass(slots=True)
class VerifyReport:
    """What a verification found and mended.

    state: ok; damaged (something is, and stays so); repaired (all that was damaged is whole again); failed (it could
    not be brought to its end, or something couldn't be read: `errors`). checked_files, checked_objects: how many were
    read to their end. bytes_local, bytes_remote: bytes read. orphans: chunks that no meta names ("young": nuids that
    are still within the grace time; "bytes" from the sizes of the first and the last chunk). Orphans are no damage.
    repaired: paths. purged: chunks.
    """

    name: str
    state: str = OK
    checked_files: int = 0
    checked_objects: int = 0
    bytes_local: int = 0
    bytes_remote: int = 0
    damaged_files: list[Damage] = field(default_factory=list)
    damaged_objects: list[Damage] = field(default_factory=list)
    orphan_nuids: int = 0
    orphan_chunks: int = 0
    orphan_bytes: int = 0
    orphans_young: int = 0
    repaired: list[str] = field(default_factory=list)
    purged: int = 0
    errors: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Set `state` by what is in the lists."""
        damaged = {found.path for found in [*self.damaged_files, *self.damaged_objects]}
        if damaged - set(self.repaired):
            self.state = DAMAGED
        elif self.errors:
            self.state = FAILED
        else:
            self.state = REPAIRED if self.repaired else OK

    @property
    def exit_code(self) -> int:
        """0: whole, or made so; 3: damage is left; 1: not brought to its end."""
        return {OK: 0, REPAIRED: 0, DAMAGED: 3}.get(self.state, 1)

    def as_json(self) -> dict[str, Any]:
        """The document of `jetsync verify --json`, one for each mapping."""
        return {
            "name": self.name,
            "state": self.state,
            "checked_files": self.checked_files,
            "checked_objects": self.checked_objects,
            "bytes_local": self.bytes_local,
            "bytes_remote": self.bytes_remote,
            "damaged_files": [{"path": found.path, "reason": found.reason} for found in self.damaged_files],
            "damaged_objects": [{"path": found.path, "reason": found.reason} for found in self.damaged_objects],
            "orphans": {
                "nuids": self.orphan_nuids,
                "chunks": self.orphan_chunks,
                "bytes": self.orphan_bytes,
                "young": self.orphans_young,
            },
            "repaired": self.repaired,
            "purged": self.purged,
            "errors": self.errors,
        }


async def verify(
    *,
    config: Mapping,
    directory: Directory,
    bucket: Bucket,
    db: Db,
    scope: Callable[[], Scope],
    batches: Batches,
    call: Callable[[Step], Awaitable[None]],
    repair: bool,
    grace: float = GRACE_SECONDS,
    progress: Callable[[int], None] = lambda _: None,
    journalled: Callable[[], Awaitable[Collection[str]]] | None = None,
) -> VerifyReport:
    """Read every local file and every object of the mapping, and look for chunks that no meta names.

    All of a running session: `Session.directory`, its bucket, db, `Session.scope` (the method), `Session.batches` and
    `Session.call`; best called when it has settled. The session goes on meanwhile: a path with an action under way is
    left for later, and a row that changes is checked anew. With `repair` what is damaged on one side is made equal to
    the whole one, by the session's own plans (so nothing is repaired while the mapping is halted or paused), and
    chunks that no meta names are purged when all of them are older than `grace` seconds.

    progress: called with the number of bytes read since the last call. journalled: the nuids in the journals of the
    agent's other mappings of this bucket, which are never purged either.

    Cancelling it is safe at any time. Errors of single paths are in the report.

    :raises JetsyncError: the session ended, or the bucket is away
    """
    report = VerifyReport(config.name)
    pass_ = _Pass(
        report=report,
        config=config,
        directory=directory,
        bucket=bucket,
        db=db,
        scope=scope,
        batches=batches,
        call=call,
        repair=repair,
        progress=progress,
    )
    await pass_.run()
    sweep = Sweep(bucket=bucket, db=db, grace=grace, busy=batches.nuids, journalled=journalled)
    swept = await sweep.run(repair=repair)
    report.orphan_nuids, report.orphan_chunks, report.orphan_bytes = swept.nuids, swept.chunks, swept.bytes
    report.orphans_young, report.purged = swept.young, swept.purged
    report.errors += swept.errors
    report.settle()
    return report


class _Pass:
    """One pass over the rows."""

    def __init__(
        self,
        *,
        report: VerifyReport,
        config: Mapping,
        directory: Directory,
        bucket: Bucket,
        db: Db,
        scope: Callable[[], Scope],
        batches: Batches,
        call: Callable[[Step], Awaitable[None]],
        repair: bool,
        progress: Callable[[int], None],
    ) -> None:
        self._report = report
        self._mode = config.mode
        self._db = db
        self._batches = batches
        self._call = call
        self._repair = repair
        self._progress = progress
        self._download = RateLimiter(config.limits.download)
        self._later: dict[str, str] = {}  # path -> why it isn't sure yet
        self._checker = Checker(
            directory=directory,
            bucket=bucket,
            scope=scope,
            local_read=self._local_read,
            remote_read=self._remote_read,
        )

    async def run(self) -> None:
        after = ""
        while rows := await self._db(functools.partial(StateStore.page, after=after, limit=PAGE)):
            after = rows[-1].path
            await self._check_all(rows)
        for number in range(1, TRIES + 1):
            if not self._later:
                break
            await asyncio.sleep(PAUSE * number)
            paths, self._later = list(self._later), {}
            for at in range(0, len(paths), PAGE):
                found = await self._db(functools.partial(StateStore.rows, paths=paths[at : at + PAGE]))
                await self._check_all(list(found.values()))
        self._report.errors += [f"{path}: not verified: {why}" for path, why in self._later.items()]

    async def _check_all(self, rows: list[Row]) -> None:
        waiting = iter(rows)

        async def work() -> None:
            for row in waiting:
                await self._check(row)

        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(work(), name=f"verify {number}")

    # -- one path ------------------------------------------------------------------------------------------------

    async def _check(self, row: Row) -> None:
        """Look at both sides of a row; what isn't sure is put off."""
        path = row.path
        if path in self._batches.busy:
            self._later[path] = "an action on it is under way"
            return
        file = await self._checker.file(row)
        remote = await self._checker.object(row)
        if isinstance(file, Unsure):
            await self._call(lambda: self._look_again(path))
        unsure = next((found for found in (file, remote) if isinstance(found, Unsure)), None)
        if unsure is not None:
            self._later[path] = unsure.why
        elif _is_good(file) and _is_good(remote):
            self._count(file, remote)
        elif path in self._batches.busy or await self._db(lambda store: store.row(path)) != row:
            self._later[path] = "it keeps changing"
        elif not await self._repaired(row, file, remote):
            self._count(file, remote)
            self._tell(path, file, remote)

    async def _repaired(self, row: Row, file: Finding, remote: Finding) -> bool:
        """Whether the damage was made good, or what is left of it will be looked at again."""
        action = self._action(row, file, remote) if self._repair else None
        if action is None:
            return False
        outcome = await repairs.run(action, batches=self._batches, call=self._call)
        if outcome is None and row.path not in self._batches.busy:
            why = "the mapping is halted or paused, or the server is away"
            self._report.errors.append(f"{row.path}: not repaired: {why}")
            return False
        if outcome is None or outcome.result is Result.STALE:
            self._later[row.path] = "it keeps changing"
            return True
        if outcome.result is not Result.APPLIED:
            self._report.errors.append(f"{row.path}: not repaired: {outcome.error}")
            return False
        self._count(file, remote)
        self._tell(row.path, file, remote)
        self._report.repaired.append(row.path)
        return True

    def _action(self, row: Row, file: Finding, remote: Finding) -> Action | None:
        """What makes the damaged side whole; None when both are damaged, or the mode doesn't change that side."""
        if isinstance(file, Damaged) and isinstance(remote, Good) and row.local is not None:
            return repairs.of_file(row, row.local, self._mode)
        if isinstance(remote, Damaged) and isinstance(file, Good):
            return repairs.of_object(row, remote.promised, self._mode)
        return None

    async def _look_again(self, path: str) -> None:
        self._batches.look_again([path])

    # -- the report ----------------------------------------------------------------------------------------------

    def _count(self, file: Finding, remote: Finding) -> None:
        self._report.checked_files += isinstance(file, Good | Damaged)
        self._report.checked_objects += isinstance(remote, Good | Damaged)

    def _tell(self, path: str, file: Finding, remote: Finding) -> None:
        for found, damaged, side in (
            (file, self._report.damaged_files, "local"),
            (remote, self._report.damaged_objects, "remote"),
        ):
            if isinstance(found, Damaged):
                damaged.append(Damage(path, found.why))
            elif isinstance(found, Unreadable):
                self._report.errors.append(f"{path}: not verified ({side}): {found.why}")

    async def _local_read(self, size: int) -> None:
        self._report.bytes_local += size
        self._progress(size)

    async def _remote_read(self, size: int) -> None:
        self._report.bytes_remote += size
        self._progress(size)
        await self._download.take(size)


def _is_good(found: Finding) -> bool:
    return found is None or isinstance(found, Good)
