"""Rename on the server: the meta moves to another name, not one chunk is sent again (DESIGN 6, PROTOCOL 8).

For a moment two metas could share one nuid, and in that moment an overwrite or a delete of the old name by any client
would purge the chunks of both. So:

    atomic      one batch {meta under the new name, marker with a fresh nuid under the old}, each with its precondition:
                all or nothing, at one place in the stream. Needs `allow_atomic` on the stream (2.12+)
    two steps   new meta, marker, then the chunks are counted; a cancellation waits until that is done. When somebody
                wrote the old name in between, the new meta is taken back (its chunks are theirs to purge) and the
                rename fails as if they had come first. When chunks are missing at the end, ChunksError says so: the
                new name has to be uploaded again. A crash in between leaves both names: the caller's journal knows

Many renames go in one batch too (`rename_many`), which costs the server little more than one.

A server that doesn't know batches ignores their headers and stores each message by itself, with ordinary acks: only the
`batch` and `count` of the ack tell (PROTOCOL 3g). That is then a rename in two steps, and is checked as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.errors import (
    BucketError,
    ChunksError,
    JetsyncError,
    ObjectNameError,
    RevisionError,
    StoreUnavailableError,
    UnknownOutcomeError,
)
from agent.objectstore import chunks, meta, subjects
from agent.objectstore.commit import EXPECTED, TIMEOUT, commit, is_error, parse_ack, recover, refused
from agent.objectstore.errors_map import ATOMIC_DISABLED, NotSentError
from agent.objectstore.meta import ObjectInfo
from agent.objectstore.objects import changed, expect, read_any
from agent.objectstore.publish import Pending, answer_of, header_block
from agent.objectstore.put import uninterrupted

if TYPE_CHECKING:
    from agent.objectstore.bucket import Bucket


async def rename(
    bucket: Bucket,
    old: str,
    new: str,
    *,
    expected_revision: int | None = None,
    expected_new: int = 0,
    description: str | None = None,
    headers: Mapping[str, list[str]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ObjectInfo:
    """Give the object (or link) another name, keeping its nuid; returns it as it is under the new name.

    `expected_revision` is the old name's precondition, `expected_new` the new name's: 0 = nothing there, or the
    revision of the marker (or of the object to be replaced, whose chunks are then the caller's to purge).

    Raises ObjectNotFoundError, RevisionError (either precondition), ChunksError (see above: the object is under the new
    name, without all of its chunks), UnknownOutcomeError.
    """
    bucket.require_writable()
    if old == new:
        raise ObjectNameError(f"{old!r} has this name already")
    source = await expect(bucket, old, expected_revision)
    target = replace(
        changed(source, description=description, headers=headers, metadata=metadata),
        bucket=bucket.name,
        name=new,
        revision=0,
        time_ns=0,
    )
    marker = meta.marker(replace(source, bucket=bucket.name), nuid=subjects.new_nuid())
    if bucket.atomic:
        try:
            done = await _in_one_batch(bucket, source, target, marker, expected_new)
        except RevisionError as error:
            raise await _explain(bucket, source, new, expected_new, error) from error
        if done is not None:
            return done
    return await uninterrupted(_in_two_steps(bucket, source, target, marker, expected_new))


@dataclass(frozen=True, slots=True)
class Renaming:
    """One of many renames. source: the object as it was read; its revision is the precondition of the old name."""

    source: ObjectInfo
    new: str
    expected_new: int
    metadata: Mapping[str, str]


MANY = 400
"""Renames in one batch: a server takes 1,000 messages."""


async def rename_many(bucket: Bucket, renamings: Sequence[Renaming]) -> list[ObjectInfo] | None:
    """Rename up to MANY objects at once, all or nothing; returns them as they are under their new names.

    None: the server doesn't do this, nothing is changed. After any error `rename` tells for each what is the matter:
    preconditions see to it that a batch that is still on its way can't undo that.

    Raises RevisionError (a precondition of any of them), UnknownOutcomeError, StoreUnavailableError.
    """
    bucket.require_writable()
    if not bucket.atomic or not 0 < len(renamings) <= MANY:
        return None
    batch = subjects.new_nuid()
    what = f"rename {len(renamings)} objects of {bucket.name}"
    targets = [_target(bucket, renaming) for renaming in renamings]
    messages: list[tuple[ObjectInfo, int]] = []
    for renaming, target in zip(renamings, targets, strict=True):
        marker = meta.marker(replace(renaming.source, bucket=bucket.name), nuid=subjects.new_nuid())
        messages += [(target, renaming.expected_new), (marker, renaming.source.revision)]
    sent: list[Pending] = []
    try:
        for number, (info, expected) in enumerate(messages, start=1):
            headers = {"Nats-Rollup": "sub", "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if number == len(messages):
                headers["Nats-Batch-Commit"] = "1"
            headers[EXPECTED] = str(expected)
            subject = subjects.meta_subject(bucket.name, info.name)
            sent.append(
                bucket.connection.publisher.send(subject, meta.encode(info), header_block(headers), timeout=TIMEOUT)
            )
            if number == 1 and not await _has_begun(bucket, targets[0], sent[0], what):
                return None
        committed = answer_of(await sent[-1].wait())
    finally:
        for pending in sent:
            pending.forget()
    if committed.status == 503:
        raise NotSentError(f"can't {what}: no stream takes it at the moment")
    ack = parse_ack(bucket, committed.data, what=what)
    if ack.get("batch") != batch or ack.get("count") != len(messages):
        raise UnknownOutcomeError(f"can't {what}: the server's answer is not that of a batch")
    first = ack["seq"] - len(messages) + 1
    return [replace(target, revision=first + 2 * at) for at, target in enumerate(targets)]


def _target(bucket: Bucket, renaming: Renaming) -> ObjectInfo:
    return replace(
        renaming.source, bucket=bucket.name, name=renaming.new, metadata=renaming.metadata, revision=0, time_ns=0
    )


async def _has_begun(bucket: Bucket, target: ObjectInfo, first: Pending, what: str) -> bool:
    """Whether the first message has begun a batch. A server that has stored it by itself has it taken back."""
    answer = answer_of(await first.wait())
    if answer.status == 503:
        raise NotSentError(f"can't {what}: no stream takes it at the moment")
    if not answer.data:
        return True
    if not is_error(answer.data, ATOMIC_DISABLED):
        ack = parse_ack(bucket, answer.data, what=what)
        await uninterrupted(_take_back(bucket, replace(target, revision=ack["seq"])))
    return False


async def _in_one_batch(
    bucket: Bucket, source: ObjectInfo, target: ObjectInfo, marker: ObjectInfo, expected_new: int
) -> ObjectInfo | None:
    """None when the server has refused the batch as a batch: nothing is stored, two steps will do."""
    batch = subjects.new_nuid()
    what = f"rename {bucket.name}/{source.name} to {target.name!r}"
    common = {"Nats-Rollup": "sub", "Nats-Batch-Id": batch}
    publisher = bucket.connection.publisher
    first = publisher.send(
        subjects.meta_subject(bucket.name, target.name),
        meta.encode(target),
        header_block({**common, "Nats-Batch-Sequence": "1", EXPECTED: str(expected_new)}),
        timeout=TIMEOUT,
    )
    second = publisher.send(
        subjects.meta_subject(bucket.name, marker.name),
        meta.encode(marker),
        header_block({**common, "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1", EXPECTED: str(source.revision)}),
        timeout=TIMEOUT,
    )
    try:
        begun = answer_of(await first.wait())
        committed = answer_of(await second.wait())
    except UnknownOutcomeError as error:
        return await recover(bucket, target, error)
    finally:
        first.forget()
        second.forget()
    if committed.status == 503:
        raise NotSentError(f"can't {what}: no stream takes it at the moment")
    if begun.data:  # an error, or an ack of a server that has stored the message by itself
        if is_error(begun.data, ATOMIC_DISABLED):
            return None
        ack = parse_ack(bucket, begun.data, what=what)
        return await _finish(bucket, source, replace(target, revision=ack["seq"]), committed.data, what)
    ack = parse_ack(bucket, committed.data, what=what)
    if ack.get("batch") != batch or ack.get("count") != 2:
        raise UnknownOutcomeError(f"can't {what}: the server's answer is not that of a batch")
    return replace(target, revision=ack["seq"] - 1)


async def _in_two_steps(
    bucket: Bucket, source: ObjectInfo, target: ObjectInfo, marker: ObjectInfo, expected_new: int
) -> ObjectInfo:
    try:
        moved = await commit(bucket, target, expected_revision=expected_new)
    except RevisionError as error:
        raise await _explain(bucket, source, target.name, expected_new, error) from error
    try:
        await commit(bucket, marker, expected_revision=source.revision)
    except RevisionError as error:
        await _take_back(bucket, moved)
        raise _lost(bucket, source, error) from error
    except JetsyncError as error:
        if refused(error):
            await _take_back(bucket, moved)
        raise
    return await _check_chunks(bucket, moved)


async def _finish(bucket: Bucket, source: ObjectInfo, moved: ObjectInfo, marker_ack: bytes, what: str) -> ObjectInfo:
    """The server stored the new meta by itself; what became of the marker?"""
    try:
        parse_ack(bucket, marker_ack, what=what)
    except RevisionError as error:
        await _take_back(bucket, moved)
        raise _lost(bucket, source, error) from error
    return await _check_chunks(bucket, moved)


async def _take_back(bucket: Bucket, moved: ObjectInfo) -> None:
    """Mark the new name deleted again. The chunks are left alone: the old name may still have them."""
    try:
        await commit(bucket, meta.marker(moved, nuid=subjects.new_nuid()), expected_revision=moved.revision)
    except RevisionError:
        pass  # somebody wrote the new name meanwhile: it is theirs now
    except (StoreUnavailableError, BucketError) as error:
        raise UnknownOutcomeError(
            f"{bucket.name}/{moved.name} shares its chunks with the object that it was renamed from: {error.message}",
            remedy="put one of the two again",
        ) from error


async def _check_chunks(bucket: Bucket, moved: ObjectInfo) -> ObjectInfo:
    if not moved.chunks:
        return moved
    found = await chunks.count(bucket, moved.nuid)
    if found < moved.chunks:
        raise ChunksError(
            f"{bucket.name}/{moved.name} has {found} of {moved.chunks} chunks: its old name was written meanwhile",
            remedy="put it again under its new name",
        )
    return moved


async def _explain(
    bucket: Bucket, source: ObjectInfo, new: str, expected_new: int, error: RevisionError
) -> RevisionError:
    """Which of the two preconditions has failed? The server doesn't say."""
    there = await read_any(bucket, new)
    actual = there.revision if there is not None else 0
    if actual == expected_new:
        return _lost(bucket, source, error)
    return RevisionError(
        f"{bucket.name}/{new} is at revision {actual}, not {expected_new}", actual=actual, remedy="look again"
    )


def _lost(bucket: Bucket, source: ObjectInfo, error: RevisionError) -> RevisionError:
    return RevisionError(
        f"{bucket.name}/{source.name} is not at revision {source.revision} any more", actual=error.actual,
        remedy="look again: somebody else wrote first",
    )  # fmt: skip
