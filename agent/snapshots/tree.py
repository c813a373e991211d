"""What a publication publishes: a directory, or the objects of a bucket below a prefix; as a manifest and its bytes.

A snapshot is whole or isn't made: a path that can't be read or can't be in a snapshot fails the publication and is
named, where a mapping would go on with the rest. What is no file on purpose (sockets, fifos, devices) is left out, and
so is what a .jetsyncignore names.

    DirectoryTree   `read` scans the directory and hashes what its rows don't know (the state store remembers
                    signatures, so publishing again costs a scan); `unchanged` scans again. Together they say that what
                    was read was there at one time: whoever publishes asks `unchanged` when all bytes are sent
    BucketTree      the metas have names, digests and bits; `unchanged` compares the newest revision

`open` gives bytes that have the digest that the manifest says, or fails with StaleError: then the tree has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.core.entries import Entry, Kind, Local, Obstacle, Row
from agent.core.filters import Filters
from agent.core.manifest import Manifest
from agent.directory import Directory, DirectoryOptions
from agent.errors import ObjectError, SnapshotError, StaleError
from agent.objectstore import Bucket, MetaMessage, ObjectInfo
from agent.state import StateStore
from agent.sync.db import Db
from agent.sync.looks import survey
from agent.sync.remote import Outsider, Scope, place, resolved

BLOCK = 1 << 20
_LOT = 512
# How often a tree that keeps changing is looked through before what is known of it is tried.
_ROUNDS = 3
_TOLD = 10


class Tree(Protocol):
    async def read(self) -> Manifest:
        """The tree as it is now.

        :raises SnapshotError: something in it can't be published; names it
        """
        ...

    def open(self, path: str, entry: Entry) -> AsyncIterator[bytes]:
        """The bytes of one file.

        :raises StaleError: it isn't what `read` has seen any more
        """
        ...

    async def unchanged(self) -> bool:
        """Whether the tree still is what `read` has seen."""
        ...


@dataclass(slots=True)
class _Seen:
    """What a scan has found: paths to look at, rows to forget, what is in the way, and the filters as they are now."""

    filters: Filters
    look: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    problems: list[tuple[str, Obstacle]] = field(default_factory=list)


class DirectoryTree:
    """A directory that is published. Its rows in the state store have the local side only."""

    def __init__(self, path: Path, db: Db) -> None:
        self._path = path
        self._db = db
        self._directory: Directory | None = None
        self._filters = Filters((), ())

    async def close(self) -> None:
        if self._directory is not None:
            await asyncio.to_thread(self._directory.close)
            self._directory = None

    async def read(self) -> Manifest:
        """See `Tree`.

        :raises RootError: the directory isn't there
        """
        await self.close()  # it may be another directory of the same name now
        options = DirectoryOptions(read_only=True, empty_directories=True)
        directory = self._directory = await asyncio.to_thread(Directory.open, self._path, options=options)
        for _ in range(_ROUNDS):
            if not await self._refresh(directory):
                break
        rows = await self._db(lambda store: [(row.path, row.local) for row in store.all_rows() if row.local])
        obstacles = [(path, local.side) for path, local in rows if isinstance(local.side, Obstacle)]
        _complain(str(self._path), obstacles)
        return Manifest.of((path, local.side) for path, local in rows if isinstance(local.side, Entry))

    async def _refresh(self, directory: Directory) -> bool:
        """Bring the rows up to date; whether anything had changed.

        :raises SnapshotError: something that can't be looked at is in the way
        """
        seen = await asyncio.to_thread(self._walk, directory)
        changed = bool(seen.away) or seen.filters is not self._filters
        self._filters = seen.filters
        _complain(str(self._path), seen.problems)
        if seen.away:
            await self._db(lambda store: _drop(store, seen.away))
        for start in range(0, len(seen.look), _LOT):
            changed |= await self._look(directory, seen.look[start : start + _LOT])
        return changed

    def _walk(self, directory: Directory) -> _Seen:
        """In a thread: what differs from the rows."""
        with self._db.reader() as reader:
            scan = directory.scan(reader, self._filters)
            seen = _Seen(self._filters)
            for hint in scan:
                if hint.obstacle is not None:
                    seen.problems.append((hint.path, hint.obstacle))
                elif hint.kind == "look":
                    seen.look.append(hint.path)
                else:
                    seen.away.append(hint.path)
        seen.filters = scan.filters
        return seen

    async def _look(self, directory: Directory, paths: list[str]) -> bool:
        """Hash what is new; whether it is something else than the rows have."""
        known = await self._db(lambda store: store.rows(paths))
        found = await asyncio.to_thread(survey, directory, list(known.values()), large_too=True, stop=lambda: False)
        made = [replace(known[path], local=local) for path, local in (found.changed | found.refreshed).items()]
        await self._db(lambda store: store.put(made, dirty=False))
        return bool(found.changed)

    async def open(self, path: str, entry: Entry) -> AsyncIterator[bytes]:
        """See `Tree`."""
        directory = self._directory
        assert directory is not None
        row: Row = await self._db(lambda store: store.row(path))
        if row.local is None or row.local.signature is None or row.local.side != _known_as(row.local, entry):
            raise StaleError(f"{path}: it changed while it was published")
        file = await asyncio.to_thread(directory.open_read, path, row.local.signature)
        digest = hashlib.sha256()
        try:
            while block := await asyncio.to_thread(file.read, BLOCK):
                await asyncio.to_thread(digest.update, block)
                yield block
            await asyncio.to_thread(file.confirm)
        finally:
            file.close()
        if digest.digest() != entry.digest:
            raise StaleError(f"{path}: the content changed while the file's times did not")

    async def unchanged(self) -> bool:
        """See `Tree`."""
        assert self._directory is not None
        with suppress(SnapshotError):
            return not await self._refresh(self._directory)
        return False


def _known_as(local: Local, entry: Entry) -> Entry | Obstacle:
    """The local side, if it is the entry of the manifest, which knows no times."""
    side = local.side
    same = isinstance(side, Entry) and side.same_content(entry) and bool(side.executable) == bool(entry.executable)
    return side if same else entry


def _drop(store: StateStore, paths: list[str]) -> None:
    with store.transaction(durable=False):
        for path in paths:
            store.drop(path)


def _complain(what: str, problems: list[tuple[str, Obstacle]]) -> None:
    """:raises SnapshotError: there are problems, those that are left out on purpose not counted"""
    problems = [(path, found) for path, found in problems if not found.reason.skipped]
    if not problems:
        return
    told = "; ".join(f"{path}: {found.reason.value} ({found.detail})" for path, found in problems[:_TOLD])
    more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
    raise SnapshotError(
        f"{what} can't be published as a whole: {told}{more}", remedy="mend them, or name them in a .jetsyncignore"
    )


class BucketTree:
    """The objects of a bucket below a prefix, as they are when `read` lists them."""

    def __init__(self, bucket: Bucket, prefix: str, *, repository: bool) -> None:
        self._bucket = bucket
        self._scope = Scope(
            bucket=bucket.name,
            prefix=prefix,
            pulls_only=True,
            symlinks="link",
            max_size=None,
            empty_directories=True,
            repository=repository,
            filters=Filters((), ()),
        )
        self._at: dict[str, tuple[Bucket, ObjectInfo]] = {}  # path -> the object that has the bytes
        self._revision = 0

    async def read(self) -> Manifest:
        """See `Tree`."""
        self._revision = await self._bucket.newest_revision()
        self._at.clear()
        bad: list[MetaMessage] = []
        entries: list[tuple[str, Entry]] = []
        problems: list[tuple[str, Obstacle]] = []
        infos = await self._bucket.list(on_bad=bad.append)
        for message in [MetaMessage(info.revision, info.time_ns, info.name, info) for info in infos] + bad:
            placed = place(message, self._scope)
            if isinstance(placed, Outsider):
                if placed.reason is not None and placed.name.startswith(self._scope.prefix):
                    problems.append((placed.name, Obstacle(placed.reason, placed.detail)))
                continue
            path, remote = placed
            side = remote.side
            assert message.info is not None
            self._at[path] = (self._bucket, message.info)
            if remote.via_link:
                self._at[path] = bucket, target = await self._bucket.resolve(message.info)
                del bucket
                side = resolved(remote, message.info, target, self._scope).side
            if isinstance(side, Obstacle):
                problems.append((path, side))
            elif side is not None:
                entries.append((path, side))
        _complain(f"bucket {self._bucket.name!r}", problems)
        return Manifest.of(entries)

    async def open(self, path: str, entry: Entry) -> AsyncIterator[bytes]:
        """See `Tree`."""
        bucket, info = self._at[path]
        assert entry.kind is Kind.FILE
        try:
            async with bucket.get(info, follow_links=False) as reader:
                async for block in reader:
                    yield block
        except ObjectError as error:
            raise StaleError(f"{path}: its object was replaced or damaged: {error.message}") from error

    async def unchanged(self) -> bool:
        """See `Tree`. Any write to the bucket counts, other prefixes too: then it is listed again, which is cheap."""
        return await self._bucket.newest_revision() == self._revision
