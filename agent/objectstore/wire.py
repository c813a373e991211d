"""The way in: from the socket to whoever waits, with fewer copies and fewer steps than nats-py takes.

nats-py reads 32 KiB at a time through a StreamReader, copies each payload five times, matches regular expressions
against each line, and builds a coroutine, a dict of headers and a message object for every message. For acks of small
objects and chunks of large ones that is most of all the work. Here

    Receiver      takes the place of the StreamReader once nats-py has shaken hands. The kernel writes into its buffer,
                  and the rest of a large payload straight into the bytearray that the reader of the message gets
    WireParser    cuts it up. A message for a subscription with a `future` (the publisher's inbox) goes to it at once,
                  as a Delivered whose headers are parsed when somebody looks at them. Everything else is set aside and
                  goes nats-py's own way
    read_loop     does what was set aside, and ends when the connection does. On a WebSocket it reads as nats-py does

WireParser and read_loop stand in for members of nats-py's Client of the same meaning (`_ps`, `_read_loop`); see
client.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from agent.objectstore.natspy import errors

_BUFFER = 1 << 16
_DIRECT = 1 << 15  # what is missing of a payload is received in place from this size on
_READ = 1 << 20
_MAX_LINE = 1 << 20  # an INFO line of a large cluster is long; the server's own control lines have 4096 bytes at most
_NO_STATUS = b"NATS/1.0\r\n"
_NO_HEADERS: dict[str, str] = {}

Data = bytes | bytearray
"""A payload: a bytearray when it came in pieces. Nobody writes to it."""


class Delivered:
    """A message for us."""

    __slots__ = ("_block", "_headers", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: Data, block: bytes) -> None:
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

    @property
    def status(self) -> int:
        """The inline status, 0 when it has none: most have none, and their headers needn't be parsed to see it."""
        if not self._block or self._block.startswith(_NO_STATUS):
            return 0
        text = self.headers.get("Status", "")
        return int(text) if text.isdigit() else 0


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
    """Fed with what was read, in pieces of any size. Raises ProtocolError for what isn't the NATS protocol.

    `aside`: what is for nats-py itself, until `carry_out` is called.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.reset()

    def reset(self) -> None:
        self.aside: deque[bytes | tuple[int, bytes, bytes, bytes, bytes]] = deque()
        self._rest = b""  # the beginning of a line, or of the headers behind it
        self._skip = 0  # of the line end behind a payload
        self._sid = 0
        self._subject = b""
        self._reply = b""
        self._header_size = 0
        self._size = 0
        self._block = b""
        self._payload: bytearray | None = None  # one that comes in pieces
        self._have = 0

    async def parse(self, data: bytes = b"") -> None:
        """Feed, and do at once what nats-py has to do."""
        self.feed(data)
        await self.carry_out()

    def room(self) -> memoryview | None:
        """Where to receive the rest of a large payload; `received` says how much has come. None: feed what comes."""
        payload = self._payload
        if payload is None or len(payload) - self._have < _DIRECT:
            return None
        return memoryview(payload)[self._have :]

    def received(self, count: int) -> None:
        self._have += count
        if self._payload is not None and self._have == len(self._payload):
            self._whole(self._payload)

    def feed(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, size = 0, len(data)
        while at < size:
            if self._payload is not None:
                more = data[at : at + len(self._payload) - self._have]
                self._payload[self._have : self._have + len(more)] = more
                at += len(more)
                self.received(len(more))
                continue
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._rest = data[at:]
                if len(self._rest) > _MAX_LINE:
                    raise errors.ProtocolError("nats: a line without an end")
                return
            line = data[at:end]
            if not line.startswith((b"MSG ", b"HMSG ")):
                self._control(line)
                at = end + 2
                continue
            self._begin(line)
            body = end + 2 + self._header_size
            if size < body:
                self._rest = data[at:]
                return
            self._block = data[end + 2 : body]
            at = body + self._size + 2
            if at <= size:
                self._message(data[body : at - 2])
            else:
                self._payload = bytearray(self._size)
                self._have = 0
                at = body
                if not self._size:
                    self._whole(self._payload)

    def _begin(self, line: bytes) -> None:
        try:
            words = line.split()
            with_headers = words[0] == b"HMSG"
            self._header_size = int(words[-2]) if with_headers else 0
            self._reply = words[3] if len(words) == (6 if with_headers else 5) else b""
            self._subject, self._sid = words[1], int(words[2])
            self._size = int(words[-1]) - self._header_size
        except (ValueError, IndexError) as error:
            raise errors.ProtocolError("nats: malformed MSG") from error
        if self._header_size < 0 or self._size < 0:
            raise errors.ProtocolError("nats: malformed MSG")

    def _whole(self, payload: bytearray) -> None:
        self._payload = None
        self._skip = 2
        self._message(payload if len(payload) >= _DIRECT else bytes(payload))

    def _message(self, payload: Data) -> None:
        client = self._client
        sub = client._subs.get(self._sid)  # noqa: SLF001 - this is a part of the client
        sink = sub._future if sub is not None else None  # noqa: SLF001
        if sink is None or isinstance(sink, asyncio.Future):
            self.aside.append((self._sid, self._subject, self._reply, bytes(payload), self._block))
            return
        client.stats["in_msgs"] += 1
        client.stats["in_bytes"] += len(payload)
        sink.set_result(Delivered(self._subject.decode(), self._reply.decode(), payload, self._block))

    def _control(self, line: bytes) -> None:
        word = _word(line)
        if word not in (b"PING", b"PONG", b"INFO", b"-ERR", b"+OK"):
            raise errors.ProtocolError("nats: unknown protocol")
        if word != b"+OK":
            self.aside.append(line)

    async def carry_out(self) -> None:
        """Do what was set aside."""
        client = self._client
        while self.aside:
            item = self.aside.popleft()
            if not isinstance(item, bytes):
                sid, subject, reply, payload, block = item
                await client._process_msg(sid, subject, reply, payload, block or None)  # noqa: SLF001
                continue
            word = _word(item)
            if word == b"PING":
                await client._process_ping()  # noqa: SLF001
            elif word == b"PONG":
                await client._process_pong()  # noqa: SLF001
            elif word == b"INFO":
                try:
                    info = json.loads(item[5:])
                except ValueError as error:
                    raise errors.ProtocolError("nats: malformed INFO") from error
                await client._process_info(info)  # noqa: SLF001
            else:
                await client._process_err(item[5:].decode("utf-8", "replace").strip().lower())  # noqa: SLF001


def _word(line: bytes) -> bytes:
    return line[:5].upper().split(None, 1)[0] if line.strip() else b""


class Receiver(asyncio.BufferedProtocol):
    """What the transport of a connection calls, from `take_over` on. `news` is set when there is something aside, when
    there is a `problem`, and at the end.

    Writing, and the end of the connection, remain the business of the protocol that was there before.
    """

    def __init__(self, parser: WireParser, before: asyncio.StreamReaderProtocol) -> None:
        self.news = asyncio.Event()
        self.problem: Exception | None = None
        self._parser = parser
        self._before = before
        self._buffer = memoryview(bytearray(_BUFFER))
        self._direct = False

    @classmethod
    def take_over(cls, parser: WireParser, reader: asyncio.StreamReader, transport: asyncio.Transport) -> Receiver:
        """Go on behind what the reader has read."""
        receiver = cls(parser, transport.get_protocol())  # type: ignore[arg-type]  # that of the reader
        parser.reset()  # the last connection may have told more after its end was noticed
        already = bytes(reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001
        transport.set_protocol(receiver)
        if reader._paused:  # type: ignore[attr-defined]  # noqa: SLF001
            transport.resume_reading()
        reader._buffer.clear()  # type: ignore[attr-defined]  # noqa: SLF001
        receiver._feed(already)
        return receiver

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's interface
        room = self._parser.room()
        self._direct = room is not None
        return room if room is not None else self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.problem is not None:
            return
        if self._direct:
            try:
                self._parser.received(nbytes)
            except Exception as error:  # noqa: BLE001 - told by the read loop
                self._fail(error)
        else:
            self._feed(bytes(self._buffer[:nbytes]))

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
        except Exception as error:  # noqa: BLE001 - told by the read loop
            self._fail(error)
        if self._parser.aside:
            self.news.set()

    def _fail(self, error: Exception) -> None:
        self.problem = error
        self.news.set()

    def eof_received(self) -> bool | None:
        self.news.set()
        return self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.news.set()
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()


async def read_loop(client: Any) -> None:
    """nats-py's `_read_loop`."""
    try:
        transport = client._transport  # noqa: SLF001 - this is a part of the client
        if transport is None or client.is_closed or client.is_reconnecting:
            return
        if getattr(transport, "_io_reader", None) is None:
            await _read_frames(client, transport)
        else:
            await _receive(client, transport)
    except errors.ProtocolError:
        await client._process_op_err(errors.ProtocolError())  # noqa: SLF001
    except OSError as error:
        await client._process_op_err(error)  # noqa: SLF001
    except asyncio.CancelledError:
        return
    except Exception as error:  # noqa: BLE001 - whatever it was: a reader that has ended must not look alive
        await client._error_cb(error)  # noqa: SLF001
        await client._process_op_err(error)  # noqa: SLF001


async def _receive(client: Any, transport: Any) -> None:
    reader = transport._io_reader  # noqa: SLF001
    receiver = Receiver.take_over(client._ps, reader, transport._io_writer.transport)  # noqa: SLF001
    while not (client.is_closed or client.is_reconnecting):
        await client._ps.carry_out()  # noqa: SLF001
        if problem := receiver.problem or reader.exception():
            raise problem
        if reader.at_eof():
            raise errors.UnexpectedEOF
        await receiver.news.wait()
        receiver.news.clear()


async def _read_frames(client: Any, transport: Any) -> None:
    """A WebSocket carries whole frames."""
    while not (client.is_closed or client.is_reconnecting):
        if transport.at_eof():
            raise errors.UnexpectedEOF
        await client._ps.parse(await transport.read(_READ))  # noqa: SLF001
