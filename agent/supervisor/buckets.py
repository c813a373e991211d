"""The `bucket` commands as values: what they print, and what the running agent answers to them.

Each takes a connection and gives the JSON of the result, so that a command may do the work itself or have it done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent.config.model import Config
from agent.errors import UsageError
from agent.objectstore import Buckets, BucketSpec, BucketStatus, Connection

RESULT_VERSION = 1

Work = Callable[[Config, Connection, Mapping[str, Any]], Awaitable[dict[str, Any]]]


async def listed(_config: Config, connection: Connection, _args: Mapping[str, Any]) -> dict[str, Any]:
    """All buckets that the connection reaches."""
    found = await Buckets(connection).list()
    return {"version": RESULT_VERSION, "buckets": [as_json(status) for status in found]}


async def shown(_config: Config, connection: Connection, args: Mapping[str, Any]) -> dict[str, Any]:
    """One bucket; `args["name"]`.

    :raises BucketNotFoundError, NotABucketError, BucketNameError
    """
    bucket = await Buckets(connection).bind(str(args["name"]))
    return {"version": RESULT_VERSION, **as_json(await bucket.status())}


async def applied(config: Config, connection: Connection, args: Mapping[str, Any]) -> dict[str, Any]:
    """Create or change the declared buckets of `args["names"]`; all when that is empty.

    :raises UsageError: a name isn't declared
    :raises BucketError: a bucket can't be brought to its shape
    """
    results = []
    for name in chosen(config, args["names"]):
        spec = BucketSpec.of(config.buckets[name])
        bucket, changes = await Buckets(connection).ensure(name, spec, may_create=True)
        results.append({"name": name, "changes": list(changes), "warnings": list(bucket.warnings)})
    return {"version": RESULT_VERSION, "buckets": results}


async def sealed(_config: Config, connection: Connection, args: Mapping[str, Any]) -> dict[str, Any]:
    """Make a bucket read-only for ever; `args["name"]`.

    :raises BucketNotFoundError, NotABucketError, BucketError
    """
    bucket = await Buckets(connection).bind(str(args["name"]))
    return {"version": RESULT_VERSION, **as_json(await bucket.seal())}


async def linked(_config: Config, connection: Connection, args: Mapping[str, Any]) -> dict[str, Any]:
    """Make an object a link: to the object `target` (BUCKET/OBJECT), or to a whole bucket (BUCKET).

    :raises ObjectExistsError: a regular object has the name; links and markers are replaced
    :raises BucketNotFoundError, ObjectNotFoundError, LinkError: the bucket or the target isn't there, or is a link
    """
    buckets = Buckets(connection)
    bucket = await buckets.bind(str(args["bucket"]))
    bucket_name, slash, object_name = str(args["target"]).partition("/")
    target = await buckets.bind(bucket_name)
    if slash:
        made = await bucket.add_link(str(args["name"]), await target.info(object_name))
    else:
        made = await bucket.add_bucket_link(str(args["name"]), target)
    return {"version": RESULT_VERSION, "bucket": bucket.name, "name": made.name, "target": args["target"]}


async def deleted(_config: Config, connection: Connection, args: Mapping[str, Any]) -> dict[str, Any]:
    """Delete a bucket with everything in it. args: name; yes: also when there is something in it.

    :raises UsageError: it isn't empty, and nobody has said yes
    """
    buckets = Buckets(connection)
    bucket = await buckets.bind(str(args["name"]))
    status = await bucket.status()
    if status.messages and not args["yes"]:
        raise UsageError(
            f"bucket {bucket.name!r} isn't empty ({status.messages} messages)", remedy="to delete it all: --yes"
        )
    await buckets.delete(bucket.name)
    return {"version": RESULT_VERSION, "name": bucket.name, "messages": status.messages, "size": status.size}


def chosen(config: Config, names: Sequence[str]) -> list[str]:
    """The declared buckets of these names, or all.

    :raises UsageError: one isn't declared
    """
    for name in names:
        if name not in config.buckets:
            raise UsageError(f"the bucket {name!r} isn't declared", remedy="declare it under `buckets:`")
    return list(names) or list(config.buckets)


def as_json(status: BucketStatus) -> dict[str, Any]:
    """ttl: seconds, 0 = never. max_bytes: 0 = unlimited. mirror: the origin's name, or None."""
    return {
        "name": status.name,
        "description": status.description,
        "size": status.size,
        "messages": status.messages,
        "storage": status.storage,
        "replicas": status.replicas,
        "ttl": status.ttl,
        "max_bytes": status.max_bytes,
        "compression": status.compression,
        "sealed": status.sealed,
        "mirror": status.mirror.bucket if status.mirror else None,
        "created": status.created,
        "metadata": dict(status.metadata),
    }


WORK: dict[str, Work] = {
    "bucket-list": listed,
    "bucket-show": shown,
    "bucket-apply": applied,
    "bucket-seal": sealed,
    "bucket-link": linked,
    "bucket-delete": deleted,
}
