"""All metas of a bucket, once; and their number (PROTOCOL 3c, 8).

A listing is a follower (see `follow`) that is closed once it has caught up: the newest message of each name, bad metas
skipped and reported, and no way to hang on an empty bucket, on deleted names or on one bad meta, as the other clients
can. It is whole or it is an error: an incomplete listing would make objects look deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.errors import StoreUnavailableError
from agent.objectstore import subjects
from agent.objectstore.consumer import Consumer
from agent.objectstore.follow import Batch, Follower, follow
from agent.objectstore.meta import ObjectInfo
from agent.objectstore.metamessage import MetaMessage
from agent.objectstore.put import uninterrupted

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

SILENCE = 75.0
"""Seconds without a batch after which a listing is given up: long enough for a reconnect, and for the server to find
the newest message of each of a million names."""


async def list_objects(
    bucket: Bucket, *, show_deleted: bool = False, on_bad: Callable[[MetaMessage], None] | None = None
) -> list[ObjectInfo]:
    """The newest meta of each name, in the order of their revisions; markers only when `show_deleted`.

    `on_bad` is called for each meta message that isn't one; they are left out.

    Raises StoreUnavailableError when the listing could not be completed, BucketNotFoundError, BucketReplacedError.
    """
    newest: dict[str, ObjectInfo | None] = {}
    async with follow(bucket) as follower:
        caught_up = False
        while not caught_up:
            batch = await _next(bucket, follower)
            for message in batch.metas:  # sequences rise: the last one of a name is its newest
                if message.error is not None and on_bad is not None:
                    on_bad(message)
                if message.name:
                    newest.pop(message.name, None)
                    newest[message.name] = message.info
            caught_up = batch.caught_up
    return [info for info in newest.values() if info is not None and (show_deleted or not info.deleted)]


async def names_count(bucket: Bucket) -> int:
    """How many names have a meta message, markers and broken ones included. Two requests, whatever the number is.

    For the server they are as much work as the beginning of a listing: seconds for a million names.
    """
    return await _count(bucket, newest_only=True)


async def metas_count(bucket: Bucket) -> int:
    """How many meta messages there are: one for each name, and more only where somebody has written one without the
    rollup header. Fifty times cheaper than to count the names.
    """
    return await _count(bucket, newest_only=False)


async def _count(bucket: Bucket, *, newest_only: bool) -> int:
    consumer = Consumer(bucket, subjects.all_metas(bucket.name))
    try:
        return await consumer.create(last_per_subject=newest_only)
    finally:
        await uninterrupted(consumer.delete())


async def _next(bucket: Bucket, follower: Follower) -> Batch:
    try:
        async with asyncio.timeout(SILENCE):
            return await anext(follower)
    except TimeoutError as error:
        raise StoreUnavailableError(f"the listing of bucket {bucket.name!r} came to a stop") from error
