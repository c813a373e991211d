"""A publication with a state, a directory and a clock of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config.model import Publication
from agent.core.manifest import content_name
from agent.objectstore import Connection
from agent.snapshots.publish import Publishing
from agent.snapshots.report import PUBLICATION, SnapshotReport
from agent.snapshots.repository import Repository
from agent.snapshots.tree import DirectoryTree
from agent.sync.db import Db


@dataclass
class Publisher:
    """One publication with a state of its own, a directory and a clock."""

    connection: Connection
    repository: str
    directory: Path
    db: Db
    options: dict[str, Any] = field(default_factory=dict)
    now: float = 1_780_000_000.0

    async def publish(self) -> SnapshotReport:
        config = Publication(
            name="models", directory=self.directory, repository=self.repository, channel="stable", **self.options
        )
        self.now += 1
        report = SnapshotReport(PUBLICATION, "models")
        tree = DirectoryTree(self.directory, self.db)
        repository = await Repository.open(self.connection, self.repository)
        try:
            await Publishing(config, repository, tree, self.db, now=lambda: self.now).run(report)
        finally:
            await tree.close()
        return report

    async def opened(self) -> Repository:
        return await Repository.open(self.connection, self.repository)

    async def contents(self) -> set[str]:
        infos = await (await self.opened()).bucket.list()
        return {info.name for info in infos if info.name.startswith("sha256/")}


def write(directory: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)


def name_of(data: bytes) -> str:
    """The object in a repository that holds this content."""
    return content_name(hashlib.sha256(data).digest())
