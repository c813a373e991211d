"""Publishing: a tree becomes a sealed bucket, and then the channel moves to it (DESIGN section 7).

    read the tree -> have its content in the repository -> see that the tree hasn't changed meanwhile
    -> make the bucket <repository>_<id>, a link (or a copy) per file, the manifest, the signature
    -> verify -> seal -> look at all content once more -> move the channel by compare-and-swap

The channel moves last and in one step, so a crash anywhere leaves it on the old snapshot. What was being made is noted
in the state (`publishing`): the next run finishes it when the tree is still the same, and deletes it, unsealed, when it
isn't. Each step looks at what is there and does the rest, so "finishing" is just running again.

A tree equal to the one that this publication has published last is not published again, wherever the channel is now: a
rollback stays. But its content is looked at, and what others have damaged or deleted is put again; so is the channel.

A tree that is empty all of a sudden isn't published by `trigger: on-change`: the subscribers keep what they have.

Two publishers on one channel: both snapshots are whole; the channel goes to the one that moves it first, since both
name the revision that they saw when they began. The other one is told (LostRaceError).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from agent.config.model import Publication
from agent.core import channels, manifest
from agent.core.channels import Record
from agent.core.manifest import Manifest
from agent.errors import (
    BucketExistsError,
    BucketNotFoundError,
    ChannelError,
    LostRaceError,
    RefusedError,
    SealedError,
    SnapshotError,
    StaleError,
)
from agent.objectstore import Bucket, BucketSpec
from agent.snapshots import repository as places
from agent.snapshots.complete import require_complete
from agent.snapshots.content import sweep
from agent.snapshots.fill import Filling
from agent.snapshots.report import Progress, SnapshotReport, no_progress
from agent.snapshots.repository import Channel, Repository, require_key
from agent.snapshots.signing import Signer
from agent.snapshots.tree import Tree
from agent.sync.db import Db

# How often a tree that changes while it is published is begun again.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot that this publication makes or has made."""

    id: str
    manifest: str


class Publishing:
    """One publication's work. `now`: seconds since 1970. on_progress: bytes of content sent, and to be sent."""

    def __init__(
        self,
        config: Publication,
        repository: Repository,
        tree: Tree,
        db: Db,
        *,
        now: Callable[[], float] = time.time,
        on_progress: Progress = no_progress,
    ) -> None:
        self._config = config
        self._repository = repository
        self._tree = tree
        self._db = db
        self._now = now
        self._on_progress = on_progress

    async def run(self, report: SnapshotReport) -> None:
        """Publish the tree as it is, if that is news; `report` gets what was done.

        :raises SnapshotError: the tree can't be published, what is stored isn't right, or another one was faster
        """
        signer = Signer.from_file(self._config.sign_with) if self._config.sign_with else None
        await self._repository.mark()
        await sweep(self._repository.bucket, self._db)
        report.previous = report.id = (await self._noted("published") or Made("", "")).id
        for left in reversed(range(_ATTEMPTS)):
            try:
                tree = await self._tree.read()
                await self._publish(tree, signer, report)
                return
            except StaleError as error:
                if not left:
                    raise SnapshotError(
                        f"{self._config.name} keeps changing while it is published ({error.message})",
                        remedy="publish when nobody writes to it",
                    ) from error

    async def _publish(self, tree: Manifest, signer: Signer | None, report: SnapshotReport) -> None:
        revision = await self._repository.revision_of(self._config.channel)
        channel = await self._channel()
        require_key(channel, signer)
        last = await self._last()
        filling = Filling(
            self._config,
            self._repository,
            tree,
            self._tree.open,
            self._db,
            now=self._now,
            on_progress=self._on_progress,
        )
        if last is not None and last.manifest == tree.digest and await self._is_whole(last):
            await filling.have_content(report)
            report.id = last.id
            if not await self._is_sound(channel, signer):
                await self._move(last, None, revision, signer)
            return
        self._refuse_emptied(tree, last)
        made = await self._identity(tree)
        await filling.have_content(report)
        if not await self._tree.unchanged():
            raise StaleError("the tree has changed meanwhile")
        bucket = await self._bucket(made)
        try:
            if not bucket.sealed:
                await filling.fill(bucket, signer, report)
                await require_complete(self._repository, bucket, made.id, tree)
                await bucket.seal()
        except SealedError:
            pass  # another publisher of the same tree was at the same bucket, and is done
        await require_complete(self._repository, bucket, made.id, tree)
        await self._move(made, channel, revision, signer)
        await self._note("published", made)
        await self._note("publishing", None)
        report.id = made.id

    def _refuse_emptied(self, tree: Manifest, last: Made | None) -> None:
        """What is empty all of a sudden was more likely unmounted than meant, and nobody has looked at it.

        :raises RefusedError: by itself nothing would publish that
        """
        if self._config.trigger == "on-change" and not tree.entries and last is not None:
            raise RefusedError(
                f"what {self._config.name} publishes is empty, and wasn't when {last.id} was published",
                remedy="mount it or put the files back; to publish an empty tree on purpose: `trigger: manual`",
            )

    # -- what was published --------------------------------------------------------------------------------------

    async def _channel(self) -> Channel | None:
        """The channel; one that can't be read counts as none: it is moved all the same."""
        try:
            return await self._repository.channel(self._config.channel)
        except ChannelError:
            return None

    async def _is_sound(self, channel: Channel | None, signer: Signer | None) -> bool:
        """Whether the channel is as somebody who may move it has left it. It isn't when it is gone, can't be read,
        leads to what isn't there, has lost its signature, or is older than what this publication has made of it."""
        if channel is None or (signer is not None and not channel.signer):
            return False
        if channel.record is not None and channel.record.counter < await self._known_counter():
            return False
        try:
            await self._repository.snapshot_bucket(channel.snapshot)
        except SnapshotError:
            return False
        return True

    async def _known_counter(self) -> int:
        return int(await self._db(lambda store: store.kv_get("counter")) or 0)

    async def _last(self) -> Made | None:
        """What this publication has published last: as noted or, when the state was lost, as the buckets tell it."""
        noted = await self._noted("published")
        if noted is not None:
            return noted
        for snapshot in reversed(await self._repository.snapshots()):
            if snapshot.sealed and snapshot.publication == self._config.name and snapshot.manifest:
                return Made(snapshot.id, snapshot.manifest)
        return None

    async def _is_whole(self, made: Made) -> bool:
        """Whether the snapshot's bucket is still there, and sealed."""
        try:
            return (await self._repository.snapshot_bucket(made.id)).sealed
        except SnapshotError:
            return False

    async def _identity(self, tree: Manifest) -> Made:
        """What is being made: what was begun earlier, if that is the same tree; else something new."""
        begun = await self._noted("publishing")
        if begun is not None and begun.manifest == tree.digest:
            return begun
        if begun is not None:
            await self._abandon(begun)
        moment = datetime.fromtimestamp(self._now(), UTC)
        made = Made(manifest.snapshot_id(moment, tree.digest), tree.digest)
        await self._note("publishing", made)
        return made

    async def _abandon(self, begun: Made) -> None:
        """Delete the bucket of a snapshot that was never completed."""
        try:
            bucket = await self._repository.snapshot_bucket(begun.id)
        except SnapshotError:
            return
        if not bucket.sealed:
            try:
                await self._repository.buckets.delete(bucket.name)
            except BucketNotFoundError:
                pass  # another one of us has done it

    async def _noted(self, key: str) -> Made | None:
        return await _noted(self._db, key)

    async def _note(self, key: str, made: Made | None) -> None:
        await self._db(lambda store: store.kv_set(key, json.dumps(asdict(made)) if made is not None else None))

    # -- the snapshot's bucket -----------------------------------------------------------------------------------

    async def _bucket(self, made: Made) -> Bucket:
        """The bucket of the snapshot, made when it isn't there, with the shape of its repository."""
        name = manifest.bucket_of(self._repository.name, made.id)
        config = self._repository.bucket.config
        spec = BucketSpec(
            storage=config.get("storage"),
            replicas=config.get("num_replicas"),
            compression=config.get("compression", "none") != "none",
            description=f"snapshot of {self._config.name}",
            metadata={
                places.SNAPSHOT: made.id,
                places.PUBLICATION: self._config.name,
                places.MANIFEST: made.manifest,
            },
        )
        try:
            return await self._repository.buckets.create(name, spec)
        except BucketExistsError:  # begun earlier, or another publisher has the same tree at the same second
            return await self._repository.buckets.bind(name)

    # -- the channel ---------------------------------------------------------------------------------------------

    async def _move(self, made: Made, channel: Channel | None, revision: int, signer: Signer | None) -> None:
        """Point the channel to the snapshot.

        :raises LostRaceError: it was moved to another snapshot since the beginning
        """
        if channel is not None and (channel.snapshot, channel.revision) == (made.id, revision) and channel.record:
            return  # a run that was killed right after this step
        known = await self._known_counter()
        current = channel.record if channel is not None else None
        record = Record(
            repository=self._repository.name,
            channel=self._config.channel,
            snapshot=made.id,
            manifest=made.manifest,
            counter=channels.next_counter(current, known, revision=revision),
            time=f"{datetime.fromtimestamp(self._now(), UTC):%Y-%m-%dT%H:%M:%SZ}",
            previous=channel.snapshot if channel is not None and channel.snapshot != made.id else "",
        )
        try:
            await self._repository.move(record, expected_revision=revision, signer=signer)
        except LostRaceError:
            now = await self._channel()
            if now is None or now.snapshot != made.id:
                raise
            record = now.record or record  # another publisher of the same tree
        await self._db(lambda store: store.kv_set("counter", str(record.counter)))


async def _noted(db: Db, key: str) -> Made | None:
    text = await db(lambda store: store.kv_get(key))
    return Made(**json.loads(text)) if text else None


async def published_last(db: Db) -> str:
    """The id of the snapshot that a publication with this state has published last, "" for none."""
    made = await _noted(db, "published")
    return made.id if made is not None else ""
