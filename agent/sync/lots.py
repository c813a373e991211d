"""Small actions in lots: one thread hop, one flush of the file system, for many files instead of for each.

A thread hop, an fsync and a task cost more than a small file. So the actions of a stage are sorted into lots of one
kind (uploads of small files, downloads of small files, local deletes, local moves); what isn't small stays alone. A
lot runs through its steps together, but every action keeps its own expectation and its own outcome:

    upload      read and verify all in one hop  ->  put each, at once
    download    fetch all at once  ->  in one hop: stage all, flush, put all in place, flush
    delete      in one hop: move all to the trash, flush
    move        in one hop: move all, set their metadata, flush
    rename      in the store: read each, at once  ->  one batch for all; or else each by itself

A flush is one syncfs for the lot instead of an fsync for each file and directory; the first one makes the bytes durable
before any name stands for them, the second the names before their rows are committed. Where that isn't worth it (a few
files) or can't be relied on (network file systems), each file is made durable by itself, as a lone action does it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar

from agent.core.entries import Entry, Kind, Local, Row
from agent.core.plan import Action, Verb
from agent.directory import Contents, Directory, Placing, Staged, Whole
from agent.errors import DigestError, JetsyncError, PathError, StaleError
from agent.sync.limits import SMALL

# Actions and bytes of one lot: large enough that what is done once for it doesn't count, small enough that results
# come early, and that a few lots at once stay within SMALL_BYTES.
LOT = 256
LOT_BYTES = 4 << 20
# Files from which on one flush of the whole file system is cheaper than one for each.
FLUSH_FROM = 8

T = TypeVar("T")
S = TypeVar("S")


class LotKind(Enum):
    UPLOAD = "upload"
    DOWNLOAD = "download"
    DELETE = "delete"
    MOVE = "move"
    RENAME = "rename"


def kind_of(action: Action) -> LotKind | None:
    """In which kind of lot the action can run; None: alone."""
    match action.verb:
        case Verb.UPLOAD if _is_small(action):
            return LotKind.UPLOAD
        case Verb.DOWNLOAD if _is_small(action) and action.row.remote is not None and not action.row.remote.via_link:
            return LotKind.DOWNLOAD
        case Verb.DELETE_LOCAL:
            return LotKind.DELETE
        case Verb.MOVE_LOCAL:
            return LotKind.MOVE
        case Verb.MOVE_REMOTE:
            return LotKind.RENAME
        case _:
            return None


def _is_small(action: Action) -> bool:
    return action.entry is not None and action.entry.kind is Kind.FILE and action.entry.size <= SMALL


def divide(stage: Iterable[Action]) -> tuple[deque[list[Action]], deque[Action]]:
    """A stage as lots of two or more, and what runs alone. The order within each kind is kept."""
    open_lots: dict[LotKind, tuple[list[Action], int]] = {}
    lots: deque[list[Action]] = deque()
    alone: deque[Action] = deque()
    for action in stage:
        kind = kind_of(action)
        if kind is None:
            alone.append(action)
            continue
        lot, size = open_lots.get(kind, ([], 0))
        if len(lot) >= LOT or size + action.bytes > LOT_BYTES:
            lots.append(lot)
            lot, size = [], 0
        lot.append(action)
        open_lots[kind] = (lot, size + action.bytes)
    for lot, _ in open_lots.values():
        if len(lot) > 1:
            lots.append(lot)
        else:
            alone.extend(lot)
    return lots, alone


class Disk:
    """What is done to the directory, a lot at a time. Blocking; a failure of one path is its result."""

    def __init__(self, directory: Directory, contents: Contents | None = None) -> None:
        """contents: of files that were read when they were looked at."""
        self._directory = directory
        self._contents = contents
        self._can_flush = not directory.network_file_system

    def read(self, items: Sequence[tuple[str, Local, Entry]]) -> list[bytes | JetsyncError]:
        """The contents of small files, each as its local side says, or the error (StaleError: it isn't)."""
        return [_attempt(lambda item: self.read_one(*item), item) for item in items]

    def read_one(self, path: str, local: Local, entry: Entry) -> bytes:
        """:raises StaleError: the file isn't what the row says any more"""
        assert local.signature is not None
        kept = self._contents.take(path, local.signature) if self._contents is not None else None
        if kept is not None and self._directory.is_unchanged(path, local.signature):
            return kept
        with self._directory.open_read(path, local.signature) as file:
            data: bytes = file.read()
            file.confirm()
        if hashlib.sha256(data).digest() != entry.digest:
            raise StaleError(f"{path}: the content changed while the file's times did not")
        return data

    def write(
        self, items: Sequence[tuple[Row, Entry, bytes] | JetsyncError], *, keep_as: str | None = None
    ) -> list[Local | JetsyncError]:
        """Put contents in place, each under its row's expectation; an error among the items is its own result.

        `keep_as`: see `Directory.put_file`; for one item.
        """
        grouped = self._grouped(len(items))
        results: list[Staged | JetsyncError] = self._staged(items, durable=not grouped)
        try:
            ready = self._flushed(results, grouped=grouped)
            placing = [
                Placing(item[0].path, one, item[0].local)
                for item, one in zip(items, ready, strict=True)
                if isinstance(one, Staged) and not isinstance(item, JetsyncError)
            ]
            if grouped:
                placed = self._flushed([*self._directory.put_many(placing)], grouped=True)
            else:
                put_file = self._directory.put_file
                placed = [_attempt(lambda one: put_file(*one, keep_as=keep_as).local, one) for one in placing]
        finally:
            for one in results:
                if isinstance(one, Staged):
                    one.discard()
        following = iter(placed)
        return [next(following) if isinstance(one, Staged) else one for one in ready]

    def _staged(
        self, items: Sequence[tuple[Row, Entry, bytes] | JetsyncError], *, durable: bool
    ) -> list[Staged | JetsyncError]:
        """Each item staged and verified, or why it isn't."""
        there = [item for item in items if not isinstance(item, JetsyncError)]
        files = [Whole(row.path, data, entry.executable, entry.mtime_ns) for row, entry, data in there]
        staged = iter(self._directory.stage_many(files, durable=durable))
        results: list[Staged | JetsyncError] = []
        for item in items:
            if isinstance(item, JetsyncError):
                results.append(item)
                continue
            one = next(staged)
            row, entry, _ = item
            try:
                if isinstance(one, Staged):
                    check_digest(row.path, one.digest, entry)
                results.append(one)
            except DigestError as error:
                assert isinstance(one, Staged)
                one.discard()
                results.append(error)
        return results

    def delete(self, rows: Sequence[Row]) -> list[Row | JetsyncError]:
        """Move what is at the rows' paths to the trash, each under its row's expectation."""
        grouped = self._grouped(len(rows))

        def delete(row: Row) -> Row:
            assert row.local is not None
            self._directory.delete(row.path, row.local, durable=not grouped)
            return row

        return self._flushed([_attempt(delete, row) for row in rows], grouped=grouped)

    def move(self, items: Sequence[tuple[Row, str, Entry]]) -> list[Local | JetsyncError]:
        """Rename each row's file to another path, then set the entry's metadata there."""
        grouped = self._grouped(len(items))

        def move(item: tuple[Row, str, Entry]) -> Local:
            row, to, entry = item
            assert row.local is not None
            local = self._directory.move(row.path, to, row.local, durable=not grouped)
            with suppress(StaleError, PathError):  # the content has moved; what else differs is seen at the next look
                local = self._directory.set_metadata(to, local, executable=entry.executable, mtime_ns=entry.mtime_ns)
            return local

        return self._flushed([_attempt(move, item) for item in items], grouped=grouped)

    def _grouped(self, count: int) -> bool:
        return self._can_flush and count >= FLUSH_FROM

    def _flushed(self, results: list[T | JetsyncError], *, grouped: bool) -> list[T | JetsyncError]:
        """The results, once they are durable; what can't be made so has failed."""
        if not grouped or all(isinstance(result, JetsyncError) for result in results):
            return results
        try:
            self._directory.sync()
        except JetsyncError as error:
            return [result if isinstance(result, JetsyncError) else error for result in results]
        return results


def check_digest(path: str, digest: bytes, entry: Entry) -> None:
    """:raises DigestError: the bytes aren't those that the object promises"""
    if digest != entry.digest:
        raise DigestError(f"{path}: the bytes don't have the digest that the object promises", remedy="put it again")


def _attempt(work: Callable[[S], T], item: S | JetsyncError) -> T | JetsyncError:
    """The result for an item, or why there is none: its error here, or the one it came with."""
    if isinstance(item, JetsyncError):
        return item
    try:
        return work(item)
    except JetsyncError as error:
        return error


def only(results: Sequence[T | JetsyncError]) -> T:
    """The result of a lot of one. Raises its error."""
    (result,) = results
    if isinstance(result, JetsyncError):
        raise result
    return result


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, at once. The first error ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one, name="lot") for one in work]
    except* JetsyncError as errors:
        raise _first_of(errors) from None
    return [task.result() for task in tasks]


def _first_of(errors: BaseExceptionGroup[JetsyncError]) -> JetsyncError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, JetsyncError)
    return error
