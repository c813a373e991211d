"""The way in: any stream of bytes, cut anywhere, gives the messages that are in it."""

from __future__ import annotations

import asyncio
import os
from itertools import cycle, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError

from agent.objectstore.wire import WireParser, parse_headers


class Sub:
    def __init__(self, future: Any) -> None:
        self._future = future


class Sink:
    def __init__(self) -> None:
        self.got: list[tuple[str, str, bytes, dict[str, str]]] = []

    def set_result(self, message: Any) -> None:
        self.got.append((message.subject, message.reply, message.data, message.headers))


class Client:
    """The members of nats-py's Client that the parser uses."""

    def __init__(self) -> None:
        self.sink = Sink()
        self._subs = {1: Sub(self.sink), 2: Sub(None)}
        self.stats = {"in_msgs": 0, "in_bytes": 0}
        self.seen: list[object] = []

    async def _process_msg(self, *args: object) -> None:
        self.seen.append(args)

    async def _process_ping(self) -> None:
        self.seen.append("ping")

    async def _process_pong(self) -> None:
        self.seen.append("pong")

    async def _process_info(self, info: dict[str, object]) -> None:
        self.seen.append(info)

    async def _process_err(self, text: str) -> None:
        self.seen.append(text)


BLOCK = b"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Num-Pending:0\r\n\r\n"
STATUS = b"NATS/1.0 409 Batch Completed\r\nNats-Pending-Messages: 0\r\n\r\n"
PAYLOAD = b"payload with\r\nMSG a 1 3\r\nabc\r\nin it"
WIRE = b"".join(
    (
        b'INFO {"version":"2.15.1"}\r\nPING\r\n',
        b"MSG in.1 1 %d\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD),
        b"MSG in.2 1 re.ply 0\r\n\r\n",
        b"PONG\r\n+OK\r\n",
        b"HMSG in.3 1 %d %d\r\n%b%b\r\n" % (len(BLOCK), len(BLOCK) + 3, BLOCK, b"abc"),
        b"HMSG in.4 1 re.ply %d %d\r\n%b\r\n" % (len(STATUS), len(STATUS), STATUS),
        b"MSG other 2 2\r\nhi\r\n",
        b"MSG nobody 3 2\r\nhi\r\n",
        b"-ERR 'Permissions Violation for Publish to \"A.b\"'\r\n",
        b"PING\r\n",
    )
)
GOT = [
    ("in.1", "", PAYLOAD, {}),
    ("in.2", "re.ply", b"", {}),
    ("in.3", "", b"abc", {"Nats-Sequence": "7", "Nats-Num-Pending": "0"}),
    ("in.4", "re.ply", b"", {"Status": "409", "Description": "Batch Completed", "Nats-Pending-Messages": "0"}),
]
SEEN: list[object] = [
    {"version": "2.15.1"},
    "ping",
    "pong",
    (2, b"other", b"", b"hi", None),
    (3, b"nobody", b"", b"hi", None),
    "'permissions violation for publish to \"a.b\"'",
    "ping",
]


def parse(pieces: list[bytes]) -> Client:
    client = Client()
    parser = WireParser(client)

    async def feed() -> None:
        for piece in pieces:
            await parser.parse(piece)

    asyncio.run(feed())
    return client


@given(st.lists(st.integers(0, len(WIRE)), max_size=40))
def test_wherever_the_stream_is_cut_the_messages_are_the_same(cuts: list[int]):
    places = [0, *sorted(cuts), len(WIRE)]
    client = parse([WIRE[start:end] for start, end in pairwise(places)])

    assert client.sink.got == GOT
    assert client.seen == SEEN
    assert client.stats == {"in_msgs": 4, "in_bytes": sum(len(data) for _, _, data, _ in GOT)}


def test_byte_by_byte_is_the_same_too():
    client = parse([WIRE[at : at + 1] for at in range(len(WIRE))])
    assert (client.sink.got, client.seen) == (GOT, SEEN)


LARGE = [os.urandom(size) for size in (300_000, 40_000, 33_000)]
LARGE_WIRE = b"PING\r\n".join(
    [
        b"MSG in.1 1 %d\r\n%b\r\n" % (len(LARGE[0]), LARGE[0]),
        b"HMSG in.2 1 %d %d\r\n%b%b\r\n" % (len(BLOCK), len(BLOCK) + len(LARGE[1]), BLOCK, LARGE[1]),
        b"MSG other 2 %d\r\n%b\r\n" % (len(LARGE[2]), LARGE[2]),
    ]
)


@settings(deadline=None)
@given(st.lists(st.integers(1_000, 100_000), min_size=1, max_size=20))
def test_large_payloads_are_received_in_place_in_whatever_pieces_they_come(sizes: list[int]):
    client = Client()
    parser = WireParser(client)
    in_place = at = 0
    for size in cycle(sizes):
        if at == len(LARGE_WIRE):
            break
        piece = LARGE_WIRE[at : at + size]
        room = parser.room()
        if room is None:
            parser.feed(piece)
        else:
            piece = piece[: len(room)]
            room[: len(piece)] = piece
            parser.received(len(piece))
            in_place += len(piece)
        at += len(piece)
    asyncio.run(parser.carry_out())

    assert client.sink.got == [("in.1", "", LARGE[0], {}), ("in.2", "", LARGE[1], GOT[2][3])]
    assert client.seen == ["ping", "ping", (2, b"other", b"", LARGE[2], None)]
    assert in_place > 0


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 400\r\n", b"MSG a x 3\r\n", b"MSG a\r\n", b"HMSG a 1 9 3\r\n", b"INFO {\r\n"]
)
def test_what_is_not_the_protocol_is_an_error(line: bytes):
    with pytest.raises(ProtocolError):
        parse([line])


@given(st.binary(max_size=200))
def test_headers_of_any_bytes_are_read_without_an_error(block: bytes):
    parse_headers(block)
