"""What comes back: messages as we read them, acks of publishes, answers to requests.

An ack that carries an error is the server's refusal: the message was not stored, and never will be. An answer that is
no ack at all leaves the outcome unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.errors import UnknownOutcomeError
from agent.objectstore.errors_map import NotSentError, error_of

_decode_json = json.JSONDecoder().decode


class RawMessage(Protocol):
    """What we read of a message: wire.Delivered."""

    @property
    def subject(self) -> str: ...
    @property
    def reply(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> dict[str, str] | None: ...
    @property
    def status(self) -> int: ...


@dataclass(slots=True)
class Ack:
    """The server stored the message: where, its stream sequence; `duplicate` when a Nats-Msg-Id was known already."""

    stream: str
    seq: int
    duplicate: bool


@dataclass(slots=True)
class Answer:
    """The answer to a request. `status` is the number of an inline status (404, 408, ...), 0 when there is none."""

    data: bytes
    headers: dict[str, str]
    status: int
    description: str
    subject: str
    reply: str


def header_block(headers: Mapping[str, str]) -> bytes:
    """Message headers as they go over the wire. Values must be one line each."""
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def status_of(message: RawMessage) -> int:
    """The inline status of a message, 0 when it has none."""
    return message.status


def answer_of(message: RawMessage) -> Answer:
    headers = message.headers or {}
    return Answer(
        message.data, headers, status_of(message), headers.get("Description", ""), message.subject, message.reply
    )


def parse_ack(message: RawMessage, subject: str) -> Ack:
    """The ack in an answer to a publish. Raises the error that it carries: the message was not stored."""
    check_taken(message, subject)
    try:
        document = _decode_json(message.data.decode())
        error = document.get("error")
        if error is None:
            return Ack(document["stream"], document["seq"], document.get("duplicate", False))
    except (ValueError, KeyError, AttributeError) as problem:
        raise UnknownOutcomeError(f"the answer to a publish on {subject!r} is not an ack") from problem
    raise error_of(error, what=f"publish on {subject!r}")


def consumer_of(reply: str) -> str:
    """The consumer's name in an ack subject: the 4th token, or the 6th of the long form with domain and account."""
    tokens = reply.split(".", 7)
    if len(tokens) < 8:
        return ""
    return tokens[3] if reply.count(".") == 8 else tokens[5]


def check_taken(message: RawMessage, subject: str) -> None:
    """Raises NotSentError when the answer to a publish says that no stream has got it."""
    if message.data:
        return
    status = status_of(message)
    if status == 503:
        raise NotSentError(
            f"no stream takes messages on {subject!r} at the moment", remedy="check that the bucket exists"
        )
    raise UnknownOutcomeError(f"the server answered a publish on {subject!r} with status {status}")
