"""nats-py's own ObjectStore, as its documentation has it: on asyncio's event loop, with a file to read or write."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import nats

from benchmarks.clients import timed


class Dropped:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


async def main(url: str, bucket_name: str, operation: str, file: str) -> None:
    client = await nats.connect(url)
    store = await client.jetstream().object_store(bucket_name)
    if operation == "put":
        with Path(file).open("rb") as source:
            await timed(lambda: store.put("object", source))
    elif operation == "get":
        await timed(lambda: store.get("object", writeinto=Dropped()))  # type: ignore[arg-type]
    else:
        with Path(file).open("wb") as target:
            await timed(lambda: store.get("object", writeinto=target))
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
