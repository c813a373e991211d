"""What the mappings share of the remote side: the connection, the opened buckets, one feed for each bucket.

The connection comes and goes; until there is one, opening a bucket says why there is none, and is tried again.
A declared bucket is created only when no state here has ever seen it: a bucket that was there and is gone is a
reason to stop, never to make an empty one (DESIGN section 6, "Identity"). With `dry` nothing is created or changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from agent.config.model import Bucket as DeclaredBucket
from agent.errors import BucketNotFoundError, ConnectError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection
from agent.observe.logging import get_logger
from agent.sync.feed import Feed


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened bucket and its feed; both None for a declared bucket that a dry run doesn't create."""

    bucket: Bucket | None
    feed: Feed | None


class Remotes:
    def __init__(self, declared: Mapping[str, DeclaredBucket]) -> None:
        self._declared = declared
        self._connection: Connection | None = None
        self._why_not: ConnectError | None = None
        self._tried = asyncio.Event()
        self._feeds: dict[str, Feed] = {}
        self._lock = asyncio.Lock()
        self._log = get_logger()

    @property
    def online(self) -> bool:
        return self._connection is not None and self._connection.connected

    @property
    def connection(self) -> Connection | None:
        return self._connection

    def attach(self, connection: Connection) -> None:
        self._connection = connection
        self._tried.set()

    def use(self, declared: Mapping[str, DeclaredBucket]) -> None:
        """Other declarations, for whoever opens a bucket from now on."""
        self._declared = declared

    def unreachable(self, error: ConnectError) -> None:
        """Why there is no connection, for those who ask for a bucket meanwhile."""
        self._why_not = error
        self._tried.set()

    async def open(self, name: str, *, seen: bool, dry: bool = False) -> Opened:
        """Open a bucket; a declared one is created when it was never seen, and brought to its shape.

        :raises ConnectError: not connected (yet)
        :raises BucketNotFoundError: it isn't there, and may not be created
        :raises NotABucketError, NotAllowedError, StoreUnavailableError
        """
        await self._tried.wait()
        if self._connection is None:
            raise self._why_not or ConnectError("not connected yet")
        async with self._lock:
            bucket = await self._find(Buckets(self._connection), name, seen=seen, dry=dry)
            if bucket is None:
                return Opened(None, None)
            feed = self._feeds.get(name)
            if feed is None or feed.bucket.created != bucket.created:
                feed = self._feeds[name] = Feed(bucket)
            return Opened(bucket, feed)

    async def _find(self, buckets: Buckets, name: str, *, seen: bool, dry: bool) -> Bucket | None:
        declared = self._declared.get(name)
        if declared is None:
            return await self._bind(buckets, name)
        if dry:
            try:
                return await buckets.bind(name)
            except BucketNotFoundError:
                if seen:
                    raise
                return None
        bucket, changes = await buckets.ensure(name, BucketSpec.of(declared), may_create=not seen)
        if changes:
            self._log.info("bucket_changed", bucket=name, changes=changes)
        for warning in bucket.warnings:
            self._log.warning("bucket_differs", bucket=name, detail=warning)
        return bucket

    async def _bind(self, buckets: Buckets, name: str) -> Bucket:
        try:
            return await buckets.bind(name)
        except BucketNotFoundError as error:
            raise BucketNotFoundError(
                f"the bucket {name!r} does not exist",
                remedy=f"declare it under `buckets:` in the configuration, or create it: nats object add {name}",
            ) from error

    async def close(self) -> None:
        for feed in self._feeds.values():
            await feed.close()
