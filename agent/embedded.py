"""A private nats-server as a child process, for who has none: on loopback, with a generated password.

    server = EmbeddedServer(store_dir=..., state_dir=..., port=0)
    await server.start()          # returns when clients and JetStream are served
    server.url, server.user, server.password
    await server.stop()

What belongs to it is in `state_dir/embedded`, for the agent's user alone: `password` (made once, kept) and
`nats-server.conf` (written at each start). The password is in these files only, never in arguments or the environment.

It never outlives the agent: the kernel kills it when the agent dies (PR_SET_PDEATHSIG), so that after a crash the next
start finds port and store free. It never sees the terminal's Ctrl-C (own session), since the agent has to drain first.
When it dies by itself it is started again, on the same port, so that all clients come back.

Two servers on one JetStream store would destroy it, and nats-server doesn't look. So `store_dir/jetsync.lock` is
locked, and the child inherits the lock: it is held for as long as either of the two lives.

That the server is there, and is ours and not somebody else's on the same port, is known from the name in its greeting.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import random
import re
import secrets
import shutil
import socket
import sys
import sysconfig
from collections import deque
from pathlib import Path

from agent.errors import ConnectError, LockedError
from agent.observe.logging import get_logger

USER = "jetsync"
HOST = "127.0.0.1"
# JetStream reads its stores before it serves; that takes long where there is much.
START_SECONDS = 120.0
STOP_SECONDS = 10.0
# For a server that the kernel is just ending, after a crash of the agent, to let go of lock and port.
LEFTOVER_SECONDS = 3.0
_FIRST_DELAY, _LAST_DELAY = 0.1, 10.0
_LOG_LINE = re.compile(r"(?:\[\d+\] )?(?:\d{4}/\d\d/\d\d )?(?:[\d:.]+ )?\[(?P<level>[A-Z]{3})\] (?P<message>.*)")
# It warns of every password that isn't hashed. This one is random, and readable only for whom could read the hash.
_EXPECTED = "Plaintext passwords detected"
_ERROR_LEVELS = ("ERR", "FTL")

# prctl(PR_SET_PDEATHSIG, SIGKILL), then exec. A wrapper and not a preexec_fn, which isn't safe beside threads. When the
# agent died before the prctl, the parent is another one by now, and there is nobody to serve.
_WRAPPER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9);"
    " os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class EmbeddedServer:
    """One server, started and stopped once. `url` and `password` are known after start().

    store_dir: where JetStream keeps its data. port: 0 = any that is free.
    """

    user = USER

    def __init__(self, *, store_dir: Path, state_dir: Path, port: int = 0) -> None:
        self.password = ""
        self.port = port
        self.restarts = 0
        self._store_dir = store_dir
        self._home = state_dir / "embedded"
        self._config = self._home / "nats-server.conf"
        self._name = f"jetsync-{secrets.token_hex(8)}"
        self._log = get_logger(component="nats-server")
        self._binary = Path()
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=5)

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the running server; None when there is none at the moment."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, *, timeout: float = START_SECONDS) -> None:
        """Start, and return when it serves.

        :raises LockedError: another server uses the store_dir
        :raises ConnectError: there is no nats-server, its port is in use, or it ended; the error has its last words
        """
        self._binary = find_server()
        try:
            self._prepare()
            await self._lock_store()
            await self._start_somewhere(timeout)
        except OSError as error:
            await self.stop()
            raise ConnectError(
                f"the embedded nats-server can't be started: {error}",
                remedy="check that state_dir and nats.embedded.store_dir can be written by the agent's user",
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise(timeout), name="embedded server")

    async def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL when it takes too long. Nothing happens when it doesn't run."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._supervisor = None
        await self._end_process()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- before the start ----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        for directory in (self._home, self._store_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.chmod(0o700)
        file = self._home / "password"
        with contextlib.suppress(FileNotFoundError):
            self.password = file.read_text("ascii", "replace").strip()
        # What a person wrote there is taken if it needs no escapes; else a new one is made.
        if not re.fullmatch(r"[A-Za-z0-9_-]{16,}", self.password):
            self.password = secrets.token_urlsafe(24)
            _write_private(file, self.password + "\n")
        file.chmod(0o600)

    async def _lock_store(self) -> None:
        path = self._store_dir / "jetsync.lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = asyncio.get_running_loop().time() + LEFTOVER_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    owner = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
                    raise LockedError(
                        f"the store directory {self._store_dir} is used by the embedded server of another jetsync"
                        + (f" (pid {owner})" if owner else ""),
                        remedy="stop it, or give this one its own nats.embedded.store_dir",
                    ) from error
            await asyncio.sleep(0.05)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    # -- starting ------------------------------------------------------------------------------------------------

    async def _start_somewhere(self, timeout: float) -> None:
        if self.port:
            if not _is_free(self.port):
                raise ConnectError(
                    f"port {self.port} on {HOST}, the embedded nats-server's, is in use",
                    remedy="stop what uses it, or set nats.embedded.port to another one (0 = any free)",
                )
            await self._launch(timeout)
            return
        for attempt in range(1, 6):
            self.port = _free_port()
            try:
                await self._launch(timeout)
                return
            except ConnectError:
                # RACE: somebody may take the port after it was looked at; then the server ends, and another is tried.
                if attempt == 5 or _is_free(self.port):
                    raise

    async def _launch(self, timeout: float) -> None:
        assert self._lock is not None
        _write_private(self._config, self._config_text())
        self._last_lines.clear()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-ISc", _WRAPPER, str(os.getpid())),
            *(str(self._binary), "-c", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(self._lock,),
        )
        assert self._process.stdout is not None
        self._reader = asyncio.create_task(self._pass_on(self._process.stdout), name="embedded server's log")
        try:
            async with asyncio.timeout(timeout):
                await self._served(self._process)
        except TimeoutError as error:
            await self._end_process()
            raise ConnectError(
                f"the embedded nats-server doesn't answer on port {self.port} after {timeout:.0f} s",
                remedy=self._last_words(),
            ) from error

    async def _served(self, process: asyncio.subprocess.Process) -> None:
        while not await self._greets():
            if process.returncode is not None:
                code = process.returncode
                await self._end_process()
                raise ConnectError(f"the embedded nats-server ended with status {code}", remedy=self._last_words())
            await asyncio.sleep(0.02)

    async def _greets(self) -> bool:
        """Whether our server is on the port; its greeting comes when JetStream is ready."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        try:
            async with asyncio.timeout(1.0):
                line = await reader.readline()
            greeting = json.loads(line.partition(b" ")[2])
            return isinstance(greeting, dict) and greeting.get("server_name") == self._name
        except (OSError, ValueError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _config_text(self) -> str:
        # JSON's strings are strings of nats-server's configuration too, but for \u.
        store = json.dumps(str(self._store_dir), ensure_ascii=False)
        return (
            f"# Written by jetsync at each start.\n"
            f"server_name: {self._name}\n"
            f"listen: {HOST}:{self.port}\n"
            f'authorization {{ user: {USER}, password: "{self.password}" }}\n'
            f"jetstream {{ store_dir: {store} }}\n"
            f"logtime: false\n"
        )

    # -- while it runs -------------------------------------------------------------------------------------------

    async def _supervise(self, timeout: float) -> None:
        """Start it again whenever it ends, with growing delays while it ends early. Never returns by itself."""
        delay = _FIRST_DELAY
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            if self._process is not None:
                code = await self._process.wait()
                await self._end_process()
                self._log.warning("embedded_server_ended", code=code, last_words=self._last_words())
            delay = _FIRST_DELAY if loop.time() - started > 60 else min(delay * 2, _LAST_DELAY)
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            try:
                await self._launch(timeout)
            except (ConnectError, OSError) as error:
                self._log.error("embedded_server_failed", error=str(error), retry_in=delay)
                continue
            self.restarts += 1
            self._log.warning("embedded_server_restarted", address=self.url, count=self.restarts)

    async def _pass_on(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:  # longer than the buffer: that part is gone, the next line is fine
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            match = _LOG_LINE.fullmatch(text)
            level, message = (match["level"], match["message"]) if match else ("INF", text)
            if message.startswith(_EXPECTED):
                level = "DBG"
            if level in _ERROR_LEVELS:
                self._last_lines.append(message)
                self._log.error(message)
            elif level == "WRN":
                self._log.warning(message)
            else:
                self._log.debug(message)

    def _last_words(self) -> str:
        return "; ".join(self._last_lines) or "its log (log.level: debug) may say why"

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                raise
        if self._reader is not None:
            await self._reader  # ends with the process
            self._reader = None


def find_server() -> Path:
    """The nats-server to run: beside this interpreter (the extra `server`), else in PATH.

    :raises ConnectError: there is none
    """
    for directory in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        candidate = directory / "nats-server"
        if os.access(candidate, os.X_OK):
            return candidate
    found = shutil.which("nats-server")
    if found is None:
        raise ConnectError(
            "nats.embedded is set, but there is no nats-server beside this Python or in PATH",
            remedy="pip install 'jetsync[server]'",
        )
    return Path(found).absolute()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, at no moment anybody else."""
    new = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As nats-server does: connections of a server that has just ended don't keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    """A port outside the kernel's range for outgoing connections: one could take it while the server is down."""
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError):
        low = 32768
    for _ in range(200):
        port = random.randrange(10_000, low) if low > 11_000 else random.randrange(20_000, 60_000)
        if _is_free(port):
            return port
    raise ConnectError(f"there is no free port on {HOST}", remedy="set nats.embedded.port")
