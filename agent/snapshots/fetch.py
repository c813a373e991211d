"""What a subscriber takes from the store: which snapshot, what it says, and its bytes.

    wanted        the channel as the leader has it, or the pinned id. Where publishers are named, only what one of them
                  has signed, and no record older than the last one taken
    Source.open   the snapshot's bucket: sealed (or a mirror, which nobody can write), its manifest the one with the id
                  and digest that are wanted, and its metas saying the same as the manifest
    Source.fetch  content into a version that is being built, each digest once

Nothing that a bucket says is believed. A file's object must be a link to the content of just the digest that the
manifest has, in this repository, or an object with that digest; the content must be no link; and the bytes are hashed
by whoever writes them. Whether content is there is seen where it is needed: a file that the previous version has is
installed although its content has been deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from agent.config.model import Subscription
from agent.core import channels, manifest
from agent.core.channels import Accepted, Record
from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest
from agent.directory import Building
from agent.errors import (
    BadMetaError,
    BucketNotFoundError,
    ChannelError,
    ChunksError,
    DigestError,
    LinkError,
    NoChannelError,
    ObjectNotFoundError,
    RevisionError,
    SnapshotError,
)
from agent.objectstore import Bucket, Link, ObjectInfo, Reader
from agent.snapshots.many import each
from agent.snapshots.report import Progress
from agent.snapshots.repository import Repository, read_manifest
from agent.snapshots.threads import Threads
from agent.sync.limits import SMALL, Limits

_TRANSFERS = 4
# Small files written in one thread hop: files, and bytes.
_LOT = 256
_LOT_BYTES = 4 << 20
_NOT_TO_BE_HAD = (
    BucketNotFoundError,
    ObjectNotFoundError,
    BadMetaError,
    ChunksError,
    DigestError,
    LinkError,
    RevisionError,
)
_HEAL = "publish again, which puts content that is missing or damaged"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The snapshot to install. manifest: its full digest, "" where only the id is known. record: that of a trusted
    publisher, to be noted as taken."""

    snapshot: str
    manifest: str = ""
    record: Record | None = None


class Opening(Protocol):
    """Opens what is read from, each when it is needed (`reach`)."""

    async def repository(self) -> Repository: ...

    async def snapshot(self, identity: str) -> Bucket:
        """:raises SnapshotError: there is no such snapshot"""
        ...


async def wanted(opening: Opening, config: Subscription, accepted: Accepted) -> Wanted:
    """What the subscription is to have now. accepted: the record that was taken last.

    :raises ChannelError: the channel doesn't exist, leads nowhere, or isn't to be trusted
    """
    if config.snapshot is not None:
        return Wanted(config.snapshot)
    name = config.channel or ""
    repository = await opening.repository()
    channel = await repository.channel(name)
    if channel is None:
        raise NoChannelError(
            f"repository {repository.name!r} has no channel {name!r}",
            remedy=f"publish something there, or see which there are: jetsync snapshot list {repository.name}",
        )
    record = channel.record
    if not config.trusted_publishers:
        return Wanted(channel.snapshot, record.manifest if record is not None else "")
    if record is None or not channel.signer:
        raise ChannelError(
            f"channel {name!r} isn't signed, or not validly, and trusted_publishers is set",
            remedy=f"publish with sign_with, or promote again with the key: jetsync snapshot promote {repository.name}",
        )
    if channel.signer not in config.trusted_publishers:
        raise ChannelError(
            f"channel {name!r} is signed by {channel.signer}, which isn't among trusted_publishers",
            remedy="publish with a trusted key, or trust this one",
        )
    channels.check_order(record, accepted)
    return Wanted(channel.snapshot, record.manifest, record)


class Source:
    """A snapshot that may be installed: complete and consistent, as far as metas can tell."""

    def __init__(
        self, opening: Opening, bucket: Bucket, tree: Manifest, copies: dict[str, ObjectInfo], threads: Threads
    ) -> None:
        self._opening = opening
        self._bucket = bucket
        self.manifest = tree
        self._copies = copies
        self._threads = threads
        self.downloads = 0
        self.bytes_down = 0

    @classmethod
    async def open(cls, opening: Opening, what: Wanted, config: Subscription, threads: Threads) -> Source:
        """:raises SnapshotError: it isn't complete, contradicts itself, or isn't to be trusted"""
        bucket = await opening.snapshot(what.snapshot)
        repository = manifest.repository_of(bucket.origin or bucket.name, what.snapshot)
        if not bucket.sealed and bucket.origin is None:
            raise SnapshotError(
                f"snapshot {what.snapshot} isn't sealed: it was never completed",
                remedy="publish again, or move the channel to another one",
            )
        stated = await read_manifest(bucket, what.snapshot, expected=what.manifest)
        if config.trusted_publishers and what.record is None and stated.signer not in config.trusted_publishers:
            by = f"is signed by {stated.signer}" if stated.signer else "isn't signed, or not validly"
            raise SnapshotError(
                f"snapshot {what.snapshot} {by}, and trusted_publishers has others", remedy="publish with a trusted key"
            )
        bad: list[str] = []
        infos = await bucket.list(on_bad=lambda message: bad.append(message.name))
        wrong = f"{bad[0]!r} has no valid meta" if bad else _contradiction(stated.manifest, infos, bucket, repository)
        if wrong:
            raise SnapshotError(
                f"snapshot {what.snapshot} isn't what its manifest says: {wrong}",
                remedy="publish again, or move the channel to another one",
            )
        copies = {info.name: info for info in infos if info.link is None}
        return cls(opening, bucket, stated.manifest, copies, threads)

    # -- bytes -------------------------------------------------------------------------------------------------------

    async def fetch(self, building: Building, on_progress: Progress) -> None:
        """Get each content that is missing, to the first of its paths.

        :raises SnapshotError: content is missing or damaged; the first path that needs it is named
        :raises PathError, SpaceError, StoreUnavailableError
        """
        lot = _Lot(building, self._threads)
        limits = Limits(transfers=_TRANSFERS, upload=0, download=0)
        total = building.bytes_missing

        def came(size: int) -> None:
            self.bytes_down += size
            on_progress(self.bytes_down, total)

        async def get(path: str) -> None:
            entry = self.manifest.entries[path]
            async with limits.transfer(entry.size):
                with _named(path):
                    bucket, info = await self._content(path, entry)
                    async with bucket.get(info, follow_links=False, verify=False) as reader:
                        if entry.size <= SMALL:
                            data = await reader.read()
                            came(len(data))
                            await lot.add(path, data)
                        else:
                            await self._write(reader, path, entry, building, came)
            self.downloads += 1

        await each([paths[0] for paths in building.missing.values()], get)
        with _named("a file"):
            await lot.write()

    async def _write(
        self, reader: Reader, path: str, entry: Entry, building: Building, came: Callable[[int], None]
    ) -> None:
        file = await self._threads(building.open_new, path, entry)
        try:
            async for group in reader.groups():
                await self._threads(file.write_all, group)
                came(sum(map(len, group)))
            await self._threads(file.finish)
        finally:
            file.close()

    async def _content(self, path: str, entry: Entry) -> tuple[Bucket, ObjectInfo]:
        """The object with the bytes of a file, which is no link."""
        copy = self._copies.get(path)
        if copy is not None:
            return self._bucket, copy
        bucket = (await self._opening.repository()).bucket
        info = await bucket.info(manifest.content_name(entry.digest))
        if info.link is not None:
            raise LinkError(f"{bucket.name}/{info.name} is a link, where content must be")
        if (info.digest, info.size) != (entry.digest, entry.size):
            raise DigestError(f"{bucket.name}/{info.name} was replaced by something else")
        return bucket, info


class _Lot:
    """Small files on their way to the disk, many at a time."""

    def __init__(self, building: Building, threads: Threads) -> None:
        self._building = building
        self._threads = threads
        self._files: list[tuple[str, bytes]] = []
        self._bytes = 0

    async def add(self, path: str, data: bytes) -> None:
        self._files.append((path, data))
        self._bytes += len(data)
        if len(self._files) >= _LOT or self._bytes >= _LOT_BYTES:
            await self.write()

    async def write(self) -> None:
        files, self._files, self._bytes = self._files, [], 0
        if files:
            await self._threads(self._building.put, files)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """What is wrong with content becomes an error of the snapshot that names the path.

    :raises SnapshotError
    """
    try:
        yield
    except _NOT_TO_BE_HAD as error:
        raise SnapshotError(f"the content of {path} can't be had: {error.message}", remedy=_HEAL) from error


def _contradiction(tree: Manifest, infos: list[ObjectInfo], bucket: Bucket, repository: str) -> str:
    """The first thing in which the bucket differs from its manifest, in words; "" for none."""
    there = {info.name: info for info in infos}
    here = {bucket.name, bucket.origin}
    for path, entry in tree.entries.items():
        info = there.pop(path, None)
        if info is None:
            return f"{path!r} has no object"
        link = info.link
        if entry.kind is Kind.FILE and link is None:
            if (info.digest, info.size) != (entry.digest, entry.size):
                return f"{path!r} is another object"
        elif entry.kind is Kind.FILE:
            if link != Link(repository, manifest.content_name(entry.digest)):
                return f"{path!r} leads elsewhere"
        elif entry.kind is Kind.LINK:
            if link is None or link.bucket not in here or link.name != entry.target:
                return f"{path!r} leads elsewhere"
        elif link is not None or info.size:
            return f"{path!r} is no directory"
    others = there.keys() - {manifest.MANIFEST_NAME, manifest.SIGNATURE_NAME}
    return f"{min(others)!r} isn't in it" if others else ""
