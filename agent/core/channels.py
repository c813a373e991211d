"""Channel records: what a channel says of the snapshot that it points to, and whether a subscriber takes it (DESIGN 7).

A channel is the object `channels/<name>` in the repository, a link to the snapshot's bucket. Its metadata has a record
as canonical JSON and, when the publisher signs, the signature over exactly these bytes:

    jetsync.record      {"channel","counter","manifest","previous","repository","snapshot","time"}
    jetsync.publisher   the public nkey of who signed
    jetsync.signature   base64url of the Ed25519 signature over SIGNED_RECORD + record

The counter rises with each move, rollbacks too. Who trusts certain publishers takes a record only when it is
signed by one of them, is of this repository and channel, and has a counter above the last one taken: so an old record,
valid as it once was, can't be played again. A first install has taken none, and can't notice it (docs/security.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from agent.core.manifest import belongs, is_snapshot_id
from agent.errors import ChannelError

RECORD = "jetsync.record"
PUBLISHER = "jetsync.publisher"
SIGNATURE = "jetsync.signature"

# What is signed begins with these words, so that a signature of one kind never passes for the other.
SIGNED_RECORD = b"jetsync channel 1\n"
SIGNED_MANIFEST = b"jetsync manifest 1\n"

_MAX_COUNTER = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Record:
    """manifest: digest of the snapshot's manifest, 64 hex digits. counter: from 1. time: RFC 3339, when the channel was
    moved. previous: the snapshot that it pointed to before, "" for none."""

    repository: str
    channel: str
    snapshot: str
    manifest: str
    counter: int
    time: str
    previous: str = ""

    def encode(self) -> str:
        """The canonical text."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def parse(text: str) -> Record:
    """:raises ChannelError: it is no record, or contradicts itself"""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChannelError("the channel's record isn't JSON") from error
    if not isinstance(value, dict) or value.keys() != Record.__dataclass_fields__.keys():
        raise ChannelError("the channel's record doesn't have the keys of one")
    counter = value.pop("counter")
    if not isinstance(counter, int) or isinstance(counter, bool) or not 0 < counter <= _MAX_COUNTER:
        raise ChannelError("the counter in the channel's record isn't a number")
    if not all(isinstance(item, str) for item in value.values()):
        raise ChannelError("the channel's record has something else where text must be")
    record = Record(counter=counter, **value)
    if not is_snapshot_id(record.snapshot) or (record.previous and not is_snapshot_id(record.previous)):
        raise ChannelError("the channel's record names a snapshot that can't be one")
    if len(record.manifest) != 64 or not belongs(record.snapshot, record.manifest):
        raise ChannelError("the channel's record has a manifest that isn't the snapshot's")
    if record.encode() != text:
        raise ChannelError("the channel's record isn't canonical")
    return record


def signed_record(text: str) -> bytes:
    """The bytes that a signature of a record is over."""
    return SIGNED_RECORD + text.encode()


def signed_manifest(encoded: bytes) -> bytes:
    """The bytes that a signature of a manifest is over."""
    return SIGNED_MANIFEST + encoded


@dataclass(frozen=True, slots=True)
class Accepted:
    """The record that a subscriber took last: its counter (0 = none yet) and snapshot."""

    counter: int = 0
    snapshot: str = ""


def check_place(record: Record, *, repository: str, channel: str, snapshot: str) -> None:
    """See that a record was made for this channel, and for the snapshot that the channel's link leads to.

    :raises ChannelError
    """
    if (record.repository, record.channel) != (repository, channel):
        raise ChannelError(
            f"the record of channel {repository}/{channel} was made for {record.repository}/{record.channel}",
            remedy="publish, promote or roll back, which writes a new one",
        )
    if record.snapshot != snapshot:
        raise ChannelError(f"channel {channel!r} leads to {snapshot}, and its record says {record.snapshot}")


def check_order(record: Record, accepted: Accepted) -> None:
    """See that a record isn't older than the last one taken; the very same is fine.

    :raises ChannelError
    """
    if record.counter > accepted.counter:
        return
    if (record.counter, record.snapshot) == (accepted.counter, accepted.snapshot):
        return
    raise ChannelError(
        f"channel {record.channel!r} has counter {record.counter}, and {accepted.counter} was taken already:"
        " an old record was played again",
        remedy="find out who writes to the repository; a publisher with the key can move the channel again",
    )


def next_counter(current: Record | None, known: int = 0, *, revision: int = 0) -> int:
    """The counter of the next record. known: the highest that the publisher remembers. revision: of the channel's meta
    as it is now, 0 for none.

    A record's counter is no higher than the revision that it is stored with, and revisions only rise. So the revision
    is above the counters of all records that ever stood there, also when somebody has broken what stands there now, or
    has played an old record again.
    """
    return max(current.counter if current is not None else 0, known, revision) + 1


def of_metadata(metadata: Mapping[str, str]) -> Record | None:
    """The record in a channel's metadata; None when it has none (a plain client made the link).

    :raises ChannelError: it has something that isn't one
    """
    text = metadata.get(RECORD)
    return parse(text) if text is not None else None
