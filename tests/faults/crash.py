"""jetsync, stopped hard at a chosen step: `os._exit(137)`, no cleanup, as if the machine had taken the process away.

    python -m tests.faults.crash [--at N | --after N] [--steps FILE] -- sync -c config.yaml
    python -m tests.faults.crash --plain -- run -c config.yaml   # only the patience with consumers is shortened
    python -m tests.faults.crash --serve      # jobs as JSON lines on stdin, a fork for each: see `Crashes`

A step is one effect that somebody else could see: a message to the server that changes something (chunk, meta, marker,
purge, consumer, stream), the answer to a meta, a commit of the state, and each call to the system that makes, changes,
moves, removes or flushes a file. Messages that are sent in one piece are a step each. Steps are numbered as they come
and written down with a name. `--at N` ends the process right before step N; `--after N` right after it, which for a
message means: it is on the wire whole, and nobody has read its answer. What the process still had in its own buffers is
gone, as with any other death.

Nothing in jetsync knows of this: the functions that have the effects are replaced before the command starts. Grace
times are shortened (`shorten_graces`), so that what is cleaned up after minutes is cleaned up by the next run.

Forks of a process that has imported everything start in no time. That process has one thread, and its children inherit
no random state that matters: nuids and the names of staged files come from the kernel.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from tests.support.agent import Result, environment
from tests.support.server import DIE_WITH_PARENT

REPOSITORY = Path(__file__).parents[2]
STOPPED = 137
CONSUMER_SECONDS = 5  # after which the server drops a consumer that nobody reads from any more (30 in the product)

Name = Callable[..., str | None]  # of a call, by its arguments; None: it has no effect

_OS_CALLS = (
    "rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "open", "write", "pwrite", "truncate",
    "ftruncate", "fsync", "fdatasync", "chmod", "fchmod", "chown", "utime",
)  # fmt: skip
_API = re.compile(r"\.API\.(STREAM\.(?:CREATE|UPDATE|PURGE|DELETE|MSG\.DELETE)|CONSUMER\.(?:CREATE|DELETE))\.(.*)")
_RANDOM = re.compile(r"\b[0-9a-f]{12}-|\b\d{8}T\d{6}Z-\d+")  # names of staged files and of batches in the trash


class Steps:
    """Numbers the steps of this process, and ends it at one of them. Thread-safe."""

    def __init__(self, *, at: int | None = None, after: int | None = None, log: Path | None = None) -> None:
        self._at = at
        self._after = after
        self._lock = threading.Lock()
        self._next = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if log else -1
        self._write = os.write

    def step(self, name: str, call: Callable[[], Any], *, on_the_way: Callable[[], None] = lambda: None) -> Any:
        """Take one step. on_the_way: sees to it that a message which `call` has sent is out of this process."""
        with self._lock:
            number = self._next
            self._next += 1
            if self._log >= 0:
                self._write(self._log, f"{number} {name}\n".encode(errors="replace"))
            if number == self._at:
                os._exit(STOPPED)
        result = call()
        if number == self._after:
            on_the_way()
            os._exit(STOPPED)
        return result

    def install(self) -> None:
        """Replace the functions that have effects."""
        from agent.directory import syscalls

        for call in _OS_CALLS:
            self._replace(os, call, lambda *args, call=call, **kwargs: _name_of_call(call, args))
        self._replace(syscalls, "renameat2", _name_of_renameat2)
        self._replace(syscalls, "syncfs", lambda *_: "syncfs")
        self._install_commits()
        self._install_messages()

    def _replace(self, module: Any, attribute: str, name: Name) -> None:
        real = getattr(module, attribute)

        def replaced(*args: Any, **kwargs: Any) -> Any:
            named = name(*args, **kwargs) if _is_ours() else None
            return real(*args, **kwargs) if named is None else self.step(named, lambda: real(*args, **kwargs))

        setattr(module, attribute, replaced)

    def _install_commits(self) -> None:
        from agent.state.database import Database

        real = Database.run

        def run(database: Database, sql: str, values: Any = ()) -> int:
            if sql != "COMMIT":
                return real(database, sql, values)
            return int(self.step(f"commit by {_committer()}", lambda: real(database, sql, values)))

        Database.run = run  # type: ignore[method-assign, assignment]

    def _install_messages(self) -> None:
        from agent.objectstore.publish import Pending, Publisher
        from agent.objectstore.volley import Message, Volley

        real_write, real_result = Publisher._write, Publisher.set_result

        def write(publisher: Publisher, subject: str, reply: str, payload: Any, headers: bytes) -> None:
            name = _name_of_message(subject, payload, headers)
            if name is None:
                return real_write(publisher, subject, reply, payload, headers)
            self.step(
                name,
                lambda: real_write(publisher, subject, reply, payload, headers),
                on_the_way=lambda: _flush(publisher._client),
            )
            return None

        def write_many(publisher: Publisher, first: int, messages: Sequence[Message]) -> None:
            for number, (subject, payload, headers) in enumerate(messages, first):
                publisher._write(subject, f"{publisher._inbox}.{number}", payload, headers)

        def set_result(publisher: Publisher, message: Any) -> None:
            token = message.subject.rpartition(".")[2]
            waiting = publisher._waiting.get(token)
            subject = waiting.subject_of(token) if isinstance(waiting, Pending | Volley) else ""
            if ".M." in subject:
                self.step(f"answered: meta of {_object_name(subject)}", lambda: real_result(publisher, message))
            else:
                real_result(publisher, message)

        Publisher._write = write  # type: ignore[method-assign, assignment]
        Publisher._write_many = write_many  # type: ignore[method-assign, assignment]
        Publisher.set_result = set_result  # type: ignore[method-assign, assignment]


def _is_ours() -> bool:
    """Whether it is jetsync that calls, and not a library."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("agent.")


def _name_of_call(call: str, args: Sequence[Any]) -> str | None:
    if call == "open" and not args[1] & os.O_CREAT:
        return None
    names = [] if "write" in call else [arg for arg in args if isinstance(arg, str | bytes | os.PathLike)]
    words = [_RANDOM.sub("~", os.fsdecode(name)) for name in names]
    if args and isinstance(args[0], int) and call not in ("open", "mkdir"):
        path = os.readlink(f"/proc/self/fd/{args[0]}")
        words.insert(0, _RANDOM.sub("~", "/".join(path.split("/")[-2:])))
    return " ".join([call, *words])


def _name_of_renameat2(_src_fd: int, src: str, _dst_fd: int, dst: str, flags: int) -> str | None:
    if not src:
        return None  # only asks whether the kernel has it
    return _name_of_call("exchange" if flags == 2 else "rename without replacing", (src, dst))


def _committer() -> str:
    """The function of agent.sync (or whichever room) on whose behalf the state is written."""
    frame, found = sys._getframe(2), "?"
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("agent.") and not module.startswith("agent.state") and frame.f_code.co_name != "<lambda>":
            return f"{module.removeprefix('agent.')}.{frame.f_code.co_name}"
        if module.startswith("agent.sync"):
            found = module.removeprefix("agent.")
        back = frame.f_back
        if back is None:
            break
        frame = back
    return found


def _object_name(subject: str) -> str:
    return base64.urlsafe_b64decode(subject.rpartition(".")[2]).decode(errors="replace")


def _name_of_message(subject: str, payload: bytes | memoryview, headers: bytes) -> str | None:
    if subject.startswith("$O."):
        if b"Nats-Expected-Stream: -" in headers:
            return None  # a fence: the server refuses it
        if ".C." in subject:
            return f"chunk of {len(payload)} bytes"
        what = "marker" if b'"deleted":true' in bytes(payload).replace(b" ", b"") else "meta"
        batch = re.search(rb"Nats-Batch-Sequence: *(\d+)", headers)
        return f"{what} of {_object_name(subject)}" + (f", {batch[1].decode()} of a batch" if batch else "")
    found = _API.search(subject)
    return f"{found[1]}" if found else None


def _flush(client: Any) -> None:
    """Write what nats-py and asyncio still have in their buffers to the socket, whole."""
    transport = client._transport._io_writer.transport
    buffered = transport._buffer
    data = bytes(buffered) if isinstance(buffered, bytes | bytearray) else b"".join(buffered)
    data += b"".join(client._pending)
    wire = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    wire.setblocking(True)
    wire.sendall(data)
    time.sleep(0.02)  # the server reads it before it sees that the connection has ended


def shorten_graces(*, consumers_only: bool = False) -> None:
    """What waits until readers, writers and the server have had their time is done at once."""
    from agent.objectstore import consumer
    from agent.sync import committing, janitor

    graces: list[tuple[Any, str, int]] = [(consumer, "INACTIVE", CONSUMER_SECONDS * 1_000_000_000)]
    if not consumers_only:
        graces += [
            (janitor, "ORPHAN_SECONDS", 0),
            (janitor, "DEAD_SESSION_SECONDS", 0),
            (committing, "OLD_CHUNKS_SECONDS", 0),
        ]
    for module, constant, value in graces:
        assert hasattr(module, constant), f"{module.__name__} has no {constant} any more"
        setattr(module, constant, value)


def poor_file_system() -> None:
    """As on a file system without renameat2."""
    from agent.directory.syscalls import Capabilities

    Capabilities.probe = lambda _fd: Capabilities(exchange=False, noreplace=False)  # type: ignore[method-assign, assignment]


# -- one run ---------------------------------------------------------------------------------------------------------


def run(argv: Sequence[str], *, at: int | None, after: int | None, steps: Path | None, poor: bool = False) -> NoReturn:
    """Run a command of jetsync in this process, and end the process with its code."""
    from agent.cli import context
    from agent.cli import run as run_command

    context.loop_factory = lambda: None  # asyncio's own loop: `_flush` knows where that keeps its bytes
    shorten_graces()
    if poor:
        poor_file_system()
    Steps(at=at, after=after, log=steps).install()
    code = run_command(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_plain(argv: Sequence[str]) -> NoReturn:
    """Run a command as it is, but for the time after which the server drops a consumer that nobody reads from."""
    from agent.cli import run as run_command

    shorten_graces(consumers_only=True)
    sys.exit(run_command(argv))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.crash")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--at", type=int)
    parser.add_argument("--after", type=int)
    parser.add_argument("--steps", type=Path)
    parser.add_argument("--poor", action="store_true")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
    elif arguments.plain:
        run_plain(arguments.command)
    else:
        run(arguments.command, at=arguments.at, after=arguments.after, steps=arguments.steps, poor=arguments.poor)


# -- many runs -------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Read jobs from stdin, fork for each, answer with its exit code."""
    _warm_up()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(job)
        print(json.dumps({"code": _wait(child, job["timeout"])}), flush=True)


def _warm_up() -> None:
    """Have imported and built whatever a command needs only once it runs."""
    for late in ("agent.objectstore", "agent.supervisor.once", "structlog", "encodings.idna", "encodings.utf_8_sig"):
        importlib.import_module(late)
    from agent.cli import run as run_command

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = Path(folder) / "config.yaml"
        config.write_text("{version: 1, nats: {servers: [nats://127.0.0.1:1]}}\n")
        assert run_command(["-c", str(config), "config", "validate"]) == 0


def _work(job: dict[str, Any]) -> NoReturn:
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        for number, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
            os.close(opened)
        os.environ["TMPDIR"] = job["tmp"]
        tempfile.tempdir = None
        random.seed()
        run(
            job["argv"],
            at=job["at"],
            after=job["after"],
            steps=Path(job["steps"]) if job["steps"] else None,
            poor=job["poor"],
        )
    finally:
        os._exit(99)


def _wait(child: int, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        time.sleep(0.002)


@dataclass(frozen=True)
class Run:
    """How a run ended, and the steps that it took, by name."""

    result: Result
    steps: list[str]

    @property
    def stopped(self) -> bool:
        return self.result.code == STOPPED


class Crashes:
    """Runs jetsync again and again, each time in a process of its own. A context manager."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [*DIE_WITH_PARENT, sys.executable, "-m", "tests.faults.crash", "--serve"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment(), "PYTHONWARNINGS": "default"},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(
        self,
        home: Path,
        *argv: str,
        at: int | None = None,
        after: int | None = None,
        poor: bool = False,
        timeout: float = 60.0,
    ) -> Run:
        """Run `jetsync ARGV` with the configuration in `home`; what it says goes to files there."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        steps, out, err, tmp = home / "steps", home / "out", home / "err", home / "tmp"
        tmp.mkdir(exist_ok=True)
        command = ["-c", str(home / "config.yaml"), *argv]
        job = {
            "argv": command, "at": at, "after": after, "poor": poor, "timeout": timeout,
            "steps": str(steps), "out": str(out), "err": str(err), "tmp": str(tmp),
        }  # fmt: skip
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = json.loads(self._server.stdout.readline())["code"]
        named = [line.partition(" ")[2] for line in steps.read_text(errors="replace").splitlines()]
        result = Result(tuple(command), code, out.read_text(), err.read_text(errors="replace"))
        assert code != -signal.SIGKILL, f"it still runs after {timeout} s: {result}\nlast steps: {named[-5:]}"
        return Run(result, named)


if __name__ == "__main__":
    main()
