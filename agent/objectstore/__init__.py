"""The NATS JetStream Object Store (ADR-20), as a client of our own on nats-py's connection. See docs/objectstore.md.

async with await Connection.open(Endpoint(["nats://127.0.0.1:4222"]), name="example") as connection:
    bucket = await Buckets(connection).bind("inbox")
    info = await bucket.put_bytes("greeting", b"hello", expected_revision=0)
    async with bucket.get("greeting") as reader:
        async for block in reader: ...
"""

from agent.objectstore.bucket import Bucket
from agent.objectstore.commit import refused
from agent.objectstore.connection import Connection
from agent.objectstore.credentials import Access, Endpoint
from agent.objectstore.errors_map import ConsumerNotFoundError, NotSentError
from agent.objectstore.follow import Batch, Follower
from agent.objectstore.get import Position, Reader
from agent.objectstore.meta import Link, ObjectInfo
from agent.objectstore.metamessage import MetaMessage
from agent.objectstore.objects import Deleted
from agent.objectstore.prefix import Prefix
from agent.objectstore.put import uninterrupted
from agent.objectstore.put_many import SmallObject
from agent.objectstore.rename import Renaming
from agent.objectstore.spec import BucketSpec, BucketStatus, Mirror, Placement
from agent.objectstore.stores import Buckets, Ensured
from agent.objectstore.subjects import new_nuid
from agent.objectstore.window import SpoiledError

__all__ = [
    "Access",
    "Batch",
    "Bucket",
    "BucketSpec",
    "BucketStatus",
    "Buckets",
    "Connection",
    "ConsumerNotFoundError",
    "Deleted",
    "Endpoint",
    "Ensured",
    "Follower",
    "Link",
    "MetaMessage",
    "Mirror",
    "NotSentError",
    "ObjectInfo",
    "Placement",
    "Position",
    "Prefix",
    "Reader",
    "Renaming",
    "SmallObject",
    "SpoiledError",
    "new_nuid",
    "refused",
    "uninterrupted",
]
