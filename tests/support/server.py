"""A real nats-server for tests: own port, own store, own config file, own log, stopped with the test.

    server = NatsServer(tmp_path / "nats")
    server.start()            # returns when clients and JetStream are served
    server.url                # nats://127.0.0.1:PORT
    server.kill()             # SIGKILL, as a power cut of the process
    server.restart()          # the same port, the same store
    server.jsz()              # what the server itself says of streams and consumers

Ports are taken from below the kernel's ephemeral range, so that nobody's outgoing connection can sit on the port while
the server is down between kill() and start(). Servers die with the test process when they were started on its main
thread (PR_SET_PDEATHSIG is tied to the thread), and are killed at exit in any case.

`binaries()` lists the servers of several versions that `make servers` and the `server` extra brought.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
from pathlib import Path
from typing import Any, Self

from tests.support.signals import freeze

VENV = Path(sys.prefix)
START_TIMEOUT = 20.0  # seconds; a loaded machine, not a slow server

# Put before a command line: prctl(PR_SET_PDEATHSIG, SIGKILL), then exec. (A preexec_fn would fork a threaded process.)
DIE_WITH_PARENT = (
    sys.executable,
    "-ISc",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
)

_running: weakref.WeakSet[NatsServer] = weakref.WeakSet()


class NatsServer:
    """One nats-server process on loopback. `url`, `port` and `version` are known after the first start().

    store_dir: a directory of this server alone (config, log and JetStream's store). binary: a path, or a name that is
    looked up beside the interpreter and then in PATH. config_extra: lines added to the config file as they are.
    """

    def __init__(
        self,
        store_dir: Path,
        *,
        port: int = 0,
        binary: str | Path = "nats-server",
        config_extra: str = "",
        jetstream: bool = True,
    ) -> None:
        self.store_dir = store_dir
        self.binary = find_binary(binary)
        self.config_extra = config_extra
        self.jetstream = jetstream
        self.port = port
        self.monitoring_port = 0
        self.info: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, and return when the server answers. Raises RuntimeError with the end of its log when it doesn't."""
        if self.running:
            raise RuntimeError("the server runs already")
        self.store_dir.mkdir(parents=True, exist_ok=True)
        chosen_by_caller = bool(self.port)
        for attempt in range(1, 6):
            port = self.port or free_port()
            self.monitoring_port = free_port()
            try:
                self._start_on(port)
            except _PortTakenError:
                if chosen_by_caller and attempt == 5:
                    raise RuntimeError(f"port {port} is taken") from None
                time.sleep(0.1)
                continue
            self.port = port
            return
        raise RuntimeError("no free port after five attempts")

    def stop(self) -> None:
        """SIGTERM, and wait. Nothing happens when it doesn't run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) and start again on the same port with the same store."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as with a hung host. stop() and kill() still work."""
        if self.process is not None and self.process.poll() is None:
            freeze(self.process.pid)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- facts ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def version(self) -> tuple[int, int, int]:
        """As the running server told it, e.g. (2, 15, 1)."""
        major, minor, patch = self.info["version"].split("-")[0].split(".")
        return int(major), int(minor), int(patch)

    @property
    def log(self) -> str:
        path = self.store_dir / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def monitor(self, path: str) -> dict[str, Any]:
        """The monitoring page `path` (such as "varz") as JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitoring_port}/{path}", timeout=10) as answer:
            page: dict[str, Any] = json.load(answer)
        return page

    def jsz(self) -> dict[str, Any]:
        return self.monitor("jsz?accounts=true&streams=true&consumers=true&config=true")

    def streams(self) -> dict[str, dict[str, Any]]:
        """Stream name -> its page in jsz, over all accounts."""
        accounts = self.jsz().get("account_details") or []
        return {stream["name"]: stream for account in accounts for stream in account.get("stream_detail") or []}

    def consumers(self) -> set[tuple[str, str]]:
        """(stream, consumer) of everything that listens now."""
        return {
            (name, consumer["name"])
            for name, stream in self.streams().items()
            for consumer in stream.get("consumer_detail") or []
        }

    # -- inside -----------------------------------------------------------------------------------------------------

    def _start_on(self, port: int) -> None:
        config = self.store_dir / "server.conf"
        config.write_text(self._config(port))
        log = self.store_dir / "server.log"
        tie_to_parent = threading.current_thread() is threading.main_thread()
        with log.open("ab") as out:
            seen = out.tell()
            self.process = subprocess.Popen(
                [*(DIE_WITH_PARENT if tie_to_parent else ()), self.binary, "-c", config],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        _running.add(self)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                text = log.read_bytes()[seen:].decode(errors="replace")
                if "address already in use" in text:
                    raise _PortTakenError
                raise RuntimeError(f"{self.binary} ended with {self.process.returncode}:\n{text[-2000:]}")
            info = read_info(port)
            if info is not None and info["server_name"] == self._name(port):
                self.info = info
                return
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"{self.binary} didn't answer within {START_TIMEOUT} s:\n{self.log[-2000:]}")

    def _name(self, port: int) -> str:
        return f"test-{os.getpid()}-{port}"

    def _config(self, port: int) -> str:
        lines = [
            f'server_name: "{self._name(port)}"',
            f'listen: "127.0.0.1:{port}"',
            f'http: "127.0.0.1:{self.monitoring_port}"',
        ]
        if self.jetstream:
            store = json.dumps(str(self.store_dir / "jetstream"))
            lines.append(f"jetstream {{ store_dir: {store}, max_mem: 1G, max_file: 20G }}")
        return "\n".join([*lines, self.config_extra, ""])

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)  # a paused one has to wake up to end
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class _PortTakenError(Exception):
    pass


@atexit.register
def _stop_the_rest() -> None:
    for server in list(_running):
        server.kill()


def free_port() -> int:
    """A loopback port that nobody listens on, from below the kernel's ephemeral range (32768 and up)."""
    while True:
        port = random.randint(12_000, 31_999)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def read_info(port: int) -> dict[str, Any] | None:
    """The INFO line that a nats-server sends to each new connection; None when nothing useful answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection, connection.makefile("rb") as lines:
            line = lines.readline()
    except OSError:
        return None
    if not line.startswith(b"INFO "):
        return None
    info: dict[str, Any] = json.loads(line[5:])
    return info


def find_binary(binary: str | Path) -> str:
    """The path of a nats-server: as given, beside this interpreter, or in PATH. Raises FileNotFoundError."""
    if os.sep in str(binary):
        return str(binary)
    beside = VENV / "bin" / binary
    found = str(beside) if beside.exists() else shutil.which(str(binary))
    if found is None:
        raise FileNotFoundError(f"no {binary} in {beside.parent} or PATH; run `make install`")
    return found


@functools.cache
def binaries() -> dict[str, Path]:
    """ "major.minor" -> nats-server, for each version that is here: the venv's own, and those of `make servers`."""
    candidates = [
        VENV / "bin" / "nats-server",
        *sorted((VENV / "servers").glob("*/bin/nats-server")),
        VENV / "servers" / "debian" / "usr" / "sbin" / "nats-server",
        Path("/usr/sbin/nats-server"),
        Path("/usr/bin/nats-server"),
    ]
    found: dict[str, Path] = {}
    for path in candidates:
        if not path.exists():
            continue
        # It says nats-server, a colon, a blank, and v2.15.1.
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        label = ".".join(said.strip().rpartition("v")[2].split(".")[:2])
        found.setdefault(label, path)
    return found
