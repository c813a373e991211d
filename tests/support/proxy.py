"""A TCP proxy on loopback that misbehaves on demand: the network between an agent and its server.

    with Proxy(server.port) as proxy:
        connect to proxy.url
        proxy.throttle(200_000)     # bytes per second and direction; None = as fast as it can
        proxy.delay(0.05)           # seconds added to each block, in each direction
        proxy.hold()                # nothing moves any more, connections stay open: a network that swallows packets
        proxy.cut()                 # all connections are reset, new ones are refused
        proxy.resume()              # all of these end; what was held goes on

It runs its own event loop in a thread, so that it serves subprocesses and async tests alike. `to_server` and
`to_client` count the bytes that went through; `connections` counts those open now.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tests.support.server import free_port

BLOCK = 64 * 1024


class Proxy:
    """Forwards loopback connections to 127.0.0.1:`target`. All methods may be called from any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.to_server = 0
        self.to_client = 0
        self._rate: float | None = None
        self._delay = 0.0
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()  # unset while held
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._writers) // 2

    def throttle(self, rate: float | None) -> None:
        self._call(lambda: setattr(self, "_rate", rate))

    def delay(self, seconds: float) -> None:
        self._call(lambda: setattr(self, "_delay", seconds))

    def hold(self) -> None:
        self._call(self._open.clear)

    def cut(self) -> None:
        def reset() -> None:
            self._refusing = True
            for writer in list(self._writers):
                writer.transport.abort()
            self._writers.clear()

        self._call(reset)

    def resume(self) -> None:
        def undo() -> None:
            self._refusing = False
            self._rate = None
            self._delay = 0.0
            self._open.set()

        self._call(undo)

    def _call(self, do: Callable[[], Any]) -> None:
        """Run `do` on the proxy's loop, and return when it has happened."""
        done = threading.Event()

        def run() -> None:
            do()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._open.set()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True, limit=BLOCK)
        )
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=BLOCK)
        except OSError:
            writer.transport.abort()
            return
        for end in (writer, far_writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.transport.set_write_buffer_limits(high=BLOCK)
        self._writers |= {writer, far_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, "to_server"))
                group.create_task(self._pump(far_reader, writer, "to_client"))
        finally:
            self._writers -= {writer, far_writer}
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: str) -> None:
        """Copy one direction. The end of either stream ends both: NATS has no half-closed connections."""
        due = 0.0  # when a throttled direction may send its next block, on the monotonic clock
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(BLOCK if self._rate is None else 4096):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if self._rate is not None:
                    due = max(due, time.monotonic()) + len(block) / self._rate
                    await asyncio.sleep(due - time.monotonic())
                await self._open.wait()
                setattr(self, counter, getattr(self, counter) + len(block))  # before anybody can have read it
                writer.write(block)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
