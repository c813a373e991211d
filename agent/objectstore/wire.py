"""The way in: from the socket to whoever waits, with fewer copies and fewer steps than nats-py takes.

nats-py reads 32 KiB at a time, copies each payload three times, matches regular expressions against each line, and
builds a coroutine, a dict of headers and a message object for every message. For acks of small objects and chunks of
large ones that is half of all the work. Here

    read_loop     takes whatever the socket has brought, up to a mebibyte
    WireParser    cuts it up: a payload is sliced once, or joined once when it came in pieces. A message for a
                  subscription with a `future` (the publisher's inbox) goes to it directly, as a Delivered whose
                  headers are parsed when somebody looks at them. Everything else goes nats-py's own way

Both stand in for members of nats-py's Client of the same meaning (`_ps`, `_read_loop`); see client.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agent.objectstore.natspy import errors

_READ = 1 << 20
_MAX_LINE = 1 << 20  # an INFO line of a large cluster is long; the server's own control lines have 4096 bytes at most
_NO_HEADERS: dict[str, str] = {}


class Delivered:
    """A message for us."""

    __slots__ = ("_block", "_headers", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, block: bytes) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._block = block
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        if self._headers is None:
            self._headers = parse_headers(self._block) if self._block else _NO_HEADERS
        return self._headers


def parse_headers(block: bytes) -> dict[str, str]:
    """Headers of a message; an inline status stands under "Status" and "Description", as nats-py has it."""
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    status = first[8:].strip()  # behind "NATS/1.0"
    if status:
        headers["Status"], _, description = status.partition(" ")
        if description:
            headers["Description"] = description
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            headers[key.strip()] = value.strip()
    return headers


class WireParser:
    """Fed with what was read, in pieces of any size. Raises ProtocolError for what isn't the NATS protocol."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.reset()

    def reset(self) -> None:
        self._line = b""  # the beginning of a line
        self._parts: list[bytes] = []  # of a payload
        self._have = 0
        self._need = 0  # size of the payload with its line end; 0: a line is next
        self._sid = 0
        self._subject = b""
        self._reply = b""
        self._header_size = 0

    async def parse(self, data: bytes = b"") -> None:
        if self._need:
            missing = self._need - self._have
            if len(data) < missing:
                self._parts.append(data)
                self._have += len(data)
                return
            self._parts.append(data[:missing])
            whole = b"".join(self._parts)
            self._parts = []
            await self._message(whole, 0)
            at = missing
        else:
            at = 0
            if self._line:
                data = self._line + data
                self._line = b""
        size = len(data)
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                self._line = data[at:]
                if len(self._line) > _MAX_LINE:
                    raise errors.ProtocolError("nats: a line without an end")
                return
            line = data[at:end]
            at = end + 2
            if line.startswith((b"MSG ", b"HMSG ")):
                self._begin(line)
                if size - at < self._need:
                    self._parts = [data[at:]]
                    self._have = size - at
                    return
                begin, at = at, at + self._need
                await self._message(data, begin)
            else:
                await self._control(line)

    def _begin(self, line: bytes) -> None:
        try:
            words = line.split()
            with_headers = words[0] == b"HMSG"
            self._header_size = int(words[-2]) if with_headers else 0
            self._reply = words[3] if len(words) == (6 if with_headers else 5) else b""
            self._subject, self._sid = words[1], int(words[2])
            self._need = int(words[-1]) + 2
        except (ValueError, IndexError) as error:
            raise errors.ProtocolError("nats: malformed MSG") from error
        if not 0 <= self._header_size <= self._need - 2:
            raise errors.ProtocolError("nats: malformed MSG")

    async def _message(self, data: bytes, begin: int) -> None:
        """A message whose payload, headers first, begins there."""
        middle, end = begin + self._header_size, begin + self._need - 2
        block = data[begin:middle]
        payload = data[middle:end]
        self._need = self._have = 0
        client = self._client
        sub = client._subs.get(self._sid)  # noqa: SLF001 - this is a part of the client
        sink = sub._future if sub is not None else None  # noqa: SLF001
        if sink is None or isinstance(sink, asyncio.Future):
            await client._process_msg(self._sid, self._subject, self._reply, payload, block or None)  # noqa: SLF001
            return
        client.stats["in_msgs"] += 1
        client.stats["in_bytes"] += len(payload)
        sink.set_result(Delivered(self._subject.decode(), self._reply.decode(), payload, block))

    async def _control(self, line: bytes) -> None:
        client = self._client
        word = line[:5].upper().split(None, 1)[0] if line.strip() else b""
        if word == b"PING":
            await client._process_ping()  # noqa: SLF001 - this is a part of the client
        elif word == b"PONG":
            await client._process_pong()  # noqa: SLF001
        elif word == b"INFO":
            try:
                info = json.loads(line[5:])
            except ValueError as error:
                raise errors.ProtocolError("nats: malformed INFO") from error
            await client._process_info(info)  # noqa: SLF001
        elif word == b"-ERR":
            await client._process_err(line[5:].decode("utf-8", "replace").strip().lower())  # noqa: SLF001
        elif word != b"+OK":
            raise errors.ProtocolError("nats: unknown protocol")


async def read_loop(client: Any) -> None:
    """nats-py's `_read_loop`, with larger reads."""
    while True:
        transport = client._transport  # noqa: SLF001 - this is a part of the client
        if client.is_closed or client.is_reconnecting or transport is None:
            return
        reader = getattr(transport, "_io_reader", None)
        if reader is not None and getattr(reader, "_limit", _READ) < _READ:
            reader._limit = _READ  # noqa: SLF001 - the reader pauses the socket at twice this
        try:
            if transport.at_eof():
                problem = errors.UnexpectedEOF()
                await client._error_cb(problem)  # noqa: SLF001
                await client._process_op_err(problem)  # noqa: SLF001
                return
            await client._ps.parse(await transport.read(_READ))  # noqa: SLF001
        except errors.ProtocolError:
            await client._process_op_err(errors.ProtocolError())  # noqa: SLF001
            return
        except OSError as error:
            await client._process_op_err(error)  # noqa: SLF001
            return
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was: a reader that has ended must not look alive
            await client._error_cb(error)  # noqa: SLF001
            await client._process_op_err(error)  # noqa: SLF001
            return
