"""Actions -> outcomes: one action, or a lot of small ones (`lots`), each under the expectation that its row states.

Nothing here decides. An action names a row; the row's local signature is the precondition on the disk, its revision
the precondition in the store. When one doesn't hold the outcome is STALE: the path is looked at again, the newest meta
is read again, and the next plan decides anew. Every other `JetsyncError` makes the outcome FAILED; nothing is raised
but cancellation.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from agent.core.entries import Entry, Gone, Kind, Local, Remote, Row
from agent.core.plan import Action, Verb
from agent.core.reconcile import Rules, agreed
from agent.directory import Contents, Directory
from agent.errors import (
    ChunksError,
    DigestError,
    JetsyncError,
    ObjectNotFoundError,
    RevisionError,
    StaleError,
    StoreUnavailableError,
)
from agent.objectstore import Bucket, Link, ObjectInfo, Renaming, SmallObject, new_nuid
from agent.sync.failures import Failures
from agent.sync.limits import Limits
from agent.sync.lots import LotKind, gathered, kind_of, only
from agent.sync.outcome import SAME, Change, OldChunks, Outcome, Result
from agent.sync.remote import Scope, metadata_of, remote_of
from agent.sync.transfer import Transfer

T = TypeVar("T")


class Executor:
    """Runs the actions of one mapping."""

    def __init__(
        self,
        *,
        directory: Directory,
        bucket: Bucket,
        scope: Callable[[], Scope],
        limits: Limits,
        rules: Rules,
        expect: Callable[[Iterable[str]], None] = lambda _: None,
        contents: Contents | None = None,
    ) -> None:
        """expect: told the paths of a lot of small uploads when it begins. contents: what has been read already."""
        self._directory = directory
        self._bucket = bucket
        self._scope = scope
        self._rules = rules
        self._expect = expect
        self._failures = Failures(bucket=bucket, scope=scope)
        self._limits = limits
        self._transfer = Transfer(directory=directory, bucket=bucket, limits=limits, contents=contents)
        self._verbs: dict[Verb, Callable[[Action, str | None], Awaitable[Outcome]]] = {
            Verb.UPLOAD: self._upload,
            Verb.DOWNLOAD: self._download,
            Verb.DELETE_LOCAL: self._delete_local,
            Verb.DELETE_REMOTE: self._delete_remote,
            Verb.MOVE_LOCAL: self._move_local,
            Verb.MOVE_REMOTE: self._move_remote,
            Verb.UPDATE_METADATA: self._update_metadata,
            Verb.CONFLICT_COPY: self._conflict_copy,
        }
        self._lots: dict[LotKind, Callable[[Sequence[Action], Mapping[str, str]], Awaitable[list[Outcome]]]] = {
            LotKind.UPLOAD: self._upload_lot,
            LotKind.DOWNLOAD: self._download_lot,
            LotKind.DELETE: self._delete_lot,
            LotKind.MOVE: self._move_lot,
            LotKind.RENAME: self._rename_lot,
        }

    async def run(self, action: Action, nuid: str | None) -> Outcome:
        """Run one action. `nuid`: the journalled id under which an upload stores its chunks."""
        return await self._guarded(action, nuid, lambda: self._verbs[action.verb](action, nuid))

    async def run_lot(self, actions: Sequence[Action], nuids: Mapping[str, str]) -> list[Outcome]:
        """Run a lot as `lots.divide` makes them. `nuids`: path -> nuid, for uploads."""
        kind = kind_of(actions[0])
        assert kind is not None
        async with self._limits.lot(sum(action.bytes for action in actions)):
            return await self._lots[kind](actions, nuids)

    async def _guarded(self, action: Action, nuid: str | None, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        try:
            outcome = await work()
        except StoreUnavailableError as error:
            # The nuid stays in the journal: whether its meta was stored isn't known.
            return Outcome(action, Result.FAILED, error=error)
        except (StaleError, RevisionError, ObjectNotFoundError) as error:
            return await self._failures.stale(action, error, nuid)
        except JetsyncError as error:
            return self._failures.failed(action, error, nuid)
        if nuid and outcome.result is Result.APPLIED:
            outcome.settled_nuids.append(nuid)
        return outcome

    async def _each(
        self,
        actions: Sequence[Action],
        results: Sequence[T | JetsyncError],
        finish: Callable[[Action, T], Awaitable[Outcome]],
        nuids: Mapping[str, str],
    ) -> list[Outcome]:
        """The outcomes of a lot, at once: what its common step gave for each action, brought to an end."""
        outcomes: list[Outcome] = []

        async def one(action: Action, result: T | JetsyncError) -> None:
            async def work() -> Outcome:
                if isinstance(result, JetsyncError):
                    raise result
                return await finish(action, result)

            outcomes.append(await self._guarded(action, nuids.get(action.row.path), work))

        async with asyncio.TaskGroup() as group:
            for action, result in zip(actions, results, strict=True):
                group.create_task(one(action, result), name=f"{action.verb.value} {action.row.path}")
        return outcomes

    async def _finished(
        self,
        actions: Sequence[Action],
        results: Sequence[T | JetsyncError],
        finish: Callable[[Action, T], Outcome],
        nuids: Mapping[str, str],
    ) -> list[Outcome]:
        """The same where nothing is left to wait for but what failures ask for."""
        outcomes: list[Outcome] = []
        failed: list[tuple[Action, JetsyncError]] = []
        for action, result in zip(actions, results, strict=True):
            if isinstance(result, JetsyncError):
                failed.append((action, result))
            else:
                outcomes.append(finish(action, result))

        async def never(_action: Action, _result: object) -> Outcome:
            raise AssertionError("unreachable")

        if failed:
            outcomes += await self._each([one for one, _ in failed], [error for _, error in failed], never, nuids)
        return outcomes

    # -- the remote side -----------------------------------------------------------------------------------------

    async def _upload_lot(self, actions: Sequence[Action], nuids: Mapping[str, str]) -> list[Outcome]:
        self._expect([action.row.path for action in actions])
        contents = await self._transfer.read_lot(
            [(action.row.path, _present(action.row), _wanted(action)) for action in actions]
        )
        name_of = self._scope().name_of
        objects = []
        for action, content in zip(actions, contents, strict=True):
            if isinstance(content, bytes):
                row, entry = action.row, _wanted(action)
                nuid = nuids.get(row.path) or new_nuid()
                name, metadata = name_of(row.path), metadata_of(entry)
                objects.append(SmallObject(name, content, entry.digest, nuid, row.revision, metadata))
        stored = zip(objects, await self._transfer.put_lot(objects), strict=True)
        results: list[tuple[SmallObject, int] | JetsyncError] = []
        for content in contents:
            if isinstance(content, JetsyncError):
                results.append(content)
                continue
            sent, revision = next(stored)
            results.append(revision if isinstance(revision, JetsyncError) else (sent, revision))

        def done(action: Action, stored: tuple[SmallObject, int]) -> Outcome:
            sent, revision = stored
            outcome = self._uploaded(action, sent.name, revision, sent.nuid, 1 if sent.data else 0)
            outcome.settled_nuids.append(sent.nuid)
            return outcome

        return await self._finished(actions, results, done, nuids)

    async def _upload(self, action: Action, nuid: str | None) -> Outcome:
        row, entry = action.row, _wanted(action)
        name = self._scope().name_of(row.path)
        metadata = metadata_of(entry)
        if entry.kind is Kind.LINK:
            link = Link(self._bucket.name, self._scope().name_of(entry.target))
            info = await self._bucket.add_link(name, link, metadata=metadata, expected_revision=row.revision)
        elif entry.kind is Kind.DIRECTORY:
            info = await self._bucket.put(name, b"", metadata=metadata, expected_revision=row.revision, purge_old=False)
        else:
            info = await self._transfer.upload(
                row.path, _present(row), name, metadata, expected_revision=row.revision, nuid=nuid
            )
        return self._uploaded(action, name, info.revision, info.nuid, info.chunks)

    def _uploaded(self, action: Action, name: str, revision: int, nuid: str, chunks: int) -> Outcome:
        row, entry = action.row, _wanted(action)
        return Outcome(
            action,
            Result.APPLIED,
            [self._agreed(row, _present(row), Remote(entry, revision, nuid, chunks))],
            bytes_up=entry.size if entry.kind is Kind.FILE else 0,
            old_chunks=_replaced(row, name),
        )

    def _agreed(self, row: Row, local: Local, remote: Remote) -> Change:
        """Both sides hold the same now: `local` and `remote`, as read back."""
        assert isinstance(local.side, Entry)
        assert isinstance(remote.side, Entry)
        ancestor = agreed(local.side, remote.side, self._rules)
        return Change(row.path, ancestor=ancestor, local=local, remote=remote, seen=row.revision)

    async def _delete_remote(self, action: Action, _nuid: str | None) -> Outcome:
        row = action.row
        name = self._scope().name_of(row.path)
        known = ObjectInfo(self._bucket.name, name, revision=row.revision)  # what the precondition says: no read
        deleted = await self._bucket.delete(name, expected_revision=row.revision, purge=False, known=known)
        outcome = Outcome(action, Result.APPLIED)
        gone = Remote(None, deleted.revision, gone=Gone.DELETED)
        outcome.changes = [Change(row.path, ancestor=None, remote=gone, seen=row.revision)]
        outcome.old_chunks = _replaced(row, name)
        return outcome

    async def _rename_lot(self, actions: Sequence[Action], nuids: Mapping[str, str]) -> list[Outcome]:
        """One batch for all. When that fails in any way each is tried by itself, which tells what is the matter."""
        scope = self._scope()

        async def read(action: Action) -> Renaming:
            assert action.to_row is not None
            source = await self._bucket.info(scope.name_of(action.row.path))
            if source.revision != action.row.revision:
                raise RevisionError(f"{source.name} was written meanwhile", actual=source.revision)
            metadata = {**source.metadata, **metadata_of(_wanted(action))}
            return Renaming(source, scope.name_of(action.to), action.to_row.revision, metadata)

        renamed: list[ObjectInfo] | None = None
        with suppress(JetsyncError):
            renamed = await self._bucket.rename_many(await gathered([read(action) for action in actions]))

        async def done(action: Action, info: ObjectInfo | None) -> Outcome:
            return self._renamed(action, info) if info is not None else await self._move_remote(action, None)

        return await self._each(actions, renamed or [None] * len(actions), done, nuids)

    def _renamed(self, action: Action, info: ObjectInfo) -> Outcome:
        to_row, entry = action.to_row, _wanted(action)
        assert to_row is not None
        outcome = Outcome(action, Result.APPLIED)
        outcome.changes = [_moved_away(action.row), self._agreed(to_row, _present(to_row), _stored(info, entry))]
        return outcome

    async def _move_remote(self, action: Action, _nuid: str | None) -> Outcome:
        row, to_row, entry, scope = action.row, action.to_row, _wanted(action), self._scope()
        assert to_row is not None
        current = await self._bucket.info(scope.name_of(row.path))
        try:
            info = await self._bucket.rename(
                scope.name_of(row.path),
                scope.name_of(to_row.path),
                expected_revision=row.revision,
                expected_new=to_row.revision,
                metadata={**current.metadata, **metadata_of(entry)},
            )
        except ChunksError:
            return await self._fill(action, to_row)
        return self._renamed(action, info)

    async def _fill(self, action: Action, to_row: Row) -> Outcome:
        """A rename in two steps between which somebody purged the chunks: the new name is a meta without content.

        The file is uploaded over it at once: no row ever says of that revision anything but what it is.
        """
        info = await self._bucket.info(self._scope().name_of(to_row.path))
        hollow = replace(to_row, remote=remote_of(info, to_row.path, self._scope()))
        outcome = await self._upload(replace(action, row=hollow, to="", to_row=None), None)
        outcome.action = action
        outcome.changes.insert(0, _moved_away(action.row))
        return outcome

    # -- the local side ------------------------------------------------------------------------------------------

    async def _download_lot(self, actions: Sequence[Action], nuids: Mapping[str, str]) -> list[Outcome]:
        scope = self._scope()
        items = [(action.row, _wanted(action), self._object(action.row, _wanted(action), scope)) for action in actions]
        return await self._finished(
            actions,
            await self._transfer.download_lot(items),
            lambda action, local: self._downloaded(action, local, _wanted(action).size),
            nuids,
        )

    def _downloaded(self, action: Action, local: Local, fetched: int) -> Outcome:
        row = action.row
        assert row.remote is not None
        return Outcome(action, Result.APPLIED, bytes_down=fetched, changes=[self._agreed(row, local, row.remote)])

    async def _download(self, action: Action, _nuid: str | None) -> Outcome:
        return await self._fetch(action, keep_as=None)

    async def _fetch(self, action: Action, *, keep_as: str | None) -> Outcome:
        """Bring the remote side's version to the path; the file that it replaces goes to the trash or to `keep_as`."""
        row, entry = action.row, _wanted(action)
        assert row.remote is not None
        fetched = 0
        if entry.kind is Kind.LINK:
            put = functools.partial(self._directory.put_link, row.path, entry.target, row.local, keep_as=keep_as)
            local = (await asyncio.to_thread(put)).local
        elif entry.kind is Kind.DIRECTORY:
            local = await asyncio.to_thread(self._directory.make_directory, row.path)
        else:
            bucket, info = await self._source(row, entry)
            local = await self._transfer.download(row, entry, bucket, info, keep_as=keep_as)
            fetched = entry.size
        outcome = self._downloaded(action, local, fetched)
        if keep_as:
            outcome.look = [keep_as]
        return outcome

    async def _source(self, row: Row, entry: Entry) -> tuple[Bucket, ObjectInfo]:
        """The object to read: as the row knows it, or what the link that leads out of the mapping resolves to."""
        assert row.remote is not None
        if not row.remote.via_link:
            return self._bucket, self._object(row, entry, self._scope())
        name = self._scope().name_of(row.path)
        link = await self._bucket.info(name)
        bucket, target = await self._bucket.resolve(link)
        if target.digest != entry.digest:
            raise DigestError(f"{name}: the link's target isn't what the link promised", remedy="publish it again")
        return bucket, target

    def _object(self, row: Row, entry: Entry, scope: Scope) -> ObjectInfo:
        """The row's object, as the row knows it."""
        remote = row.remote
        assert remote is not None
        return ObjectInfo(
            bucket=self._bucket.name,
            name=scope.name_of(row.path),
            nuid=remote.nuid,
            size=entry.size,
            chunks=remote.chunks,
            digest=entry.digest,
            revision=remote.revision,
        )

    async def _delete_lot(self, actions: Sequence[Action], nuids: Mapping[str, str]) -> list[Outcome]:
        rows = await asyncio.to_thread(self._transfer.disk.delete, [action.row for action in actions])

        def done(action: Action, row: Row) -> Outcome:
            change = Change(row.path, ancestor=None, local=None, seen=row.revision)
            return Outcome(action, Result.APPLIED, changes=[change])

        return await self._finished(actions, rows, done, nuids)

    async def _delete_local(self, action: Action, _nuid: str | None) -> Outcome:
        return only(await self._delete_lot([action], {}))

    async def _move_lot(self, actions: Sequence[Action], nuids: Mapping[str, str]) -> list[Outcome]:
        items = [(action.row, action.to, _wanted(action)) for action in actions]
        locals_ = await asyncio.to_thread(self._transfer.disk.move, items)

        def done(action: Action, local: Local) -> Outcome:
            row, to_row = action.row, action.to_row
            assert to_row is not None
            assert to_row.remote is not None
            moved = [
                Change(row.path, ancestor=None, local=None, seen=row.revision),
                self._agreed(to_row, local, to_row.remote),
            ]
            return Outcome(action, Result.APPLIED, changes=moved)

        return await self._finished(actions, locals_, done, nuids)

    async def _move_local(self, action: Action, _nuid: str | None) -> Outcome:
        return only(await self._move_lot([action], {}))

    # -- both ----------------------------------------------------------------------------------------------------

    async def _update_metadata(self, action: Action, _nuid: str | None) -> Outcome:
        return await (self._set_local(action) if action.local else self._set_remote(action))

    async def _set_local(self, action: Action) -> Outcome:
        """A failed set is recorded in the ancestor, not retried (DESIGN section 4)."""
        row, entry = action.row, _wanted(action)
        assert row.remote is not None
        set_metadata = functools.partial(
            self._directory.set_metadata,
            row.path,
            _present(row),
            executable=entry.executable,
            mtime_ns=entry.mtime_ns,
        )
        local = await asyncio.to_thread(set_metadata)
        return Outcome(action, Result.APPLIED, changes=[self._agreed(row, local, row.remote)])

    async def _set_remote(self, action: Action) -> Outcome:
        row, entry = action.row, _wanted(action)
        name = self._scope().name_of(row.path)
        current = await self._bucket.info(name)
        metadata = {**current.metadata, **metadata_of(entry)}
        info = await self._bucket.update_meta(name, metadata=metadata, expected_revision=row.revision)
        return Outcome(action, Result.APPLIED, changes=[self._agreed(row, _present(row), _stored(info, entry))])

    async def _conflict_copy(self, action: Action, _nuid: str | None) -> Outcome:
        row = action.row
        if not action.local:
            return await self._rename_remote_copy(action)
        if action.entry is not None:
            return await self._fetch(action, keep_as=action.to)
        assert row.local is not None
        await asyncio.to_thread(self._directory.move, row.path, action.to, row.local)
        outcome = Outcome(action, Result.APPLIED, look=[action.to])
        outcome.changes = [Change(row.path, ancestor=None, local=None, seen=row.revision, dirty=True)]
        return outcome

    async def _rename_remote_copy(self, action: Action) -> Outcome:
        """The bucket has a file where there is, or is to be, a directory: it gets the copy's name in the bucket."""
        row, scope = action.row, self._scope()
        taken = await self._bucket_revision(action.to)
        info = await self._bucket.rename(
            scope.name_of(row.path), scope.name_of(action.to), expected_revision=row.revision, expected_new=taken
        )
        outcome = Outcome(action, Result.APPLIED)
        outcome.changes = [
            # A file that was agreed on follows its object to the new name: the ancestor says that it may.
            replace(_moved_away(row), ancestor=SAME, dirty=True),
            Change(action.to, remote=remote_of(info, action.to, scope), dirty=True),
        ]
        return outcome

    async def _bucket_revision(self, path: str) -> int:
        """The precondition for a new object at `path`: that of its marker, when it was there before."""
        try:
            info = await self._bucket.info(self._scope().name_of(path), show_deleted=True)
        except ObjectNotFoundError:
            return 0
        return info.revision if info.deleted else 0


def _present(row: Row) -> Local:
    assert row.local is not None, f"{row.path} has no local side"
    return row.local


def _wanted(action: Action) -> Entry:
    assert action.entry is not None, f"{action.verb.value} {action.row.path} doesn't say what shall be there"
    return action.entry


def _stored(info: ObjectInfo, entry: Entry) -> Remote:
    return Remote(entry, info.revision, nuid=info.nuid, chunks=info.chunks)


def _moved_away(row: Row) -> Change:
    """The old name after a rename: a marker, whose own revision the follower will tell."""
    gone = Remote(None, row.revision, gone=Gone.DELETED)
    return Change(row.path, ancestor=None, remote=gone, seen=row.revision)


def _replaced(row: Row, name: str) -> list[OldChunks]:
    remote = row.remote
    return [OldChunks(remote.nuid, name)] if remote and remote.nuid and remote.chunks else []
