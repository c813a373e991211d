"""An object goes up: chunks under a fresh nuid, all acked and in order, then the meta; or nothing of it stays.

    source -> exact chunks -> window (acks, order, doubts: window.py) -> size checked -> meta by compare-and-swap

Who cleans up what (PROTOCOL 3a, trap 13; DESIGN 6):

    before the meta is sent      whatever happens, also a cancellation: our nuid is purged, since nothing names it
    the meta is refused          the server said no to our first attempt: our nuid is purged
    the outcome is unknown       the leader is asked: our own meta there means success. Otherwise UnknownOutcomeError,
                                 and nothing is purged: the meta may still be on its way
    cancelled meanwhile          the outcome is awaited first, then treated as above; then CancelledError is raised

A purge can fail too (the server is away, the process is killed). So whoever must not leave orphans writes the nuid into
a journal first, hands it in as `nuid`, and keeps the journal's entry after any exception.

Objects over 8 MiB carry `Nats-Msg-Id: <nuid>:<index>` in their chunks, which tells how far an upload has come; small
ones don't, since the server remembers each id for two minutes. Such an upload can go on later: with `keep` its chunks
stay when it is broken off (the server is away, the process dies), `prefix` finds out whether they are the object's
beginning, and `resume` goes on behind it, under the same nuid. The source is read from its start all the same, since
the digest is that of all bytes. A refusal says less then: an earlier attempt's meta may have been stored, so the leader
is asked whether ours is there, and nothing is purged here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from time import time_ns
from typing import TYPE_CHECKING, Any, TypeVar

from agent.errors import (
    ChunksError,
    DigestError,
    JetsyncError,
    ObjectError,
    ObjectNotFoundError,
    RevisionError,
    StoreError,
    StoreUnavailableError,
    UnknownOutcomeError,
)
from agent.objectstore import chunks, meta, objects, subjects
from agent.objectstore.answers import check_taken, header_block
from agent.objectstore.commit import EXPECTED, parse_ack, recover
from agent.objectstore.errors_map import NotSentError
from agent.objectstore.meta import DEFAULT_CHUNK_SIZE, ObjectInfo
from agent.objectstore.prefix import Prefix
from agent.objectstore.publish import Pending
from agent.objectstore.source import BytesSource, Source, SourceLike, cut, new_digest, source_of
from agent.objectstore.window import AbandonedError, ChunkWindow, SpoiledError

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket

T = TypeVar("T")
Pace = Callable[[int], Awaitable[None]]

LARGE = 8 << 20
"""Bytes over which chunks carry message ids, and are larger than ADR-20's default where the server allows it."""
LARGE_CHUNK = 512 << 10
HEADER_ROOM = 4096
META_TIMEOUT = 10.0
RECOVER = 15.0
CLEAN_UP = 5.0
_ATTEMPTS = 3
_ROLLUP = header_block({"Nats-Rollup": "sub"})


async def put(
    bucket: Bucket,
    name: str,
    source: SourceLike,
    *,
    description: str = "",
    headers: Mapping[str, list[str]] | None = None,
    metadata: Mapping[str, str] | None = None,
    expected_revision: int | None = None,
    nuid: str | None = None,
    chunk_size: int | None = None,
    size: int | None = None,
    digest: bytes | None = None,
    purge_old: bool = True,
    keep: bool = False,
    resume: Prefix | None = None,
    pace: Pace | None = None,
    doubt: StoreUnavailableError | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ObjectInfo:
    """Store an object. Returns its info; revision is known, time_ns is this machine's clock.

    source: bytes, a binary file (read in a thread from where it stands, not closed), a Path, or an async iterable of
    bytes. size: bytes that the source must give; another number is a ChunksError, and nothing becomes visible. digest:
    the SHA-256 that it must have; another one is a DigestError.
    chunk_size: bytes per chunk, at most max_payload - 4 KiB; default 128 KiB (ADR-20), more for objects over 8 MiB.
    expected_revision: None = whatever is there, 0 = nothing is there, n = exactly this revision. nuid: use this one and
    never another (see the module on journals); without it an upload that came into doubt is begun again with a fresh
    one when its source can be read again. purge_old: purge the chunks of the version that was replaced, at once; False
    leaves them to the caller. keep: leave the chunks of an upload that was broken off; resume: what an earlier attempt
    has stored under this nuid, of the same bytes. pace: awaited with the size of each chunk before it is sent.
    doubt: an attempt under this nuid has just failed so, before its meta was sent: what is stored of it is removed
    first. on_progress: called with the bytes that are stored so far.

    Raises RevisionError, UnknownOutcomeError, StoreFullError, SealedError, BucketError (a mirror), ObjectNameError,
    ChunksError, DigestError, NotAllowedError, StoreUnavailableError; and what the source raises.
    """
    bucket.require_writable()
    subject = subjects.meta_subject(bucket.name, name)  # a bad name is told before anything is sent
    if nuid is not None and not subjects.is_nuid(nuid):
        raise ObjectError(f"{nuid!r} can't be a nuid: it must be one word of printable characters")
    reader = source_of(source)
    expected_size = size if size is not None else reader.size
    resumed = resume if resume is not None and resume.chunks else None
    chunk_size = _chunk_size(bucket, resumed.chunk_size if resumed else chunk_size, expected_size)
    old = await _old_version(bucket, name, expected_revision) if purge_old and expected_revision != 0 else None
    for attempt in range(1, _ATTEMPTS + 1):
        info = ObjectInfo(
            bucket=bucket.name,
            name=name,
            nuid=nuid or subjects.new_nuid(),
            description=description,
            headers=headers or {},
            metadata=metadata or {},
            max_chunk_size=chunk_size,
        )
        upload = _Upload(
            bucket,
            reader,
            info,
            size=size,
            digest=digest,
            pace=pace,
            ids=(expected_size or 0) > LARGE,
            keep=keep,
            resume=resumed,
            on_progress=on_progress,
        )
        try:
            await upload.send_chunks(doubt)
            break
        except AbandonedError:
            if nuid is not None or not reader.again or attempt == _ATTEMPTS:
                raise
    else:
        raise AssertionError("unreachable")
    stored = await upload.commit(subject, expected_revision)
    if old is not None and old.nuid != stored.nuid:
        # RACE: another client that renames the old version at this moment loses its chunks (PROTOCOL 8); worst outcome:
        # the new name's object has no content. jetsync's own agents purge later, when no meta names the nuid.
        await _purge(bucket, old.nuid)
    return stored


def _chunk_size(bucket: Bucket, asked: int | None, expected_size: int | None) -> int:
    limit = max(1, bucket.connection.publisher.max_payload - HEADER_ROOM)
    if asked is not None:
        if not 0 < asked <= limit:
            raise StoreError(f"a chunk size of {asked} is not possible: this server takes 1 to {limit} bytes")
        return asked
    return min(limit, LARGE_CHUNK if expected_size is not None and expected_size > LARGE else DEFAULT_CHUNK_SIZE)


async def _old_version(bucket: Bucket, name: str, expected_revision: int | None) -> ObjectInfo | None:
    """The version that will be replaced, if it has chunks. Raises RevisionError when the precondition fails already."""
    try:
        old = await objects.read(bucket, name, show_deleted=True)
    except ObjectNotFoundError:
        old = None
    except ObjectError:
        return None  # its meta is broken: whatever chunks it has are found as orphans
    if expected_revision is not None and (old.revision if old else 0) != expected_revision:
        raise RevisionError(
            f"{bucket.name}/{name} has revision {old.revision if old else 0}, not {expected_revision}",
            actual=old.revision if old else 0,
            remedy="look again: somebody else wrote first",
        )
    return old if old is not None and old.chunks and not old.deleted and old.nuid else None


class _Upload:
    """One attempt, under one nuid."""

    def __init__(
        self,
        bucket: Bucket,
        source: Source,
        info: ObjectInfo,
        *,
        size: int | None,
        digest: bytes | None,
        pace: Pace | None,
        ids: bool,
        keep: bool,
        resume: Prefix | None,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._bucket = bucket
        self._source = source
        self._info = info
        self._size = size
        self._digest = digest
        self._pace = pace
        self._keep = keep
        self._resume = resume
        self._window = ChunkWindow(bucket, info.nuid, ids=ids, on_progress=on_progress)
        if resume is not None:
            self._window.go_on(resume)

    async def send_chunks(self, doubt: StoreUnavailableError | None = None) -> None:
        """All chunks are stored, or none will stay (but with `keep`)."""
        digest = new_digest()
        sent = 0
        stored = self._resume.size if self._resume is not None else 0
        window, source = self._window, self._source
        try:
            if doubt is not None:
                await window.clear(doubt)
            if isinstance(source, BytesSource) and len(source.data) <= min(self._info.max_chunk_size, 65536):
                digest.update(source.data)
                sent = len(source.data)
                self._check_size(sent, whole=True)
                if sent:
                    await window.add(source.data)
            else:
                async with aclosing(source.blocks(digest)) as blocks:  # type: ignore[type-var]
                    async with aclosing(cut(blocks, self._info.max_chunk_size)) as pieces:  # type: ignore[type-var]
                        async for chunk in pieces:
                            sent += len(chunk)
                            self._check_size(sent)
                            if sent > stored:
                                if self._pace is not None:
                                    await self._pace(len(chunk))
                                await window.add(chunk)
                self._check_size(sent, whole=True)
            self._check_digest(digest.digest())
            await window.finish()
        except BaseException as error:
            await uninterrupted(self._break_off(error))
            raise
        self._settle(size=sent, chunks=window.chunks, digest=digest.digest())

    def _settle(self, **fields: object) -> None:
        """Fill in what is known only now. The info is ours alone until it is returned, and a copy costs more than all
        else that is done for a small object."""
        for key, value in fields.items():
            object.__setattr__(self._info, key, value)

    def _check_size(self, sent: int, *, whole: bool = False) -> None:
        if self._size is not None and (sent > self._size or (whole and sent < self._size)):
            raise ChunksError(
                f"the source of {self._bucket.name}/{self._info.name} gave {'only ' if whole else ''}{sent} bytes "
                f"of {self._size}" if sent < self._size else
                f"the source of {self._bucket.name}/{self._info.name} gives more than its {self._size} bytes",
                remedy="it changed while it was read: put it again",
            )  # fmt: skip

    def _check_digest(self, digest: bytes) -> None:
        if self._digest is not None and digest != self._digest:
            raise DigestError(
                f"the source of {self._bucket.name}/{self._info.name} doesn't have the digest that was promised",
                remedy="it changed while it was read: put it again",
            )

    async def commit(self, subject: str, expected_revision: int | None) -> ObjectInfo:
        """The meta is stored, or refused and the chunks are purged, or UnknownOutcomeError."""
        payload = meta.encode(self._info)
        headers = _ROLLUP
        if expected_revision is not None:
            headers = header_block({"Nats-Rollup": "sub", EXPECTED: str(expected_revision)})
        try:
            pending = await self._send_meta(subject, payload, headers)
        except BaseException as error:
            await uninterrupted(self._break_off(error))
            raise
        try:
            return await self._outcome(pending)
        except asyncio.CancelledError:
            # The future is gone, the message isn't: first learn what became of it.
            await uninterrupted(self._after_cancellation(pending))
            raise

    async def _send_meta(self, subject: str, payload: bytes, headers: bytes) -> Pending:
        """Put it on the wire; a lost connection may come back first, since nothing is sent until then."""
        connection = self._bucket.connection
        try:
            return connection.publisher.send(subject, payload, headers, timeout=META_TIMEOUT)
        except NotSentError:
            if not await connection.wait_connected(RECOVER):
                raise
            return connection.publisher.send(subject, payload, headers, timeout=META_TIMEOUT)

    async def _outcome(self, pending: Pending) -> ObjectInfo:
        """Stored. Raises the refusal (our nuid is purged then), or UnknownOutcomeError."""
        info = self._info
        try:
            message = await pending.wait()
            check_taken(message, pending.subject)
            ack = parse_ack(self._bucket, message.data, what=f"write the meta of {info.bucket}/{info.name}")
        except UnknownOutcomeError as error:
            return await self._look(error)
        except JetsyncError as error:
            if self._resume is not None:
                return await self._refused(error)
            await uninterrupted(self._discard())
            raise
        self._settle(revision=ack["seq"], time_ns=time_ns())
        return info

    async def _refused(self, error: JetsyncError) -> ObjectInfo:
        """Perhaps because an earlier attempt under this nuid had succeeded, and its answer was lost."""
        try:
            newest = await objects.read(self._bucket, self._info.name)
        except ObjectError:
            raise error from None
        if newest.nuid != self._info.nuid or newest.digest != self._info.digest:
            raise error
        return newest

    async def _look(self, cause: UnknownOutcomeError) -> ObjectInfo:
        """No answer came: what does the leader have? The fence sees to it that nothing of ours is queued there."""
        try:
            if await self._bucket.connection.wait_connected(RECOVER):
                await self._window.fence()
        except JetsyncError:
            pass  # then the look may come too early, and the outcome stays unknown
        return await recover(self._bucket, self._info, cause)

    async def _after_cancellation(self, pending: Pending) -> None:
        try:
            await self._outcome(pending)
        except JetsyncError:
            pass  # refused: purged. Unknown: the caller's journal has the nuid

    async def _break_off(self, error: BaseException) -> None:
        """The meta hasn't been sent. What can go on later stays; but not when the store or the source refused, and not
        when it is given up on purpose (a clean stop leaves nothing)."""
        lost = isinstance(error, StoreUnavailableError)
        if self._keep and lost and not isinstance(error, SpoiledError):
            self._window.forget()
        elif self._resume is None:
            await self._discard()

    async def _discard(self) -> None:
        """Purge our nuid, after what is still on its way. What fails here is found by the journal."""
        self._window.forget()
        if not self._window.sent_anything or not self._bucket.connection.publisher.connected:
            return
        try:
            async with asyncio.timeout(CLEAN_UP):
                await self._window.fence()
                await chunks.purge(self._bucket, self._info.nuid)
        except (JetsyncError, TimeoutError):
            pass


async def _purge(bucket: Bucket, nuid: str) -> None:
    try:
        await chunks.purge(bucket, nuid)
    except (StoreUnavailableError, StoreError):
        pass  # the object is stored; its old chunks are orphans now, which `verify` finds


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end also when cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.get_running_loop().create_task(work)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        if not task.cancelled():
            task.exception()
        raise interrupted
    return task.result()
