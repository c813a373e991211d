"""One meta message becomes the newest of its name, or we know why not (DESIGN 6 "Store", PROTOCOL 3a).

A commit is a publish with `Nats-Rollup: sub` and, with a precondition, `Nats-Expected-Last-Subject-Sequence`. It ends
in one of three ways, and everything that cleans up after a failed write depends on telling them apart:

    stored     the ack came, from the stream we meant; or it never came, but the leader has our very payload
    refused    an error from the server (RevisionError, SealedError, StoreFullError, ...), or nobody got it
               (NotSentError): it has had no effect and never will
    unknown    no answer, and the leader doesn't have our payload (yet), or doesn't answer: UnknownOutcomeError. The
               message may still be on its way: nothing that it refers to may be purged
"""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agent.errors import (
    BucketError,
    JetsyncError,
    NotAllowedError,
    ObjectNotFoundError,
    RevisionError,
    StoreError,
    StoreUnavailableError,
    UnknownOutcomeError,
)
from agent.objectstore import meta, subjects
from agent.objectstore.errors_map import NotSentError, code_of, error_of
from agent.objectstore.meta import ObjectInfo
from agent.objectstore.times import parse_time_ns

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
TIMEOUT = 5.0
RECOVER = 10.0
"""How long a lost connection may take to come back before an outcome is called unknown."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the stream's leader has it."""

    subject: str
    revision: int
    time_ns: int
    data: bytes


async def commit(
    bucket: Bucket, info: ObjectInfo, *, expected_revision: int | None = None, timeout: float = TIMEOUT
) -> ObjectInfo:
    """Publish the meta; returns it with its revision. `expected_revision`: None = whatever is there, 0 = nothing.

    Raises RevisionError (with `actual`), UnknownOutcomeError, or what `errors_map` has for the server's refusal.
    time_ns of the result is 0: the ack doesn't tell it.
    """
    bucket.require_writable()
    subject = subjects.meta_subject(bucket.name, info.name)
    payload = meta.encode(info)
    headers = {"Nats-Rollup": "sub"}
    if expected_revision is not None:
        headers[EXPECTED] = str(expected_revision)
    what = f"write the meta of {bucket.name}/{info.name}"
    try:
        message = await bucket.connection.request(subject, payload, headers=headers, timeout=timeout)
    except NotSentError:
        raise
    except StoreUnavailableError as error:
        return await recover(bucket, info, error)
    return replace(info, revision=revision_of(bucket, message.data, what=what))


def revision_of(bucket: Bucket, ack: bytes, *, what: str) -> int:
    """The sequence in a publish ack. Raises as parse_ack."""
    return int(parse_ack(bucket, ack, what=what)["seq"])


def parse_ack(bucket: Bucket, ack: bytes, *, what: str) -> dict[str, Any]:
    """A publish ack as a dict with an int under "seq". Raises RevisionError and relatives; BucketError when another
    stream has answered: `$O.` subjects cross leaf links, and a write may have landed elsewhere (PROTOCOL 3e)."""
    try:
        answer = json.loads(ack)
    except ValueError as problem:
        raise UnknownOutcomeError(f"can't {what}: the answer is not JSON") from problem
    if not isinstance(answer, dict):
        raise UnknownOutcomeError(f"can't {what}: the answer is not a JSON object")
    error = answer.get("error")
    if isinstance(error, dict):
        raise error_of(error, what=what)
    domain = bucket.connection.domain
    if answer.get("stream") != bucket.stream or (domain and answer.get("domain") not in (None, domain)):
        raise BucketError(
            f"can't {what}: it was stored in stream {answer.get('stream')!r} of domain {answer.get('domain')!r}",
            remedy="buckets of one name in two domains of one account get each other's writes: use two names",
        )
    if type(answer.get("seq")) is not int:
        raise UnknownOutcomeError(f"can't {what}: the answer has no sequence")
    return answer


def is_error(ack: bytes, err_code: int) -> bool:
    """Whether a publish ack is this error of the server's."""
    try:
        answer = json.loads(ack)
    except ValueError:
        return False
    error = answer.get("error") if isinstance(answer, dict) else None
    return isinstance(error, dict) and code_of(error) == err_code


async def newest(bucket: Bucket, subject: str, *, timeout: float = TIMEOUT) -> Stored:
    """The newest message on a subject, from the stream's leader. Raises ObjectNotFoundError, BucketNotFoundError."""
    return await _message(bucket, {"last_by_subj": subject}, subject, timeout=timeout)


async def first(bucket: Bucket, subject: str, *, timeout: float = TIMEOUT) -> Stored:
    """The oldest message on a subject; otherwise as `newest`."""
    return await _message(bucket, {"next_by_subj": subject, "seq": 1}, subject, timeout=timeout)


async def following(bucket: Bucket, subject: str, after: int, *, timeout: float = TIMEOUT) -> Stored | None:
    """The first message on a subject (wildcards too) behind the sequence `after`; None: there is none."""
    try:
        return await _message(bucket, {"next_by_subj": subject, "seq": after + 1}, subject, timeout=timeout)
    except ObjectNotFoundError:
        return None


async def _message(bucket: Bucket, request: dict[str, Any], subject: str, *, timeout: float) -> Stored:
    answer = await bucket.connection.api(
        f"STREAM.MSG.GET.{bucket.stream}",
        request,
        what=f"read {subject[:100]} of bucket {bucket.name!r}",
        timeout=timeout,
    )
    message = answer.get("message")
    if not isinstance(message, dict) or type(message.get("seq")) is not int:
        raise StoreError(f"the answer to STREAM.MSG.GET.{bucket.stream} has no message")
    return Stored(
        str(message.get("subject", "")),
        message["seq"],
        parse_time_ns(str(message.get("time", ""))),
        b64decode(message.get("data", "") or ""),
    )


async def recover(bucket: Bucket, info: ObjectInfo, cause: StoreUnavailableError) -> ObjectInfo:
    """No answer came for the commit of `info`: what does the leader have? Our payload, byte for byte, means that it was
    stored. Raises UnknownOutcomeError otherwise, waiting RECOVER seconds for a connection at most."""
    unknown = UnknownOutcomeError(
        f"whether the meta of {bucket.name}/{info.name} was stored is not known: {cause.message}",
        remedy="it is looked at again before anything else is done to it",
    )
    if not await bucket.connection.wait_connected(RECOVER):
        raise unknown from cause
    try:
        stored = await newest(bucket, subjects.meta_subject(bucket.name, info.name))
    except (ObjectNotFoundError, StoreUnavailableError, NotAllowedError):
        raise unknown from cause
    if stored.data != meta.encode(info):
        raise unknown from cause
    return replace(info, revision=stored.revision, time_ns=stored.time_ns)


def refused(error: BaseException) -> bool:
    """Whether the error is a definite refusal: the write has had no effect and never will have."""
    if isinstance(error, NotSentError | RevisionError | NotAllowedError):
        return True
    return isinstance(error, JetsyncError) and not isinstance(error, StoreUnavailableError)
