"""`resolve`: a person says which version of a path is right, and that is carried out once.

For a path in conflict. The version that gives way is taken for what both sides had agreed on: the other one then is a
change like any other, and the planner says what follows from it in the mapping's mode. That action runs at once, by
itself, under the expectations that every action has: the file's signature, the object's revision. So what a person
hasn't seen is never overwritten: when a side was written meanwhile, nothing happens and the path stays in conflict.

    local     two-way, push-safe: the local version goes up, over the one in the bucket, which is put into the local
              trash first when it isn't larger than SAVED_BYTES. pull-safe: it stays, and counts as diverged
    remote    two-way, pull-safe: the bucket's version comes down; the local one goes to the trash. push-safe: it stays
              in the bucket, and counts as diverged
    both      the local version becomes a conflict copy and the bucket's takes the name, as under `keep-both`.
              push-safe doesn't write here: there the object gets the copy's name, and the local version goes up

For a conflict copy, or a path that has some, both versions are in the tree already. What is done is what a person would
do by hand, with the same expectations; the mapping then sends it like any change:

    local     the copy's version (it was the local one where it was made) takes the name; the other goes to the trash
    remote    the version that has the name stays; the copies go to the trash
    both      nothing is changed, and the copies aren't listed any more
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from agent.config.model import Mapping
from agent.core import names
from agent.core.conflicts import MAX_COPIES, Copies
from agent.core.entries import Ancestor, Entry, Kind, Local, Mode, Policy, Row, Verdict
from agent.core.plan import Action, Verb
from agent.core.reconcile import Rules, reconcile
from agent.directory import Directory
from agent.errors import DigestError, JetsyncError, ObjectError, PathError, SpaceError, StaleError
from agent.objectstore import Bucket, ObjectInfo
from agent.state import StateStore
from agent.sync import repair
from agent.sync.batches import Batches
from agent.sync.conflicts import is_plain, keep_copies
from agent.sync.db import Db
from agent.sync.local import Step
from agent.sync.outcome import Result
from agent.sync.planning import make_plan
from agent.sync.session import Session

# A version in the bucket that is overwritten is fetched into the trash up to this size: what costs little is kept.
SAVED_BYTES = 64 << 20
_BLOCK = 1 << 20


class Keep(StrEnum):
    LOCAL = "local"
    REMOTE = "remote"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where it happens: the parts of a running session."""

    config: Mapping
    rules: Rules
    directory: Directory
    bucket: Bucket
    db: Db
    batches: Batches
    call: Callable[[Step], Awaitable[None]]
    look: Callable[[list[str]], None]  # in the loop: paths to look at

    @classmethod
    def of(cls, config: Mapping, session: Session, db: Db) -> Self:
        assert session.bucket is not None, "a dry run resolves nothing"
        return cls(
            config=config,
            rules=session.rules,
            directory=session.directory,
            bucket=session.bucket,
            db=db,
            batches=session.batches,
            call=session.steps.call,
            look=session.local.hints.add_ready,
        )


@dataclass(slots=True)
class Resolution:
    """What was done: (action, path, to), in the words of `plan`. saved: what was overwritten is in the trash."""

    name: str
    path: str
    keep: Keep
    actions: list[tuple[str, str, str]] = field(default_factory=list)
    saved: bool = False
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": self.path,
            "keep": self.keep.value,
            "actions": [{"action": verb, "path": path, "to": to or None} for verb, path, to in self.actions],
            "saved": self.saved,
            "detail": self.detail,
        }


async def resolve(site: Site, path: str, keep: Keep, *, seen: Row) -> Resolution:
    """Resolve the conflict at `path`. seen: its row as it was when the person may have looked at it.

    :raises JetsyncError: there is no conflict, it can't be resolved so, or a version has changed since
    """
    result = Resolution(site.config.name, path, keep)
    row = await site.db(lambda store: store.row(path))
    if row.verdict is Verdict.CONFLICT:
        if (row.local_side, row.revision) != (seen.local_side, seen.revision):
            raise changed(path, site.config.name)
        await _Conflict(site, row, result).resolve()
        return result
    copies = await site.db(lambda store: _copies(store, path))
    if not copies:
        raise JetsyncError(
            f"{path}: is not in conflict, and has no conflict copies",
            remedy=f"see `jetsync conflicts {site.config.name}`",
        )
    await _Copies(site, copies, result).resolve()
    return result


def changed(path: str, name: str) -> JetsyncError:
    return JetsyncError(
        f"{path}: a version has changed since it was listed; nothing was done",
        remedy=f"look at both again (`jetsync conflicts {name}`), then resolve it",
    )


def _copies(store: StateStore, path: str) -> list[Row]:
    if names.is_conflict_copy(path):
        row = store.row(path)
        return [row] if row.local is not None or row.remote_side is not None else []
    return [row for row in store.conflict_copies() if names.is_copy_of(row.path, path)]


@dataclass(frozen=True, slots=True)
class _Conflict:
    """A row in conflict."""

    site: Site
    row: Row
    result: Resolution

    async def resolve(self) -> None:
        row, rules = self.row, self.site.rules
        if not is_plain(row, rules):
            action = await self._out_of_the_way()
        elif self.result.keep is Keep.BOTH and row.local is not None and row.remote_side is not None:
            action = await self._copy()
        else:
            found = await self.site.db(self._decided)
            if isinstance(found, Row):
                await self._settle(found)
                return
            action = found
        await self._run(action)

    # -- one of the two --

    def _decided(self, store: StateStore) -> Action | Row:
        """What follows when the version that gives way counts as agreed on: an action, or a row to be stored."""
        row, keep = self.row, self.result.keep
        if keep is Keep.BOTH:  # of a version and a deletion there is one to keep
            keep = Keep.LOCAL if row.local is not None else Keep.REMOTE
        loser = row.remote_side if keep is Keep.LOCAL else row.local_side
        ancestor = Ancestor(replace(loser, mtime_ns=None)) if isinstance(loser, Entry) else None
        decided = replace(row, ancestor=ancestor)
        case_insensitive = self.site.directory.case_insensitive
        rules = self.site.rules
        made = make_plan(store, [decided], store.clashes([row.path]), rules, case_insensitive=case_insensitive)
        for action in made.actions:
            if action.path == row.path:
                return action
        for settled in made.settled:
            if settled.path == row.path and settled.verdict is not Verdict.CONFLICT:
                return settled
        raise JetsyncError(f"{row.path}: can't be resolved so: another path is in its way", remedy="move one of them")

    async def _settle(self, settled: Row) -> None:
        """Nothing is to be carried out: the receiver's version stays, and isn't a conflict any more."""

        def put(store: StateStore) -> bool:
            if store.row(self.row.path) != self.row:
                return False
            store.put([settled], dirty=False)
            return True

        if not await self.site.db(put):
            raise changed(self.row.path, self.site.config.name)
        self.result.detail = "both versions stay where they are; the receiver's own one counts as diverged"

    # -- both --

    async def _copy(self) -> Action:
        row, rules = self.row, self.site.rules
        local = rules.mode is not Mode.PUSH_SAFE
        name = await self._name_of_copy(row.local_side if local else row.remote_side)
        if not local:
            return Action(verb=Verb.CONFLICT_COPY, row=row, reason="resolved", to=name)
        entry = reconcile(row, replace(rules, mode=Mode.TWO_WAY, policy=Policy.KEEP_BOTH)).entry
        assert entry is not None
        verb = Verb.CONFLICT_COPY
        return Action(verb=verb, row=row, reason="resolved", to=name, entry=entry, bytes=entry.size, local=True)

    async def _out_of_the_way(self) -> Action:
        """A file against a directory: the file becomes a conflict copy, which is all that can be done from here."""
        row, mode = self.row, self.site.rules.mode
        above = await self.site.db(lambda store: store.rows(names.parents_of(row.path)))
        for upper in above.values():
            if upper.verdict is Verdict.CONFLICT:
                raise JetsyncError(f"{row.path}: {upper.path} is a file in its way", remedy=f"resolve {upper.path}")
        local = row.local is not None
        if self.result.keep is not Keep.BOTH or not (mode.pulls if local else mode.pushes):
            raise JetsyncError(
                f"{row.path}: is a file on one side and a directory on the other",
                remedy="rename or delete one of them"
                + ("" if self.result.keep is Keep.BOTH else "; `--keep both` gives the file another name"),
            )
        name = await self._name_of_copy(row.local_side if local else row.remote_side)
        return Action(verb=Verb.CONFLICT_COPY, row=row, reason="resolved", to=name, local=local)

    async def _name_of_copy(self, side: object) -> str:
        path = self.row.path
        assert isinstance(side, Entry)

        def name(store: StateStore) -> str | None:
            def taken(copy: str) -> bool:
                row = store.row(copy)
                return row.local is not None or row.remote_side is not None

            return Copies(self.site.rules, taken, lambda _path, _entry: False, store.live_copies).name(path, side)

        if found := await self.site.db(name):
            return found
        if names.is_conflict_copy(path):
            raise JetsyncError(f"{path}: is a conflict copy itself, and gets none", remedy="keep local or remote")
        raise JetsyncError(
            f"{path}: has {MAX_COPIES} conflict copies already, or its name is too long for one",
            remedy="resolve the copies first, or keep local or remote",
        )

    # -- carrying it out --

    async def _run(self, action: Action) -> None:
        site = self.site
        if action.verb in (Verb.UPLOAD, Verb.DELETE_REMOTE):
            self.result.saved = await self._save_remote()
        outcome = await repair.run(action, batches=site.batches, call=site.call)
        if outcome is None:
            raise JetsyncError(
                f"{action.path}: nothing can be started now; nothing was done",
                remedy="see `jetsync status`: the server is away, or the mapping is paused or halted; then try again",
            )
        if outcome.result is Result.STALE:
            raise changed(action.path, site.config.name)
        if outcome.error is not None:
            raise outcome.error
        self.result.actions.append((action.verb.value, action.path, action.to))
        if action.verb is Verb.CONFLICT_COPY:  # what it stood in the way of is decided anew
            await site.db(lambda store: store.mark_dirty(store.below(action.path)))
            await site.call(_nothing)
        if action.verb in (Verb.DOWNLOAD, Verb.DELETE_LOCAL):
            self.result.saved = site.directory.trash.keep > 0

    async def _save_remote(self) -> bool:
        """Fetch the version that is going to be overwritten into the trash; whether it is there."""
        site, remote, side = self.site, self.row.remote, self.row.remote_side
        if remote is None or not isinstance(side, Entry) or side.kind is not Kind.FILE or remote.via_link:
            return False
        if site.directory.trash.keep <= 0 or side.size > SAVED_BYTES or site.directory.read_only:
            return False
        known = ObjectInfo(
            bucket=site.bucket.name,
            name=site.config.prefix + self.row.path,
            nuid=remote.nuid,
            size=side.size,
            chunks=remote.chunks,
            digest=side.digest,
            revision=remote.revision,
        )
        try:
            data = await _read(site.bucket, known)
            await asyncio.to_thread(_put_into_trash, site.directory, self.row.path, data, side)
        except (ObjectError, PathError, SpaceError):
            return False  # damaged, gone, or no place for it: it was seen, and is given up
        return True


async def _nothing() -> None:
    """A step that only wakes the loop."""


async def _read(bucket: Bucket, known: ObjectInfo) -> bytes:
    """:raises ObjectError: it is damaged, or not what it was"""
    async with bucket.get(known, verify=False) as reader:
        data = await reader.read()
    if hashlib.sha256(data).digest() != known.digest:
        raise DigestError(f"{known.name}: the bytes don't have the digest that the object promises")
    return data


def _put_into_trash(directory: Directory, path: str, data: bytes, entry: Entry) -> None:
    with directory.stage(path) as staged:
        staged.write(data)
        staged.finish(executable=entry.executable, mtime_ns=entry.mtime_ns)
        directory.put_into_trash(path, staged)


@dataclass(frozen=True, slots=True)
class _Copies:
    """Conflict copies of one path, or one of them."""

    site: Site
    rows: list[Row]
    result: Resolution

    async def resolve(self) -> None:
        if self.result.keep is Keep.BOTH:
            await self.site.db(lambda store: keep_copies(store, [row.path for row in self.rows]))
            self.result.detail = "the copies stay, and aren't listed any more"
            return
        for row in self.rows:
            self._see_that_it_can_go(row)
        if self.result.keep is Keep.LOCAL:
            await self._take_over()
        for row in self.rows:
            await self._drop(row)

    def _see_that_it_can_go(self, row: Row) -> None:
        """:raises JetsyncError: taking the copy away here wouldn't take it away"""
        mode = self.site.rules.mode
        if row.local is None:
            raise JetsyncError(f"{row.path}: is only in the bucket", remedy="rename or delete the object there")
        if not isinstance(row.local_side, Entry):
            raise JetsyncError(f"{row.path}: can't be read here", remedy="see `jetsync status` for the reason")
        if not mode.pushes and row.remote_side is not None:
            raise JetsyncError(
                f"{row.path}: is in the bucket too, where mode {mode.value} changes nothing",
                remedy="resolve it where the mapping writes to the bucket",
            )

    async def _take_over(self) -> None:
        """Put the copy's version at the path, in one step; what was there goes to the trash."""
        if len(self.rows) > 1:
            raise JetsyncError(
                f"{self.result.path}: has {len(self.rows)} conflict copies",
                remedy="name the one to keep: " + ", ".join(row.path for row in self.rows),
            )
        (row,) = self.rows
        path = self.result.path if self.result.path != row.path else names.conflict_base(row.path)
        if path == self.result.path or not names.was_cut(row.path):
            base = await self.site.db(lambda store: store.row(path))
        else:
            raise JetsyncError(f"{row.path}: its name was shortened", remedy="name the path that it is a copy of")
        if base.verdict is Verdict.CONFLICT:
            raise JetsyncError(f"{path}: is itself in conflict", remedy=f"resolve {path} first")
        assert row.local is not None
        await asyncio.to_thread(_put_copy, self.site.directory, row.path, row.local, base)
        self.result.saved = base.local is not None and self.site.directory.trash.keep > 0
        self.result.actions.append((Verb.MOVE_LOCAL.value, row.path, path))
        await self._look([path])

    async def _drop(self, row: Row) -> None:
        assert row.local is not None
        await asyncio.to_thread(self.site.directory.delete, row.path, row.local)
        if self.result.keep is Keep.REMOTE:
            self.result.saved = self.site.directory.trash.keep > 0
            self.result.actions.append((Verb.DELETE_LOCAL.value, row.path, ""))
        await self._look([row.path])

    async def _look(self, paths: list[str]) -> None:
        async def hint() -> None:
            self.site.look(paths)

        await self.site.call(hint)


def _put_copy(directory: Directory, copy: str, local: Local, base: Row) -> None:
    """Make the copy's content what is at the base's path, which is as its row says.

    :raises StaleError: one of them isn't as it was
    """
    entry = local.side
    assert isinstance(entry, Entry)
    if entry.kind is Kind.LINK:
        directory.put_link(base.path, entry.target, base.local)
        return
    assert local.signature is not None
    with directory.open_read(copy, local.signature) as file, directory.stage(base.path) as staged:
        while block := file.read(_BLOCK):
            staged.write(block)
        file.confirm()
        staged.finish(executable=entry.executable, mtime_ns=entry.mtime_ns)
        if staged.digest != entry.digest:
            raise StaleError(f"{copy}: the content changed while the file's times did not", remedy="sync, then resolve")
        directory.put_file(base.path, staged, base.local)
