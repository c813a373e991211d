"""What a subscription reads from: the repository, and the buckets of snapshots. Each is opened when it is needed.

A subscription that is pinned begins with the bucket of its snapshot, under its own name. With `content: copies` that
bucket has everything, so an edge may mirror it alone: the repository isn't asked for unless a link leads there. Only
when there is no such bucket, the repository is asked: one that is a mirror has snapshots of its origin's name.

A bucket that the configuration declares is made here when this state has never seen it, as everywhere (`sync.remotes`).
"""

from __future__ import annotations

from agent.config.model import Subscription
from agent.core import manifest
from agent.errors import BucketNotFoundError, SnapshotError
from agent.objectstore import Bucket
from agent.snapshots.repository import Repository
from agent.sync.db import Db
from agent.sync.remotes import Remotes


class Reach:
    """Of one attempt."""

    def __init__(self, config: Subscription, remotes: Remotes, db: Db) -> None:
        self._config = config
        self._remotes = remotes
        self._db = db
        self._repository: Repository | None = None

    async def repository(self) -> Repository:
        """:raises ConnectError, BucketNotFoundError, NotABucketError, StoreUnavailableError"""
        if self._repository is None:
            self._repository = Repository(await self._open(self._config.repository))
        return self._repository

    async def snapshot(self, identity: str) -> Bucket:
        """The bucket of a snapshot.

        :raises SnapshotError: there is none
        """
        if self._config.snapshot is None:
            return await (await self.repository()).snapshot_bucket(identity)
        name = manifest.bucket_of(self._config.repository, identity)
        try:
            return await self._open(name)
        except BucketNotFoundError:
            pass
        try:
            repository = await self.repository()
        except BucketNotFoundError as error:
            raise SnapshotError(
                f"there is no snapshot {identity}: neither its bucket {name} nor the repository exists",
                remedy="see that repository and snapshot are right, or declare a mirror of the bucket under `buckets:`",
            ) from error
        return await repository.snapshot_bucket(identity)

    async def _open(self, name: str) -> Bucket:
        key = f"seen {name}"
        seen = await self._db(lambda store: store.kv_get(key) is not None)
        opened = await self._remotes.open(name, seen=seen)
        assert opened.bucket is not None  # only a dry run has none
        await self._db(lambda store: store.kv_set(key, "1"))
        return opened.bucket
