"""Pruning a repository: old snapshots beyond `keep`, and content that no snapshot refers to (DESIGN section 7).

What is never removed: a snapshot that a channel points to or that somebody has pinned; one that isn't sealed and is
younger than the grace, since somebody may be filling it; content that any snapshot refers to, sealed or not; content
whose meta is younger than the grace.

The order is what makes it safe beside publishers. The metas of all content are read first, then every snapshot there
is, then what none of them refers to is deleted, each by compare-and-swap on the revision that was read. A publisher
that began before us and reuses old content has stamped it anew (`content`): its revision isn't the one we read, or it
is young. One that begins later puts what is missing. And a snapshot that can't be read ends the pruning, since what it
refers to isn't known.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from agent.core import manifest
from agent.errors import BucketNotFoundError, ChannelError, ObjectNotFoundError, RevisionError, SnapshotError
from agent.objectstore import ObjectInfo
from agent.objectstore.times import parse_time_ns
from agent.snapshots.content import GRACE
from agent.snapshots.many import each
from agent.snapshots.repository import Repository, Snapshot

KEEP = 5


@dataclass(slots=True)
class Pruned:
    """What was removed, or would be. contents, bytes: objects in the repository and their sizes. kept: snapshots that
    stay."""

    snapshots: list[str] = field(default_factory=list)
    contents: int = 0
    bytes: int = 0
    kept: int = 0


async def prune(
    repository: Repository,
    *,
    keep: Mapping[str, int],
    pinned: Container[str] = (),
    dry_run: bool = False,
    grace: float = GRACE,
    now: Callable[[], float] = time.time,
) -> Pruned:
    """keep: publication -> how many of its snapshots stay; KEEP for those that aren't named. pinned: ids that stay.

    :raises SnapshotError: something can't be read, so that nothing more may be removed
    """
    if not dry_run:
        repository.bucket.require_writable()
    done = Pruned()
    contents = await _contents(repository)
    going = await _superfluous(repository, keep, pinned, now() - grace)
    for snapshot in going:
        if dry_run or await _removed(repository, snapshot):
            done.snapshots.append(snapshot.id)
    gone = set(done.snapshots)
    staying = [snapshot for snapshot in await repository.snapshots() if snapshot.id not in gone]
    done.kept = len(staying)
    used: set[str] = set()
    for snapshot in staying:
        used |= await _referred_to(repository, snapshot)

    async def remove(info: ObjectInfo) -> None:
        if not dry_run:
            try:
                await repository.bucket.delete(info.name, expected_revision=info.revision)
            except (RevisionError, ObjectNotFoundError):
                return  # somebody uses it, or was faster
        done.contents += 1
        done.bytes += info.size

    unused = [info for info in contents if info.name not in used and info.time_ns / 1e9 < now() - grace]
    await each(unused, remove, at_once=16)
    return done


async def _contents(repository: Repository) -> list[ObjectInfo]:
    infos = await repository.bucket.list(on_bad=lambda _: None)
    return [info for info in infos if manifest.content_digest(info.name) is not None]


async def _superfluous(
    repository: Repository, keep: Mapping[str, int], pinned: Container[str], young: float
) -> list[Snapshot]:
    """young: seconds since 1970; an unsealed snapshot made later may be under way."""
    current = await _pointed_to(repository)
    by_publication: dict[str, list[Snapshot]] = defaultdict(list)
    going = []
    for snapshot in await repository.snapshots():
        if snapshot.sealed:
            by_publication[snapshot.publication].append(snapshot)
        elif 0 < parse_time_ns(snapshot.created) / 1e9 < young:
            going.append(snapshot)
    for publication, snapshots in by_publication.items():
        number = keep.get(publication, KEEP)
        going += snapshots[:-number] if number else snapshots
    return [one for one in going if one.id not in current and one.id not in pinned]


async def _pointed_to(repository: Repository) -> set[str]:
    """The snapshots that channels lead to.

    :raises SnapshotError: a channel can't be read
    """
    found = set()
    for name in await repository.channels():
        try:
            channel = await repository.channel(name)
        except ChannelError as error:
            raise SnapshotError(
                f"nothing is pruned, since a channel can't be read: {error.message}",
                remedy="publish to it or promote a snapshot, or delete it",
            ) from error
        if channel is not None:
            found.add(channel.snapshot)
    return found


async def _removed(repository: Repository, snapshot: Snapshot) -> bool:
    """Delete the bucket of a snapshot that no channel points to, also not by now; whether it was.

    # RACE: a channel that is moved to it between this look and the deletion leads nowhere; whoever moves a channel to a
    # snapshot beyond `keep` while somebody prunes is told by the next install.
    """
    if snapshot.id in await _pointed_to(repository):
        return False
    try:
        await repository.buckets.delete(snapshot.bucket)
    except BucketNotFoundError:
        pass  # another one has pruned it
    return True


async def _referred_to(repository: Repository, snapshot: Snapshot) -> set[str]:
    """The names in the repository that a snapshot's links lead to.

    :raises SnapshotError: it can't be told
    """
    try:
        bucket = await repository.buckets.bind(snapshot.bucket)
    except BucketNotFoundError:
        return set()
    broken: list[str] = []
    infos = await bucket.list(on_bad=lambda message: broken.append(message.name))
    if broken:
        raise SnapshotError(
            f"nothing more is pruned: snapshot {snapshot.id} has metas that can't be read ({broken[0]!r})",
            remedy=f"look at it: jetsync snapshot verify {repository.name} {snapshot.id}; or delete its bucket",
        )
    here = (repository.name, repository.bucket.name)
    return {info.link.name for info in infos if info.link and info.link.name and info.link.bucket in here}
