"""jetsync's own Object Store client, on the event loop that the command uses. get-file syncs the file to disk."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agent.cli.context import loop_factory
from agent.objectstore import Access, Bucket, Buckets, Connection, Endpoint
from benchmarks.clients import timed


async def main(url: str, bucket_name: str, operation: str, file: str) -> None:
    access: Access = Endpoint([url])
    async with await Connection.open(access, name="bench") as connection:
        bucket = await Buckets(connection).bind(bucket_name)
        if operation == "put":
            await timed(lambda: bucket.put_file(Path(file), "object"))
        elif operation == "get":
            await timed(lambda: read(bucket))
        else:
            await timed(lambda: bucket.get_file("object", Path(file)))


async def read(bucket: Bucket) -> None:
    async with bucket.get("object") as reader:
        async for _ in reader.groups():
            pass


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(*sys.argv[1:]))
