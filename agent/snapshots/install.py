"""Installing: the snapshot that a subscription wants becomes `current`, or the one before stays (DESIGN section 7).

    resolve -> check what the store says -> build the version -> `before` -> note what is owed -> replace `current`
    -> `after` and the webhook -> remove old versions

Each step looks at what is there and does the rest, so a run that was killed anywhere is finished by running again.
Until `current` is replaced, in one atomic step, nothing that a reader can see has changed; whatever fails before that
leaves the old version current.

`after` and the webhook are owed from the moment before `current` is replaced until they have succeeded: they are noted
beside the versions, so that they happen at least once for a snapshot that is current, whenever the agent is killed and
wherever its state goes. A snapshot that has been replaced is owed nothing any more. The commands go on at the one that
failed; the webhook doesn't wait for them.

The record that was taken last is noted, before `current` is replaced, in the state and beside the versions; the higher
counter counts, so that losing one of the two opens no door to old records.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.config.model import Subscription
from agent.core import manifest as manifests
from agent.core.channels import Accepted
from agent.core.manifest import Manifest
from agent.directory import Building, Previous, Versions
from agent.errors import JetsyncError, RefusedError, SnapshotError
from agent.observe.logging import get_logger
from agent.snapshots import hooks
from agent.snapshots.fetch import Opening, Source, Wanted, wanted
from agent.snapshots.hooks import Change
from agent.snapshots.report import Progress, SnapshotReport, no_progress
from agent.snapshots.threads import Threads
from agent.sync.db import Db

_ACCEPTED = "accepted.json"
_OWED = "owed.json"
_KEY = "accepted"


@dataclass(slots=True)
class Owed:
    """What has to happen since this snapshot became current. commands: how many of `after` have succeeded."""

    snapshot: str
    previous: str
    commands: int = 0
    webhook: bool = False


class Installing:
    """One attempt. folder: where commands run. report: what was done is noted there."""

    def __init__(
        self,
        config: Subscription,
        versions: Versions,
        db: Db,
        *,
        folder: Path,
        report: SnapshotReport,
        threads: Threads,
        on_progress: Progress = no_progress,
    ) -> None:
        self._config = config
        self._versions = versions
        self._db = db
        self._folder = folder
        self._report = report
        self._threads = threads
        self._on_progress = on_progress
        self._log = get_logger(subscription=config.name)
        self.next_removal: float | None = None
        """Seconds until an old version may be removed."""

    async def run(self, opening: Opening, *, check: bool) -> None:
        """Have what the subscription wants be current. check: see that the current version is as it was installed, and
        not only that it is there.

        :raises SnapshotError: it can't be had, or isn't to be had; the one before is current
        :raises JetsyncError: the disk or the server doesn't do what it has to
        """
        await self._threads(self._versions.check_root)
        current = self._report.id = self._report.previous = await self._threads(self._versions.current)
        what = await wanted(opening, self._config, await self._accepted())
        if what.snapshot != current or await self._is_damaged(current, thoroughly=check):
            await self._provide(what, opening, current)
        if what.snapshot != current:
            await self._before(what, current)
            await self._accept(what)
            await self._owe(Owed(what.snapshot, current))
            await self._threads(self._versions.make_current, what.snapshot)
            self._log.info("installed", snapshot=what.snapshot, previous=current)
        else:
            await self._accept(what)
        self._report.id = what.snapshot
        await self._after()
        await self._clean(what.snapshot)

    async def stay(self) -> None:
        """What can be done without the store: what is owed for the current version, and removing old ones."""
        current = self._report.id = self._report.previous = await self._threads(self._versions.current)
        if current:
            await self._after()
            await self._clean(current)

    async def _is_damaged(self, current: str, *, thoroughly: bool) -> bool:
        if thoroughly:
            damage = await self._threads(self._versions.damage, current, stop=self._threads.stopped)
        else:
            there = await self._threads(self._versions.exists, current)
            damage = "" if there else f"{self._versions.path_of(current)} is gone"
        if damage:
            self._log.warning("version_damaged", detail=damage, remedy="it is installed again")
        return bool(damage)

    # -- which record was taken --------------------------------------------------------------------------------------

    async def _accepted(self) -> Accepted:
        text = await self._db(lambda store: store.kv_get(_KEY))
        notes = [json.loads(text) if text else None, await self._threads(self._versions.files.read, _ACCEPTED)]
        return max((self._of_here(note) for note in notes), key=lambda accepted: accepted.counter)

    def _of_here(self, note: Any) -> Accepted:
        """A note counts for the channel that it was made for."""
        place = (self._config.repository, self._config.channel)
        if not isinstance(note, dict) or (note.get("repository"), note.get("channel")) != place:
            return Accepted()
        counter, snapshot = note.get("counter"), note.get("snapshot")
        return Accepted(counter, snapshot) if isinstance(counter, int) and isinstance(snapshot, str) else Accepted()

    async def _accept(self, what: Wanted) -> None:
        record = what.record
        if record is None or await self._accepted() == Accepted(record.counter, record.snapshot):
            return
        note = {
            "repository": self._config.repository,
            "channel": self._config.channel,
            "counter": record.counter,
            "snapshot": record.snapshot,
        }
        await self._db(lambda store: store.kv_set(_KEY, json.dumps(note)))
        await self._threads(self._versions.files.write, _ACCEPTED, note)

    # -- the version -------------------------------------------------------------------------------------------------

    async def _provide(self, what: Wanted, opening: Opening, current: str) -> None:
        """Have the version whole on the disk."""
        source = await Source.open(opening, what, self._config, self._threads)
        tree = source.manifest
        self._check_names(tree)
        if not await self._is_there(what.snapshot, tree):
            previous = await self._previous(current)
            try:
                await self._build(what.snapshot, source, previous)
            finally:
                if previous is not None:
                    previous.tree.close()
        report = self._report
        report.downloads, report.bytes_down = source.downloads, source.bytes_down
        report.reused = sum(1 for _ in tree.files) - source.downloads
        report.bytes_reused = tree.size - source.bytes_down

    def _check_names(self, tree: Manifest) -> None:
        if self._versions.case_insensitive and (clashes := manifests.case_clashes(tree.entries)):
            one, other = clashes[0]
            raise SnapshotError(
                f"{one!r} and {other!r} are one name on the file system of {self._versions.path}",
                remedy="rename one of them and publish again, or install on another file system",
            )

    async def _is_there(self, identity: str, tree: Manifest) -> bool:
        """Whether the version stands there already, whole: it was current before, or its `before` command failed."""
        versions, stop = self._versions, self._threads.stopped
        if not await self._threads(versions.exists, identity):
            return False
        if await self._threads(versions.recorded, identity) is not None:
            return not await self._threads(versions.damage, identity, stop=stop)
        if await self._threads(versions.adopt, identity, tree, stop=stop):
            return True
        raise RefusedError(
            f"{versions.path_of(identity)} isn't what this agent has made, and has other content than the snapshot",
            remedy="move it away",
        )

    async def _previous(self, current: str) -> Previous | None:
        if not current:
            return None
        return await self._threads(self._versions.version, current, stop=self._threads.stopped)

    async def _build(self, identity: str, source: Source, previous: Previous | None) -> None:
        threads = self._threads
        building = await threads(self._versions.build, identity, source.manifest, stop=threads.stopped)
        try:
            await threads(building.tidy)
            await threads(building.furnish)
            await threads(building.reuse, previous)
            self._tell_damage(building)
            await threads(self._versions.space.check, building.bytes_needed)
            await source.fetch(building, self._on_progress)
            await threads(building.spread)
            await threads(self._versions.complete, identity, building)
        finally:
            building.close()

    def _tell_damage(self, building: Building) -> None:
        count = len(building.damaged)
        if count:
            detail = f"files of the previous version aren't as they were installed: {building.damaged[0]} is the first"
            self._log.warning("version_damaged", detail=detail, count=count, remedy="they are fetched again")

    # -- hooks -------------------------------------------------------------------------------------------------------

    def _change(self, snapshot: str, previous: str) -> Change:
        path = self._config.directory
        return Change(self._config.name, snapshot, previous, path, path / "versions" / snapshot)

    async def _before(self, what: Wanted, current: str) -> None:
        for command in self._config.before:
            try:
                await hooks.run(command, self._change(what.snapshot, current), folder=self._folder)
            except RefusedError as error:
                raise RefusedError(
                    f"snapshot {what.snapshot} was refused: {error.message}", remedy=error.remedy
                ) from error

    async def _owe(self, owed: Owed | None) -> None:
        if owed is not None and (self._config.after or self._config.webhook):
            await self._threads(self._versions.files.write, _OWED, asdict(owed))
        else:
            await self._threads(self._versions.files.remove, _OWED)

    async def _owed(self) -> Owed | None:
        value = await self._threads(self._versions.files.read, _OWED)
        if value is None:
            return None
        try:
            owed = Owed(str(value["snapshot"]), str(value["previous"]), int(value["commands"]), bool(value["webhook"]))
        except (KeyError, TypeError, ValueError):
            return None
        return owed if owed.snapshot == self._report.id else None

    async def _after(self) -> None:
        """Run and tell what is owed. A failure doesn't go back to the version before: it is told, and tried again."""
        owed = await self._owed()
        if owed is None:
            return
        change = self._change(owed.snapshot, owed.previous)
        try:
            while owed.commands < len(self._config.after):
                await hooks.run(self._config.after[owed.commands], change, folder=self._folder)
                owed.commands += 1
                await self._owe(owed)
        except RefusedError as error:
            self._failing(error)
        if self._config.webhook and not owed.webhook:
            try:
                await hooks.post(self._config.webhook, change)
                owed.webhook = True
                await self._owe(owed)
            except SnapshotError as error:
                self._failing(error)
        if owed.commands >= len(self._config.after) and (owed.webhook or not self._config.webhook):
            await self._owe(None)

    def _failing(self, error: JetsyncError) -> None:
        self._report.failing(f"{self._report.id} is current, but: {error}")

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _clean(self, current: str) -> None:
        self.next_removal = await self._threads(self._versions.clean, self._config.keep, spare=(current,))
