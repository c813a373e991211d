"""The control protocol: JSON, one message per line, over `state_dir/control.sock`; one request per connection.

    ->  {"command": "sync", "args": {"names": ["inbox"]}}
    <-  {"event": {...}}                          any number: progress, which may be dropped for a slow reader
    <-  {"result": {...}}                         or
    <-  {"error": {"class", "message", "remedy", "exit_code", "details"}}

The client keeps the connection open until the answer; closing it means that nobody waits any more. Errors of
`agent.errors` come out of the client as the class that the agent raised; an unknown one (the agent may be newer)
becomes a ControlError with the same message, remedy and exit code.

A socket's path is at most 107 bytes, and a state directory's may be longer: `Address` then goes through a descriptor of
the directory, as `/proc/self/fd/N/control.sock`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from agent import errors
from agent.errors import ConfigError, ConfigProblem, JetsyncError

SOCKET_NAME: Final = "control.sock"
REQUEST_LIMIT: Final = 1 << 20  # bytes of one line: names and options
ANSWER_LIMIT: Final = 256 << 20  # a result may list every path of a large mapping

_PATH_LIMIT: Final = 107  # bytes in sockaddr_un, less the final NUL


class ControlError(JetsyncError):
    """The conversation with the running agent failed, or the agent failed in a way that has no class here."""


class Address:
    """Where the socket of `state_dir` is, as a path short enough for bind and connect while the context is open.

    name: the file in the directory. Raises FileNotFoundError, NotADirectoryError or PermissionError on entering when
    the path is long and its directory can't be opened.
    """

    def __init__(self, state_dir: Path, name: str = SOCKET_NAME) -> None:
        self._directory = state_dir
        self._name = name
        self._descriptor = -1

    def __enter__(self) -> str:
        path = os.path.join(self._directory, self._name)
        if len(os.fsencode(path)) <= _PATH_LIMIT:
            return path
        self._descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{self._name}"

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Raises TypeError or ValueError when `message` is not JSON."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of one line. Raises ControlError for anything but a JSON object."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError("not a control message: it isn't JSON") from error
    if not isinstance(message, dict):
        raise ControlError("not a control message: it isn't an object")
    return message


def decode_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """Command and arguments. Raises ControlError."""
    message = decode(line)
    command, args = message.get("command"), message.get("args", {})
    if not isinstance(command, str) or not isinstance(args, dict):
        raise ControlError('not a request: it needs {"command": text, "args": object}')
    return command, args


def error_to_wire(error: JetsyncError) -> dict[str, Any]:
    """What `error_from_wire` makes the same error of. details: its own attributes that are plain values."""
    details: dict[str, Any] = {
        key: value
        for key, value in vars(error).items()
        if key not in ("message", "remedy", "exit_code") and isinstance(value, str | int | float | None)
    }
    if isinstance(error, ConfigError):
        details["problems"] = [[each.file, each.line, each.column, each.message] for each in error.problems]
    return {
        "class": type(error).__name__,
        "message": error.message,
        "remedy": error.remedy,
        "exit_code": error.exit_code,
        "details": details,
    }


def error_from_wire(value: object) -> JetsyncError:
    """The error that the agent raised, to be raised here. Whatever the value is, an error comes out of it."""
    wire = value if isinstance(value, dict) else {}
    message = str(wire.get("message") or "the agent reported an error and didn't say which")
    details = wire.get("details")
    details = dict(details) if isinstance(details, dict) else {}
    kind = getattr(errors, str(wire.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, JetsyncError)):
        kind = ControlError
    # Each class has its own constructor; the attributes are what matters, and they are all here.
    error = kind.__new__(kind, message)
    error.__dict__.update(details)
    if isinstance(error, ConfigError):
        error.problems = _problems(details.get("problems"))
    error.message = message
    error.remedy = str(wire.get("remedy") or "")
    exit_code = wire.get("exit_code")
    if isinstance(exit_code, int) and exit_code != error.exit_code:
        error.exit_code = exit_code
    return error


def _problems(value: object) -> tuple[ConfigProblem, ...]:
    try:
        return tuple(ConfigProblem(*each) for each in value)  # type: ignore[attr-defined]
    except TypeError:
        return ()
