"""Seeing a write at the moment when it reaches the bucket: a subscription to the metas, beside the stream."""

from __future__ import annotations

import asyncio
import base64
import sys
import threading
import time
from collections.abc import Collection
from typing import Self

import nats
from nats.aio.msg import Msg

PATIENCE = 300.0


class Metas:
    """`arrived`: object name -> when its last meta came, on the clock of time.perf_counter."""

    def __init__(self, url: str, bucket: str) -> None:
        self._url = url
        self._before = f"$O.{bucket}.M."
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="metas", daemon=True)
        self._news = threading.Condition()
        self.arrived: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result(30)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _connect(self) -> None:
        self._client = await nats.connect(self._url)
        await self._client.subscribe(f"{self._before}*", cb=self._take)
        await self._client.flush()

    async def _take(self, message: Msg) -> None:
        now = time.perf_counter()
        name = base64.urlsafe_b64decode(message.subject.removeprefix(self._before)).decode()
        with self._news:
            self.arrived[name] = now
            self._news.notify_all()

    def wait(self, names: Collection[str], *, since: float) -> float:
        """Wait until a meta of each has come after `since`; when the last of them came."""
        deadline = time.monotonic() + PATIENCE
        missing = set(names)
        while True:
            with self._news:
                missing = {name for name in missing if self.arrived.get(name, 0.0) < since}
                if not missing:
                    return max(self.arrived[name] for name in names)
                if not self._news.wait(deadline - time.monotonic()):
                    sys.exit(f"{len(missing)} of {len(names)} writes haven't reached the bucket in {PATIENCE:.0f} s")
