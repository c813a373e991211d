"""Many small objects come down at once: one direct get for the only chunk of each, all written to the socket in one
piece, and no task or future for any of them (`volley.py`).

An answer counts when it is a message of the size that the meta promises; the digest is for whoever takes the bytes.
Everything else proves nothing: a replica that lags has no such chunk yet, an answer may be lost, the connection too. So
what wasn't answered in that way is read alone, by a `Reader` with all its rules: the leader, a time-out, and a look at
what has become of the object. Read alone from the start is what has more than one chunk, and everything in a bucket
without direct gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING

from agent.errors import JetsyncError, NotAllowedError, StoreUnavailableError
from agent.objectstore import one_by_one
from agent.objectstore.answers import status_of
from agent.objectstore.get import IDLE, Reader
from agent.objectstore.meta import ObjectInfo
from agent.objectstore.subjects import chunk_subject
from agent.objectstore.volley import Message

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

Content = bytes | JetsyncError
"""The bytes of an object, as many as its meta says; or what its Reader has raised."""

PART = 8 << 20
"""Bytes that are asked for at once."""


async def get_many(bucket: Bucket, infos: Sequence[ObjectInfo]) -> list[Content]:
    """The contents of objects, whole, in their order, each with an outcome of its own. For small ones: they are all in
    memory. Links aren't followed. Digests are not verified."""
    contents: list[Content | None] = [None] * len(infos)
    direct: list[int] = []
    for place, info in enumerate(infos):
        if not info.chunks and not info.size:
            contents[place] = b""
        elif info.chunks == 1 and bucket.direct:
            direct.append(place)
    for part in _parts(infos, direct):
        await _get_part(bucket, infos, part, contents)

    async def alone(place: int, info: ObjectInfo) -> None:
        try:
            async with Reader(bucket, info, follow_links=False, verify=False) as reader:
                contents[place] = await reader.read()
        except JetsyncError as error:
            contents[place] = error

    await one_by_one.each(alone, [(place, infos[place]) for place, content in enumerate(contents) if content is None])
    return contents  # type: ignore[return-value]  # none is missing any more


def _parts(infos: Sequence[ObjectInfo], places: Sequence[int]) -> Iterable[list[int]]:
    part: list[int] = []
    size = 0
    for place in places:
        if part and size + infos[place].size > PART:
            yield part
            part, size = [], 0
        part.append(place)
        size += infos[place].size
    if part:
        yield part


async def _get_part(
    bucket: Bucket, infos: Sequence[ObjectInfo], part: list[int], contents: list[Content | None]
) -> None:
    """Fill in what is answered as it should be, and what this user may never ask for."""
    subject = bucket.connection.direct_subject(bucket.stream)
    messages: list[Message] = []
    for place in part:
        body = f'{{"last_by_subj":{_quoted(chunk_subject(bucket.name, infos[place].nuid))}}}'
        messages.append((subject, body.encode(), b""))
    try:
        answers = await bucket.connection.publisher.send_many(messages, timeout=IDLE).wait()
    except StoreUnavailableError:
        return  # nothing was sent: a reader waits for the connection
    for place, answer in zip(part, answers, strict=True):
        if isinstance(answer, JetsyncError):
            if isinstance(answer, NotAllowedError):
                contents[place] = answer
        elif len(answer.data) == infos[place].size and not status_of(answer):
            contents[place] = bytes(answer.data)  # a copy only of one that came in pieces
