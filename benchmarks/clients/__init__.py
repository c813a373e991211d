"""The clients of the library benchmark: each a program of its own, so that none runs in another's process.

    python -m benchmarks.clients.CLIENT URL BUCKET OPERATION FILE

put stores FILE as the object "object"; get reads it to its end and drops the bytes; get-file writes it to FILE. Each
prints {"seconds", "cpu"} of the operation alone: it has started and connected, and the bucket is open.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable


async def timed(work: Callable[[], Awaitable[object]]) -> None:
    """Do it, and print what it took."""
    began, cpu = time.perf_counter(), time.process_time()
    await work()
    tell(began, cpu)


def tell(began: float, cpu: float) -> None:
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}))
