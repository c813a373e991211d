"""Filling a snapshot's bucket from a tree.

With `content: links` the bytes are in the repository, and the bucket has an object link per file; with `copies` it has
the files themselves and needs nobody. A symlink is an object link to the object of its target in the same bucket, an
empty directory an object `path/` without content, both as mappings write them. Whatever is there already and right is
left, so filling goes on where it was broken off; what is there and isn't right is for `complete` to tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping

from agent.config.model import Publication
from agent.core import manifest
from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest
from agent.errors import RevisionError
from agent.objectstore import Bucket, ObjectInfo
from agent.snapshots import repository as places
from agent.snapshots.complete import target_of
from agent.snapshots.content import Objects, Wanted, contents_of
from agent.snapshots.many import each
from agent.snapshots.report import Progress, SnapshotReport, no_progress
from agent.snapshots.repository import Repository
from agent.snapshots.signing import Signer
from agent.sync.db import Db
from agent.sync.limits import Limits
from agent.sync.remote import DIGEST, KIND, MODE

SIZE = "jetsync.size"
# Large contents at a time.
_TRANSFERS = 4


class Filling:
    """Of one tree. open_: the bytes of a path, as `Tree.open`. now: seconds since 1970."""

    def __init__(
        self,
        config: Publication,
        repository: Repository,
        tree: Manifest,
        open_: Callable[[str, Entry], AsyncIterator[bytes]],
        db: Db,
        *,
        now: Callable[[], float],
        on_progress: Progress = no_progress,
    ) -> None:
        self._copies = config.content == "copies"
        self._repository = repository
        self._tree = tree
        self._open = open_
        self._db = db
        self._now = now
        self._on_progress = on_progress
        self._limits = Limits(transfers=_TRANSFERS, upload=0, download=0)

    async def have_content(self, report: SnapshotReport) -> None:
        """With `content: links`: all content of the tree is in the repository, whole, and won't be pruned soon."""
        if not self._copies:
            objects = self._objects(self._repository.bucket, stamps=True)
            await objects.ensure(contents_of(self._tree, self._bytes))
            _count(objects, report)

    async def fill(self, bucket: Bucket, signer: Signer | None, report: SnapshotReport) -> None:
        """Have everything in the bucket that the snapshot has; the manifest comes last.

        :raises SealedError: another publisher of the same tree was faster
        """
        there = {info.name: info for info in await bucket.list(show_deleted=True, on_bad=lambda _: None)}
        if self._copies:
            objects = self._objects(bucket, stamps=False)
            await objects.ensure(
                [
                    Wanted(path, entry.digest, entry.size, self._opening(path), _metadata(entry))
                    for path, entry in self._tree.files
                ]
            )
            _count(objects, report)
        linked = [path for path, entry in self._tree.entries.items() if not self._is_copied(entry)]

        async def link(path: str) -> None:
            made = await self._link(bucket, path, there.get(path))  # before the sum is read: others add to it meanwhile
            report.links += made

        await each(linked, link)
        texts = {manifest.MANIFEST_NAME: self._tree.encoded}
        if signer is not None:
            texts = {manifest.SIGNATURE_NAME: places.signature_text(signer, self._tree.encoded)} | texts
        for name, text in texts.items():
            objects = Objects(bucket, self._db, limits=self._limits, stamps=False, now=self._now)
            await objects.ensure([_text(name, text)])

    # -- inside --------------------------------------------------------------------------------------------------

    def _objects(self, bucket: Bucket, *, stamps: bool) -> Objects:
        return Objects(
            bucket, self._db, limits=self._limits, stamps=stamps, now=self._now, on_progress=self._on_progress
        )

    def _bytes(self, path: str) -> AsyncIterator[bytes]:
        return self._open(path, self._tree.entries[path])

    def _opening(self, path: str) -> Callable[[], AsyncIterator[bytes]]:
        return lambda: self._bytes(path)

    def _is_copied(self, entry: Entry) -> bool:
        return self._copies and entry.kind is Kind.FILE

    async def _link(self, bucket: Bucket, path: str, found: ObjectInfo | None) -> int:
        """Have the object of a link, symlink or empty directory; gives the number of links made."""
        entry = self._tree.entries[path]
        target = target_of(self._repository, bucket, entry)
        live = found is not None and not found.deleted
        if live and found is not None and found.link == target:
            return 0
        revision = found.revision if found is not None else 0
        try:
            if target is None:
                await bucket.put_bytes(path, b"", metadata=_metadata(entry), expected_revision=revision)
                return 0
            await bucket.add_link(path, target, metadata=_metadata(entry), expected_revision=revision)
        except RevisionError:
            return 0  # another publisher of the same tree, or somebody who has no business here: `complete` tells
        return 1


def _metadata(entry: Entry) -> Mapping[str, str]:
    if entry.kind is Kind.DIRECTORY:
        return {KIND: Kind.DIRECTORY.value}
    if entry.kind is Kind.LINK:
        return {}
    return {SIZE: str(entry.size), DIGEST: entry.digest.hex(), MODE: "755" if entry.executable else "644"}


def _text(name: str, text: bytes) -> Wanted:
    async def bytes_() -> AsyncIterator[bytes]:
        yield text

    return Wanted(name, hashlib.sha256(text).digest(), len(text), bytes_)


def _count(objects: Objects, report: SnapshotReport) -> None:
    tally = objects.tally
    report.uploads += tally.uploads
    report.bytes_up += tally.bytes_up
    report.reused += tally.reused
    report.bytes_reused += tally.bytes_reused
