"""The agent's end of the control socket.

One connection carries one request. Its handler runs as a task of its own, and is cancelled when the client goes away:
so a handler must only *wait* for work that belongs to the agent (asyncio.shield, an event), never be that work. Events
are progress, and are dropped while a client doesn't read; the result is always sent.

Who may talk: the file has mode 0600, and the kernel says who is at the other end (SO_PEERCRED): our user, or root.

The socket is bound under a temporary name and renamed to its place, so that it is never there unable to listen, and a
stale one of a killed agent is replaced in the same step. When somebody answers on it another agent runs: LockedError.
(The state's lock is what really keeps a second agent out; this only gives the better message.)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.control import client
from agent.control.protocol import (
    REQUEST_LIMIT,
    SOCKET_NAME,
    Address,
    ControlError,
    decode_request,
    encode,
    error_to_wire,
)
from agent.errors import JetsyncError, LockedError, NotAllowedError
from agent.observe.logging import get_logger

Emit = Callable[[Mapping[str, Any]], None]
Handler = Callable[[dict[str, Any], Emit], Awaitable[Mapping[str, Any]]]

_REQUEST_SECONDS: Final = 10.0  # for a client to say what it wants
_ANSWER_SECONDS: Final = 30.0  # for a client to take the answer
_CLOSE_SECONDS: Final = 2.0
_CONNECTIONS: Final = 64
_BACKLOG: Final = 64
_EVENT_BUFFER: Final = 1 << 18  # bytes that a client may leave unread before events are dropped
# From 3.13 on asyncio removes the file by the name it was bound under: which is none by then, or not reachable.
_KEEP_THE_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


@contextlib.asynccontextmanager
async def serve(state_dir: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[ControlServer]:
    """A ControlServer, started and in the end stopped."""
    server = ControlServer(state_dir, handlers)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class ControlServer:
    """handlers: per command, a coroutine function of (args, emit) that gives the result, a JSON object."""

    def __init__(self, state_dir: Path, handlers: Mapping[str, Handler]) -> None:
        self._state_dir = state_dir
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._conversations: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises LockedError when another agent answers there, ControlError when there can't be a socket."""
        listening = await asyncio.to_thread(self._bind)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listening, limit=REQUEST_LIMIT, backlog=_BACKLOG, **_KEEP_THE_FILE
        )

    async def stop(self) -> None:
        """Take the socket away and cancel the handlers; their clients are told that the agent stops."""
        server, self._server = self._server, None
        if server is None:
            return
        self._unlink()
        await _turns()  # before the close: asyncio loses a connection that it is just accepting
        server.close()
        for _ in range(2):  # the second time for those whose client doesn't take the farewell
            for task in self._conversations:
                task.cancel()
            if self._conversations:
                await asyncio.wait(tuple(self._conversations), timeout=_CLOSE_SECONDS)
        await _turns()

    # -- the socket --

    def _bind(self) -> socket.socket:
        try:
            if client.running(self._state_dir):
                raise LockedError(
                    f"another agent runs on {self._state_dir}", remedy="stop it, or give this one its own state_dir"
                )
        except ControlError:
            pass  # something is there that doesn't answer: it is replaced
        temporary = f"{SOCKET_NAME}.{os.getpid()}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listening.fileno(), 0o600)  # before bind: Linux makes the file with the mode of the socket
            with Address(self._state_dir, temporary) as address:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(address)
                listening.bind(address)
            listening.listen(_BACKLOG)
            os.chmod(self._state_dir / temporary, 0o600)
            os.rename(self._state_dir / temporary, self._state_dir / SOCKET_NAME)
            self._inode = os.stat(self._state_dir / SOCKET_NAME).st_ino
        except OSError as error:
            listening.close()
            with contextlib.suppress(OSError):
                os.unlink(self._state_dir / temporary)
            raise _explain(self._state_dir, error) from error
        listening.setblocking(False)
        return listening

    def _unlink(self) -> None:
        """Remove our socket, but not that of an agent that has replaced it."""
        path = self._state_dir / SOCKET_NAME
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == self._inode:
                os.unlink(path)

    # -- conversations --

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._converse(reader, writer), name="control conversation")
        self._conversations.add(task)

        def end(task: asyncio.Task[None]) -> None:  # also when it was cancelled before its first step
            self._conversations.discard(task)
            writer.transport.abort()

        task.add_done_callback(end)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await self._answer(reader, writer))
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), _ANSWER_SECONDS)  # all of it is out then
        except (_ClientGoneError, ConnectionError, TimeoutError):
            pass  # the client is gone, or doesn't read: nobody waits for the answer

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """The last line of the conversation. Raises _ClientGoneError."""
        command = ""
        try:
            self._admit(writer)
            command, args = await _request(reader)
            handler = self._handlers.get(command)
            if handler is None:
                raise ControlError(
                    f"the running agent doesn't know the command {command!r}",
                    remedy="it may be of another version than this program; restart it with this one",
                )
            return encode({"result": await self._run(handler, args, reader, writer)})
        except JetsyncError as error:
            return _failure(error)
        except _ClientGoneError:
            raise
        except asyncio.CancelledError:
            if self._server is not None:
                raise
            return _failure(ControlError("the agent is stopping", remedy="run the command again when it is back"))
        except Exception as error:  # noqa: BLE001 - a bug in one handler is that command's failure, not the agent's
            get_logger().error("a command through the control socket failed", command=command, exc_info=error)
            return _failure(ControlError(f"the agent failed: {type(error).__name__}", remedy="look at its log"))

    def _admit(self, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if not may_talk(uid):
            raise NotAllowedError(
                f"the agent doesn't take commands of user {uid}",
                remedy="run the command as the user that the agent runs as",
            )
        if len(self._conversations) > _CONNECTIONS:
            raise ControlError("the agent is busy with other commands", remedy="try again")

    async def _run(
        self,
        handler: Handler,
        args: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> Mapping[str, Any]:
        """The handler's result. Raises _ClientGoneError when the client went away first; it is cancelled then."""

        def emit(event: Mapping[str, Any]) -> None:
            if writer.transport.get_write_buffer_size() < _EVENT_BUFFER and not writer.is_closing():
                writer.write(encode({"event": event}))

        async def handle() -> Mapping[str, Any]:
            return await handler(args, emit)

        work = asyncio.create_task(handle(), name="control handler")
        gone = asyncio.create_task(_end(reader), name="control client")
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _ClientGoneError
            if work.cancelled():
                raise ControlError("the agent gave up the command", remedy="it was reloaded meanwhile; try again")
            return work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _turns() -> None:
    """A few turns of the loop: connections just accepted become conversations, and closed ones let go their sockets."""
    for _ in range(5):
        await asyncio.sleep(0)


class _ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def may_talk(uid: int) -> bool:
    """Whether a process of this user may give commands to this one."""
    return uid in (0, os.geteuid())


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    try:
        line = await asyncio.wait_for(reader.readuntil(b"\n"), _REQUEST_SECONDS)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise _ClientGoneError from error
    except TimeoutError as error:
        raise ControlError("no request came in time") from error
    except asyncio.LimitOverrunError as error:
        raise ControlError(f"the request is longer than {REQUEST_LIMIT} bytes") from error
    return decode_request(line)


async def _end(reader: asyncio.StreamReader) -> None:
    """Returns when the client closes its end. What it may still send means nothing."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


def _failure(error: JetsyncError) -> bytes:
    return encode({"error": error_to_wire(error)})


def _explain(state_dir: Path, error: OSError) -> ControlError:
    remedy = "the agent needs a state_dir that it can write to"
    if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP):
        remedy = "the file system of state_dir has no Unix sockets; give state_dir a local one"
    return ControlError(f"no control socket can be made in {state_dir}: {error.strerror}", remedy=remedy)
