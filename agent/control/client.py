"""The command's end of the control socket: plain blocking sockets, so that a command starts quickly.

    answer = call(state_dir, "status")
    if answer is None:
        ...  # no agent runs on this state directory: the command does the work itself

Finding no socket, or one that nobody listens on (the agent was killed), is None. Everything else that prevents an
answer is an error, so that two programs never work on one state by mistake.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.control.protocol import (
    ANSWER_LIMIT,
    REQUEST_LIMIT,
    SOCKET_NAME,
    Address,
    ControlError,
    decode,
    encode,
    error_from_wire,
)
from agent.errors import NotAllowedError

_CONNECT_SECONDS: Final = 5.0
_BUSY_PAUSE: Final = 0.05
_READ_SIZE: Final = 1 << 16


def call(
    state_dir: Path,
    command: str,
    args: Mapping[str, Any] | None = None,
    *,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    timeout: float | None = None,
) -> dict[str, Any] | None:
    """Let the agent that runs on `state_dir` carry out `command`; None when no agent runs there.

    on_event: called for each progress event. timeout: seconds for the whole call, None = as long as it takes. Leaving
    early (an exception in on_event, Ctrl-C) tells the agent that nobody waits any more.

    Raises what the agent raised; NotAllowedError when the socket belongs to another user; ControlError when the agent
    went away, didn't answer in time, or said something else than an answer.
    """
    request = encode({"command": command, "args": dict(args or {})})
    if len(request) > REQUEST_LIMIT:
        raise ControlError(f"the request is too long for the agent: {len(request)} bytes")
    deadline = None if timeout is None else time.monotonic() + timeout
    connection = _connect(state_dir)
    if connection is None:
        return None
    with connection:
        return _converse(connection, request, on_event, deadline)


def running(state_dir: Path) -> bool:
    """Whether an agent listens on `state_dir`. Raises NotAllowedError."""
    connection = _connect(state_dir)
    if connection is None:
        return False
    connection.close()
    return True


def _connect(state_dir: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_SECONDS)
        with Address(state_dir) as address:
            _connect_when_free(connection, address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connection.close()
        return None
    except PermissionError as error:
        connection.close()
        raise _not_allowed(state_dir) from error
    except OSError as error:
        connection.close()
        raise ControlError(
            f"can't talk to the agent through {state_dir / SOCKET_NAME}: {error.strerror or error}",
            remedy="look whether the agent is stopped or overloaded",
        ) from error
    return connection


def _not_allowed(state_dir: Path) -> NotAllowedError:
    if os.access(state_dir, os.X_OK, effective_ids=True):
        return NotAllowedError(
            f"not allowed to talk to the agent through {state_dir / SOCKET_NAME}",
            remedy="run the command as the user that the agent runs as",
        )
    return NotAllowedError(
        f"state_dir {state_dir}: user {os.geteuid()} is not allowed to enter it",
        remedy="run the command as the user that the agent runs as, or give the directory to this one "
        "(in Kubernetes: fsGroup)",
    )


def _connect_when_free(connection: socket.socket, address: str) -> None:
    """connect; a Unix socket whose queue is full refuses with EAGAIN at once, whatever the time-out."""
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            return connection.connect(address)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_BUSY_PAUSE)


def _converse(
    connection: socket.socket,
    request: bytes,
    on_event: Callable[[dict[str, Any]], None] | None,
    deadline: float | None,
) -> dict[str, Any]:
    lines = _Lines(connection, deadline)
    try:
        connection.settimeout(_CONNECT_SECONDS)
        connection.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it may have answered (a refusal) before it read
    except OSError as error:
        raise ControlError(f"the agent doesn't take requests: {error}") from error
    while True:
        message = decode(lines.next())
        if "result" in message and isinstance(message["result"], dict):
            return dict(message["result"])
        if "error" in message:
            raise error_from_wire(message["error"])
        if not isinstance(message.get("event"), dict):
            raise ControlError("the agent answered with something that is neither event, result nor error")
        if on_event is not None:
            on_event(message["event"])


class _Lines:
    """The lines that come in, each within the deadline and the limit."""

    def __init__(self, connection: socket.socket, deadline: float | None) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = bytearray()

    def next(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > ANSWER_LIMIT:
                raise ControlError(f"the agent's answer is longer than {ANSWER_LIMIT} bytes")
            self._buffer += self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _receive(self) -> bytes:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            if left is not None and left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            data = self._connection.recv(_READ_SIZE)
        except TimeoutError as error:
            raise ControlError(
                "the agent did not answer in time",
                remedy="it goes on with its work; look at `jetsync status` and its log, or allow more time",
            ) from error
        except OSError:
            data = b""
        if not data:
            raise ControlError(
                "the agent closed the connection before it answered",
                remedy="it was stopped or has crashed; look at its log",
            )
        return data
