"""Snapshots made by hand, right ones and wrong ones, and a subscriber that installs them.

maker = Maker(connection, "repository")
await maker.make({"a": b"one", "bin/x": Executable(b"#!"), "l": To("a"), "hollow/": None})     -> the id; channel moved
await maker.make(..., seal=False, manifest=b"...", objects={"a": Link("other", "x"), "b": None})
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.config.model import Subscription as Config
from agent.core import manifest as manifests
from agent.core.channels import Record
from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest
from agent.directory import Versions
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Link
from agent.snapshots.install import Installing
from agent.snapshots.reach import Reach
from agent.snapshots.report import SUBSCRIPTION, SnapshotReport
from agent.snapshots.repository import Repository, signature_text
from agent.snapshots.signing import Signer
from agent.snapshots.threads import Threads
from agent.sync.db import Db
from agent.sync.remotes import Remotes
from tests.support.publisher import name_of


@dataclass(frozen=True)
class Executable:
    data: bytes


@dataclass(frozen=True)
class To:
    """A symlink, to a path from the root."""

    target: str


Files = Mapping[str, bytes | Executable | To | None]


def tree_of(files: Files) -> Manifest:
    return Manifest.of((path, _entry(value)) for path, value in files.items())


def _entry(value: bytes | Executable | To | None) -> Entry:
    if value is None:
        return Entry(Kind.DIRECTORY)
    if isinstance(value, To):
        return Entry(Kind.LINK, target=value.target)
    data = value if isinstance(value, bytes) else value.data
    return Entry(Kind.FILE, hashlib.sha256(data).digest(), len(data), executable=isinstance(value, Executable))


@dataclass
class Maker:
    connection: Connection
    repository: str
    second: int = 0
    counter: int = 0

    async def opened(self) -> Repository:
        await Buckets(self.connection).ensure(self.repository, BucketSpec(), may_create=True)
        return await Repository.open(self.connection, self.repository)

    async def make(
        self,
        files: Files,
        *,
        channel: str = "stable",
        signer: Signer | None = None,
        copies: bool = False,
        seal: bool = True,
        manifest: bytes | None = None,
        objects: Mapping[str, Link | bytes | None] | None = None,
        content: bool = True,
    ) -> str:
        """Store a snapshot and move the channel to it.

        manifest: another text in its place (the id is that of the text). objects: what stands at some names instead of
        what belongs there; None: nothing. content: whether its content is put into the repository.
        """
        repository = await self.opened()
        tree = tree_of(files)
        text = tree.encoded if manifest is None else manifest
        self.second += 1
        digest = hashlib.sha256(text).hexdigest()
        identity = manifests.snapshot_id(datetime.fromtimestamp(1_780_000_000 + self.second, UTC), digest)
        name = manifests.bucket_of(self.repository, identity)
        bucket = (await Buckets(self.connection).ensure(name, BucketSpec(), may_create=True)).bucket
        for path, value in {**self._objects(bucket, files, copies=copies), **(objects or {})}.items():
            if isinstance(value, Link):
                await bucket.add_link(path, value)
            elif value is not None:
                await bucket.put_bytes(path, value)
        if content and not copies:
            await self.contents(repository, files)
        if signer is not None:
            await bucket.put_bytes(manifests.SIGNATURE_NAME, signature_text(signer, text))
        await bucket.put_bytes(manifests.MANIFEST_NAME, text)
        if seal:
            await bucket.seal()
        if channel:
            await self.move(identity, digest, channel=channel, signer=signer)
        return identity

    def _objects(self, bucket: Bucket, files: Files, *, copies: bool) -> dict[str, Link | bytes | None]:
        found: dict[str, Link | bytes | None] = {}
        for path, value in files.items():
            if value is None or isinstance(value, To):
                found[path] = b"" if value is None else Link(bucket.name, value.target)
            else:
                data = value if isinstance(value, bytes) else value.data
                found[path] = data if copies else Link(self.repository, name_of(data))
        return found

    async def contents(self, repository: Repository, files: Files) -> None:
        for value in files.values():
            if isinstance(value, bytes | Executable):
                data = value if isinstance(value, bytes) else value.data
                await repository.bucket.put_bytes(name_of(data), data)

    async def move(
        self, identity: str, digest: str, *, channel: str = "stable", signer: Signer | None = None, counter: int = 0
    ) -> Record:
        """Point the channel to a snapshot, with the next counter unless one is given."""
        repository = await self.opened()
        self.counter = counter or self.counter + 1
        record = Record(repository.name, channel, identity, digest, self.counter, "2026-06-01T00:00:00Z")
        await repository.move(record, expected_revision=await repository.revision_of(channel), signer=signer)
        return record

    async def back_to(self, identity: str, **options: Any) -> Record:
        """Point the channel to an earlier snapshot."""
        bucket = await (await self.opened()).snapshot_bucket(identity)
        text = await bucket.get_bytes(manifests.MANIFEST_NAME)
        return await self.move(identity, hashlib.sha256(text).hexdigest(), **options)


@dataclass
class Subscriber:
    """A subscription with a directory and a state of its own. `install` is one attempt, as a process of its own."""

    connection: Connection
    repository: str
    directory: Path
    state: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        options = {"channel": "stable", **self.options}
        if "snapshot" in options:
            del options["channel"]
        return Config(name="live", repository=self.repository, directory=self.directory, **options)

    async def install(self, **options: Any) -> SnapshotReport:
        """:raises JetsyncError: as the attempt ends"""
        self.options |= options
        report = SnapshotReport(SUBSCRIPTION, "live")
        db = await Db.open(self.state, "live")
        try:
            with Versions.open(self.directory) as versions:
                installing = Installing(
                    self.config, versions, db, folder=self.directory.parent, report=report, threads=Threads()
                )
                remotes = Remotes({})
                remotes.attach(self.connection)
                await installing.run(Reach(self.config, remotes, db), check=True)
        finally:
            await db.close()
        return report

    @property
    def current(self) -> str:
        """The id, "" for none."""
        link = self.directory / "current"
        return link.readlink().name if link.is_symlink() else ""

    def version(self, identity: str) -> Path:
        return self.directory / "versions" / identity

    @property
    def ids(self) -> set[str]:
        """Everything with a name in versions/ that isn't the agent's own."""
        found = (self.directory / "versions").iterdir()
        return {path.name for path in found if path.name != ".jetsync"}


def content_of(directory: Path) -> dict[str, bytes | str | None]:
    """What a reader sees: bytes of files, texts of symlinks, None for empty directories."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[name] = None
    return found
