"""Moving a channel by hand: to a snapshot that is named (promote), or back to an earlier one (roll back).

Both write a new record with the next counter, signed when there is a key, so that subscribers who trust certain
publishers take a rollback as they take anything else. A channel only ever leads to a snapshot that is sealed and
complete (DESIGN section 5, promise 10); that is looked at before the move.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.core import channels
from agent.core.channels import Record
from agent.errors import ChannelError, SnapshotError
from agent.snapshots.complete import require_complete
from agent.snapshots.repository import Channel, Repository, read_manifest, require_key
from agent.snapshots.signing import Signer


@dataclass(frozen=True, slots=True)
class Moved:
    """previous: where the channel led before, "" for nowhere. changed: whether it leads elsewhere now."""

    channel: str
    snapshot: str
    previous: str
    counter: int

    @property
    def changed(self) -> bool:
        return self.snapshot != self.previous


async def promote(
    repository: Repository,
    identity: str,
    channel: str,
    *,
    signer: Signer | None,
    now: Callable[[], float] = time.time,
) -> Moved:
    """Point the channel (made when it isn't there) to the snapshot.

    :raises SnapshotError: the snapshot isn't sealed or complete, or a signed channel would lose its signature
    :raises LostRaceError: somebody else has moved the channel meanwhile
    """
    repository.bucket.require_writable()
    revision = await repository.revision_of(channel)
    current = await _current(repository, channel)
    require_key(current, signer)
    bucket = await repository.snapshot_bucket(identity)
    if not bucket.sealed:
        raise SnapshotError(
            f"snapshot {identity} isn't sealed: it was never completed", remedy="publish again, or name another one"
        )
    stated = await read_manifest(bucket, identity)
    await require_complete(repository, bucket, identity, stated.manifest)
    previous = current.snapshot if current is not None else ""
    record = Record(
        repository=repository.name,
        channel=channel,
        snapshot=identity,
        manifest=stated.manifest.digest,
        counter=channels.next_counter(current.record if current is not None else None, revision=revision),
        time=f"{datetime.fromtimestamp(now(), UTC):%Y-%m-%dT%H:%M:%SZ}",
        previous=previous if previous != identity else "",
    )
    await repository.move(record, expected_revision=revision, signer=signer)
    return Moved(channel, identity, previous, record.counter)


async def roll_back(
    repository: Repository,
    channel: str,
    identity: str = "",
    *,
    signer: Signer | None,
    now: Callable[[], float] = time.time,
) -> Moved:
    """Point the channel to an earlier snapshot; without one, to that which it led to before.

    :raises SnapshotError: there is none, or as `promote`
    """
    return await promote(repository, identity or await _before(repository, channel), channel, signer=signer, now=now)


async def _before(repository: Repository, channel: str) -> str:
    current = await repository.channel(channel)
    if current is None:
        raise SnapshotError(
            f"there is no channel {channel!r} in repository {repository.name!r}",
            remedy=f"see which there are: jetsync snapshot list {repository.name}",
        )
    if current.record is not None and current.record.previous:
        return current.record.previous
    raise SnapshotError(
        f"channel {channel!r} doesn't say where it led before {current.snapshot}",
        remedy=f"name a snapshot: jetsync snapshot rollback {repository.name} {channel} ID",
    )


async def _current(repository: Repository, channel: str) -> Channel | None:
    """Where the channel leads; one that can't be read counts as none: it is mended by being moved."""
    try:
        return await repository.channel(channel)
    except ChannelError:
        return None
