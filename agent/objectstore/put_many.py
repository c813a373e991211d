"""Many small objects go up at once: all chunks in one piece, then, when they are acked, all metas in one piece.

    chunk of each -> one write, one wait -> meta of each, by compare-and-swap -> one write, one wait -> revisions

Each object is one chunk (or none), so there is no order to prove, and what is done for it beside the bytes on the wire
is little: no task, no future (`volley.py`). Each keeps an outcome of its own, and the rules are those of `put`:

    its chunk is refused      by the server's definite word: its nuid is purged; the refusal is its outcome
    its chunk is in doubt     a time-out, a lost connection, 429 or 503: it is put alone then, by `put`, which first
                              removes what may be stored under the nuid, waits, and goes slower
    its meta is refused       the server said no to our first and only attempt: its nuid is purged
    its meta has no answer    the leader is asked: our very payload there means success; otherwise UnknownOutcomeError,
                              and nothing is purged
    cancelled                 before the metas are sent all nuids are purged; afterwards the outcomes are awaited first

What isn't one chunk is put alone from the start. Bytes in flight are bounded by the budget of the connection, and a lot
is sent in parts when the server has said that it is too much at once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core.values import light
from agent.errors import JetsyncError, ObjectError, StoreUnavailableError, UnknownOutcomeError
from agent.objectstore import chunks, meta, one_by_one, subjects
from agent.objectstore.answers import RawMessage, check_taken, header_block
from agent.objectstore.commit import EXPECTED, parse_ack, recover
from agent.objectstore.errors_map import NotSentError
from agent.objectstore.meta import DEFAULT_CHUNK_SIZE, ObjectInfo
from agent.objectstore.publish import MESSAGE_COST, SEND_BUDGET
from agent.objectstore.put import CLEAN_UP, HEADER_ROOM, RECOVER, put, uninterrupted
from agent.objectstore.volley import Message, Volley
from agent.objectstore.window import ChunkWindow

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

_CREATE = header_block({"Nats-Rollup": "sub", EXPECTED: "0"})


@light
@dataclass(frozen=True, slots=True)
class SmallObject:
    """What to put. digest: the SHA-256 of these very bytes, as whoever has read them has made it. nuid, and
    expected_revision (0 = nothing is there): as for `put`."""

    name: str
    data: bytes
    digest: bytes
    nuid: str
    expected_revision: int
    metadata: Mapping[str, str]


Outcome = int | JetsyncError
"""The revision of an object that is stored; or what `put` would have raised."""


async def put_many(bucket: Bucket, items: Sequence[SmallObject]) -> list[Outcome]:
    """Store objects of at most one chunk at once; the outcome of each, in their order. Old chunks stay.

    Raises what concerns all of them: BucketError (a mirror), SealedError as the bucket was last seen.
    """
    bucket.require_writable()
    lot = _Lot(bucket, items)
    for part in lot.parts():
        await lot.put(part)
    await lot.put_alone()
    return lot.outcomes()


class _Lot:
    """Objects are spoken of by their place in `items`."""

    def __init__(self, bucket: Bucket, items: Sequence[SmallObject]) -> None:
        self._bucket = bucket
        self._items = items
        self._publisher = bucket.connection.publisher
        self._chunk_size = min(DEFAULT_CHUNK_SIZE, max(1, self._publisher.max_payload - HEADER_ROOM))
        self._outcomes: list[Outcome | None] = [None] * len(items)
        self._subjects: list[str] = [""] * len(items)  # of the metas
        self._payloads: dict[int, bytes] = {}
        self._alone: dict[int, StoreUnavailableError | None] = {}  # and the doubt, if there is one
        self._refused: list[int] = []  # whose nuids are to be purged
        self._is_ack = _ack_pattern(bucket).fullmatch

    def outcomes(self) -> list[Outcome]:
        assert None not in self._outcomes
        return self._outcomes  # type: ignore[return-value]  # none is missing any more

    def parts(self) -> Iterable[list[int]]:
        """What is sent at once. A generator: how much that is depends on what became of the part before."""
        part: list[int] = []
        size = 0
        for place, item in enumerate(self._items):
            try:
                self._subjects[place] = subjects.meta_subject(self._bucket.name, item.name)
                if not subjects.is_nuid(item.nuid):
                    raise ObjectError(f"{item.nuid!r} can't be a nuid: it must be one word of printable characters")
            except JetsyncError as error:
                self._outcomes[place] = error
                continue
            if len(item.data) > self._chunk_size:
                self._alone[place] = None
                continue
            if part and size + len(item.data) > self._publisher.window:
                yield part
                part, size = [], 0
            part.append(place)
            size += len(item.data)
        if part:
            yield part

    async def put(self, part: list[int]) -> None:
        try:
            stored = await self._put_chunks(part)
            volley = await self._send_metas(stored)
        except JetsyncError as error:
            self._fail(part, error)
            await uninterrupted(self._purge(part))
        except BaseException:
            await uninterrupted(self._purge([*part, *self._alone]))
            raise
        else:
            try:
                await uninterrupted(self._take_outcomes(stored, volley))
            except BaseException:
                await uninterrupted(self._purge(list(self._alone)))
                raise

    def _fail(self, part: list[int], error: JetsyncError) -> None:
        """None of their metas was sent."""
        self._refused = []
        for place in part:
            self._alone.pop(place, None)
            if self._outcomes[place] is None:
                self._outcomes[place] = error

    # chunks

    async def _put_chunks(self, part: list[int]) -> list[int]:
        """Those whose content is stored, whole. The others have an outcome, or are put alone."""
        sent = [place for place in part if self._items[place].data]
        stored = [place for place in part if not self._items[place].data]
        prefix = subjects.chunk_prefix(self._bucket.name)
        messages: list[Message] = [(prefix + self._items[place].nuid, self._items[place].data, b"") for place in sent]
        weight = sum([len(data) for _, data, _ in messages]) + MESSAGE_COST * len(messages)
        if not messages:
            return stored
        if not self._publisher.budget.take(weight):
            await self._publisher.budget.acquire(weight)
        try:
            volley = self._publisher.send_many(messages, weight=weight)
        except StoreUnavailableError:
            self._alone.update(dict.fromkeys(sent))  # nothing was sent: `put` waits for the connection
            return stored
        for place, answer in zip(sent, await volley.wait(), strict=True):
            outcome = self._outcome(place, answer)
            if isinstance(outcome, int):
                stored.append(place)
            elif isinstance(outcome, StoreUnavailableError):
                self._alone[place] = outcome
            else:
                self._outcomes[place] = outcome
                self._refused.append(place)
        if len(stored) == len(part) and self._publisher.window < SEND_BUDGET:
            self._publisher.window = min(SEND_BUDGET, self._publisher.window * 2)
        return stored

    # metas

    async def _send_metas(self, stored: list[int]) -> Volley | None:
        """They are on the wire; a lost connection may come back first, since nothing is sent until then."""
        messages = [self._meta(place) for place in stored]
        if not messages:
            return None
        connection = self._bucket.connection
        try:
            return self._publisher.send_many(messages)
        except NotSentError:
            if not await connection.wait_connected(RECOVER):
                raise
            return self._publisher.send_many(messages)

    def _meta(self, place: int) -> Message:
        item = self._items[place]
        size, revision = len(item.data), item.expected_revision
        payload = meta.encode_plain(
            bucket=self._bucket.name,
            name=item.name,
            nuid=item.nuid,
            size=size,
            chunks=1 if size else 0,
            digest=item.digest,
            metadata=item.metadata,
            max_chunk_size=self._chunk_size,
        )
        headers = header_block({"Nats-Rollup": "sub", EXPECTED: str(revision)}) if revision else _CREATE
        return self._subjects[place], payload, headers

    async def _take_outcomes(self, stored: list[int], volley: Volley | None) -> None:
        unknown: list[tuple[int, UnknownOutcomeError]] = []
        for place, answer in zip(stored, await volley.wait() if volley is not None else (), strict=True):
            outcome = self._outcome(place, answer)
            self._outcomes[place] = outcome
            if isinstance(outcome, UnknownOutcomeError):
                unknown.append((place, outcome))
            elif not isinstance(outcome, int):
                self._refused.append(place)
        if unknown:
            await self._look(unknown)
        if self._refused:
            refused, self._refused = self._refused, []
            await self._purge(refused)

    async def _look(self, unknown: list[tuple[int, UnknownOutcomeError]]) -> None:
        """No answer came: what does the leader have? The fence sees to it that nothing of ours is queued there."""
        try:
            if await self._bucket.connection.wait_connected(RECOVER):
                await self._fence(unknown[0][0])
        except JetsyncError:
            pass  # then the look may come too early, and the outcome stays unknown

        async def look(place: int, cause: UnknownOutcomeError) -> None:
            try:
                self._outcomes[place] = (await recover(self._bucket, self._info(place), cause)).revision
            except JetsyncError as error:
                self._outcomes[place] = error

        await one_by_one.each(look, unknown)

    def _info(self, place: int) -> ObjectInfo:
        item = self._items[place]
        return ObjectInfo(
            self._bucket.name,
            item.name,
            item.nuid,
            len(item.data),
            1 if item.data else 0,
            item.digest,
            metadata=item.metadata,
            max_chunk_size=self._chunk_size,
        )

    # one by one

    async def put_alone(self) -> None:
        async def one(place: int, doubt: StoreUnavailableError | None) -> None:
            item = self._items[place]
            del self._alone[place]  # from here on `put` sees to its chunk
            try:
                info = await put(
                    self._bucket,
                    item.name,
                    item.data,
                    metadata=item.metadata,
                    expected_revision=item.expected_revision,
                    nuid=item.nuid,
                    purge_old=False,
                    doubt=doubt,
                )
                self._outcomes[place] = info.revision
            except JetsyncError as error:
                self._outcomes[place] = error

        try:
            await one_by_one.each(one, self._alone.items())
        except BaseException:
            await uninterrupted(self._purge(list(self._alone)))
            raise

    def _outcome(self, place: int, answer: RawMessage | JetsyncError) -> Outcome:
        """What an answer to a publish says: the sequence, the refusal, or why there is none."""
        if isinstance(answer, JetsyncError):
            return answer
        found = self._is_ack(answer.data)
        if found is not None:
            return int(found[1])
        name = self._items[place].name
        try:
            check_taken(answer, self._subjects[place])
            return int(parse_ack(self._bucket, answer.data, what=f"write {self._bucket.name}/{name}")["seq"])
        except JetsyncError as error:
            return error

    async def _fence(self, place: int) -> None:
        await ChunkWindow(self._bucket, self._items[place].nuid, ids=False).fence()

    async def _purge(self, places: list[int]) -> None:
        """After what is still on its way. What fails here is found by the journal of whoever has given the nuids."""
        sent = [place for place in places if self._items[place].data]
        if not sent or not self._publisher.connected:
            return
        try:
            async with asyncio.timeout(CLEAN_UP):
                await self._fence(sent[0])
                for place in sent:
                    await chunks.purge(self._bucket, self._items[place].nuid)
        except (JetsyncError, TimeoutError):
            pass


def _ack_pattern(bucket: Bucket) -> re.Pattern[bytes]:
    """An ack that says nothing but: stored, in the stream that we mean. Any other is looked at in full."""
    domain = bucket.connection.domain
    where = re.escape(bucket.stream) + (rf'", ?"domain":"{re.escape(domain)}' if domain else "")
    return re.compile(rf'\{{"stream":"{where}", ?"seq":(\d{{1,18}})\}}'.encode())
