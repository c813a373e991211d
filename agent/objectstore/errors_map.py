"""Server errors become ours here, by their `err_code`, never by their text (PROTOCOL 3, 6; the server's errors.json).

Every JetStream answer and every publish ack may carry `{"error": {"code", "err_code", "description"}}`. `error_of`
makes the exception for it; `what` says what was asked, in words. The tables below are the whole mapping: a code that
isn't in them goes by its HTTP-like class (503 and 429 are worth another try, everything else isn't).

Two facts shape it. 10077 ("maximum bytes exceeded") arrives as a 503, and is a full bucket, not an absent server. And a
request that found nobody (`NotSentError`) has definitely not been carried out, while a time-out or a lost connection
leaves that open: that difference decides what may be cleaned up after a failed write (DESIGN 6).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.errors import (
    BucketError,
    BucketExistsError,
    BucketNotFoundError,
    JetsyncError,
    NotAllowedError,
    ObjectNotFoundError,
    RevisionError,
    SealedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)


class NotSentError(StoreUnavailableError):
    """The request reached no one: not connected, or no responders. It has certainly had no effect."""


class ConsumerNotFoundError(StoreError):
    """The consumer is gone: it was idle too long, or its server was restarted. Make a new one."""

    transient = True


NO_MESSAGE = 10037
STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
SEALED = 10109
ATOMIC_DISABLED = 10174
TOO_MANY_REQUESTS = 10167
INVALID_CONFIG = 10052

_FULL = frozenset({10077, 10002, 10023, 10028, 10047})
"""max_bytes of the stream, the account's limits, the server's memory or storage."""

_JETSTREAM_OFF = frozenset({10039, 10076, 10035})

_TRANSIENT = frozenset({10008, 10009, TOO_MANY_REQUESTS, 10026, 10178})
"""No leader at the moment, too many requests, too many consumers."""

_LAST_NUMBER = re.compile(r"(\d+)\s*$")


def code_of(error: Mapping[str, Any]) -> int:
    code = error.get("err_code")
    return code if isinstance(code, int) else 0


def error_of(error: Mapping[str, Any], *, what: str) -> JetsyncError:
    """The exception for a server's `error` object. `what`: the request in words, such as "delete bucket 'inbox'"."""
    code = code_of(error)
    description = str(error.get("description", "")) or "no description"
    message = f"can't {what}: {description} ({code})"
    if code in WRONG_LAST_SEQUENCE:
        return RevisionError(message, actual=_actual(code, description), remedy="look again: somebody else wrote first")
    if code == NO_MESSAGE:
        return ObjectNotFoundError(message)
    if code == STREAM_NOT_FOUND:
        return BucketNotFoundError(message, remedy="check the bucket's name and the account, or create it")
    if code == STREAM_NAME_IN_USE:
        return BucketExistsError(message)
    if code == CONSUMER_NOT_FOUND:
        return ConsumerNotFoundError(message)
    if code == SEALED:
        return SealedError(message, remedy="a sealed bucket can't be changed any more, only deleted as a whole")
    if code in _FULL:
        return StoreFullError(
            message, remedy="raise max_bytes or the account's limits, or delete objects (replacing needs room for both)"
        )
    if code in _JETSTREAM_OFF:
        return NotAllowedError(message, remedy="enable JetStream on the server and for this account")
    http = error.get("code")
    if code in _TRANSIENT or http in (503, 429):
        return StoreUnavailableError(message)
    return BucketError(message)


def _actual(code: int, description: str) -> int | None:
    """The current revision. The server tells it in the description only: "wrong last sequence: 41"."""
    if code != 10071:
        return None
    match = _LAST_NUMBER.search(description)
    return int(match[1]) if match else None
