"""A repository: a bucket with the content of snapshots and the channels; and the snapshots' own buckets beside it.

    <repository>            sha256/<hex>            content, by digest; never overwritten
                            channels/<name>         a bucket link to the snapshot that is current there, with its record
    <repository>_<id>       one snapshot: a link (or, `content: copies`, an object) per file, .jetsync/manifest.json
                            and, signed, .jetsync/manifest.sig. Sealed when it is complete

What a snapshot is of stands in its stream's metadata, so that listing costs one request for 256 buckets and nothing has
to be opened: `jetsync.snapshot` (the id), `jetsync.repository`, `jetsync.publication`, `jetsync.manifest` (digest).
It is for listing only: whoever uses a snapshot reads the manifest and checks it against the id or the channel's record.
Servers before 2.10 have no metadata of streams; there the name alone says what a bucket is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import channels, manifest
from agent.core.channels import Record
from agent.core.manifest import Manifest
from agent.errors import (
    BadMetaError,
    BucketNotFoundError,
    ChannelError,
    LostRaceError,
    ManifestError,
    ObjectNotFoundError,
    RevisionError,
    SnapshotError,
    UsageError,
)
from agent.objectstore import Bucket, Buckets, BucketSpec, BucketStatus, Connection, ObjectInfo
from agent.snapshots.signing import Signer, verified

IS_REPOSITORY = "jetsync.repository"
SNAPSHOT = "jetsync.snapshot"
PUBLICATION = "jetsync.publication"
MANIFEST = "jetsync.manifest"
# A manifest of a million files has about 150 MB.
MAX_MANIFEST = 512 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot as its bucket says it. created: RFC 3339, of the bucket. manifest: digest, "" when not told.

    size: bytes of the bucket itself (links and manifest; with copies, the content too).
    """

    id: str
    bucket: str
    sealed: bool
    created: str
    publication: str
    manifest: str
    size: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as it is now. revision: the precondition for moving it. snapshot: the id that its link leads to.

    record: what it says of itself, None when a plain client made the link. signer: the public nkey whose signature of
    the record is valid, "" for none.
    """

    name: str
    revision: int
    snapshot: str
    record: Record | None
    signer: str = ""
    time_ns: int = 0


class Repository:
    """An opened repository."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.buckets = Buckets(bucket.connection)

    @property
    def name(self) -> str:
        """As snapshots and records know it: a mirror has those of its origin."""
        return self.bucket.origin or self.bucket.name

    @classmethod
    async def open(cls, connection: Connection, name: str) -> Repository:
        """:raises BucketNotFoundError, NotABucketError, StoreUnavailableError"""
        try:
            return cls(await Buckets(connection).bind(name))
        except BucketNotFoundError as error:
            raise BucketNotFoundError(
                f"the repository {name!r} does not exist",
                remedy=f"declare it under `buckets:` in the configuration, or create it: nats object add {name}",
            ) from error

    async def mark(self) -> None:
        """Have mappings of this bucket leave `sha256/` and `channels/` alone (DESIGN section 4, "Reserved").

        :raises SnapshotError: content in it would expire
        """
        if self.bucket.has_ttl:
            raise SnapshotError(
                f"the repository {self.bucket.name!r} has a ttl: its content would expire", remedy="take the ttl away"
            )
        self.bucket.require_writable()
        metadata = self.bucket.config.get("metadata")
        if isinstance(metadata, dict) and metadata.get(IS_REPOSITORY) == "1":
            return
        spec = BucketSpec(metadata={IS_REPOSITORY: "1"})
        self.bucket = (await self.buckets.ensure(self.bucket.name, spec, may_create=False)).bucket

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def snapshots(self) -> list[Snapshot]:
        """All snapshots, unsealed ones too, the oldest first."""
        found = (self._as_snapshot(status) for status in await self.buckets.list())
        return sorted((one for one in found if one is not None), key=lambda one: (one.id, one.created))

    def _as_snapshot(self, status: BucketStatus) -> Snapshot | None:
        identity = manifest.identity_in(status.name, repository=self.name)
        if identity is None:
            return None
        return Snapshot(
            id=identity,
            bucket=status.name,
            sealed=status.sealed,
            created=status.created,
            publication=status.metadata.get(PUBLICATION, ""),
            manifest=status.metadata.get(MANIFEST, ""),
            size=status.size,
        )

    async def snapshot_bucket(self, identity: str) -> Bucket:
        """The bucket of a snapshot.

        :raises SnapshotError: there is none
        """
        name = manifest.bucket_of(self.name, identity)
        try:
            return await self.buckets.bind(name)
        except BucketNotFoundError as error:
            raise SnapshotError(
                f"there is no snapshot {identity} in repository {self.name!r} (no bucket {name})",
                remedy=f"see which there are: jetsync snapshot list {self.name}",
            ) from error

    async def resolve(self, text: str) -> str:
        """The id of the snapshot that a person names: an id, or the name of a channel.

        :raises UsageError: it is neither
        """
        if manifest.is_snapshot_id(text):
            return text
        channel = await self.channel(text)
        if channel is None:
            raise UsageError(
                f"{text!r} is neither a snapshot nor a channel of repository {self.name!r}",
                remedy=f"see what there is: jetsync snapshot list {self.name}",
            )
        return channel.snapshot

    # -- channels --------------------------------------------------------------------------------------------------

    async def channels(self) -> list[str]:
        """The names of all channels, also of those that can't be read."""
        found: list[str] = []
        found += [info.name for info in await self.bucket.list(on_bad=lambda message: found.append(message.name))]
        return [
            name.removeprefix(manifest.CHANNEL_PREFIX) for name in found if name.startswith(manifest.CHANNEL_PREFIX)
        ]

    async def channel(self, name: str) -> Channel | None:
        """The channel as the stream's leader has it; None when there is none.

        :raises ChannelError: it isn't a link to a snapshot of this repository, or its record isn't one or lies
        """
        try:
            info = await self.bucket.info(manifest.channel_name(name))
        except ObjectNotFoundError:
            return None
        except BadMetaError as error:
            raise ChannelError(f"channel {name!r}: {error.message}", remedy="publish again") from error
        return self.read_channel(name, info)

    def read_channel(self, name: str, info: ObjectInfo) -> Channel:
        """What the meta of a channel says.

        :raises ChannelError
        """
        link = info.link
        snapshot = manifest.identity_in(link.bucket, repository=self.name) if link and link.name is None else None
        if snapshot is None:
            raise ChannelError(
                f"channel {name!r} of repository {self.name!r} doesn't lead to a snapshot of it",
                remedy="publish, or promote a snapshot: jetsync snapshot promote",
            )
        record = channels.of_metadata(info.metadata)
        if record is not None:
            channels.check_place(record, repository=self.name, channel=name, snapshot=snapshot)
        return Channel(name, info.revision, snapshot, record, _signer(info.metadata), info.time_ns)

    async def revision_of(self, channel: str) -> int:
        """The precondition for moving a channel from whatever it is now; also when that can't be read."""
        try:
            return (await self.bucket.info(manifest.channel_name(channel), show_deleted=True)).revision
        except ObjectNotFoundError:
            return 0
        except BadMetaError as error:
            return error.revision

    async def move(self, record: Record, *, expected_revision: int, signer: Signer | None) -> int:
        """Point the record's channel to its snapshot; gives the channel's new revision.

        :raises LostRaceError: somebody else has moved it since
        """
        text = record.encode()
        metadata = {channels.RECORD: text}
        if signer is not None:
            metadata[channels.PUBLISHER] = signer.public
            metadata[channels.SIGNATURE] = signer.sign(channels.signed_record(text))
        try:
            made = await self.bucket.add_bucket_link(
                manifest.channel_name(record.channel),
                manifest.bucket_of(self.name, record.snapshot),
                metadata=metadata,
                expected_revision=expected_revision,
            )
        except RevisionError as error:
            raise LostRaceError(
                f"channel {record.channel!r} of {self.name!r} was moved by somebody else meanwhile",
                remedy=f"see where it is: jetsync snapshot list {self.name}; snapshot {record.snapshot} is there too",
            ) from error
        return made.revision


def require_key(channel: Channel | None, signer: Signer | None) -> None:
    """:raises SnapshotError: moving the channel would take its signature away"""
    if channel is not None and channel.signer and signer is None:
        raise SnapshotError(
            f"channel {channel.name!r} is signed by {channel.signer}, and there is no key to sign with",
            remedy="name it: --sign-with FILE, or sign_with of a publication to this channel in the configuration",
        )


def _signer(metadata: Mapping[str, str]) -> str:
    text, public = metadata.get(channels.RECORD, ""), metadata.get(channels.PUBLISHER, "")
    signature = metadata.get(channels.SIGNATURE, "")
    return public if public and verified(public, signature, channels.signed_record(text)) else ""


# -- what a snapshot's bucket says -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stated:
    """What a snapshot says of itself. signer: the public nkey whose signature of the manifest is valid, "" for none."""

    manifest: Manifest
    signer: str


async def read_manifest(bucket: Bucket, identity: str, *, expected: str = "") -> Stated:
    """The manifest in a snapshot's bucket, checked against the id and, where it is known, the full digest.

    :raises ManifestError: it isn't there, isn't one, or isn't this snapshot's
    """
    try:
        info = await bucket.info(manifest.MANIFEST_NAME)
        if info.link is not None or info.size > MAX_MANIFEST:
            raise ManifestError(f"the manifest of {identity} is a link, or too large ({info.size} bytes)")
        text = await bucket.get_bytes(info, follow_links=False)
    except (ObjectNotFoundError, BadMetaError) as error:
        raise ManifestError(
            f"snapshot {identity} has no manifest", remedy="it was never completed; publish again"
        ) from error
    read = manifest.parse(text)
    if not manifest.belongs(identity, read.digest) or expected not in ("", read.digest):
        raise ManifestError(f"the manifest in bucket {bucket.name!r} isn't that of snapshot {identity}")
    return Stated(read, await _manifest_signer(bucket, text))


async def _manifest_signer(bucket: Bucket, text: bytes) -> str:
    try:
        value = json.loads(await bucket.get_bytes(manifest.SIGNATURE_NAME, follow_links=False))
    except (ObjectNotFoundError, BadMetaError, ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    public, signature = value.get("publisher"), value.get("signature")
    if not isinstance(public, str) or not isinstance(signature, str):
        return ""
    return public if verified(public, signature, channels.signed_manifest(text)) else ""


def signature_text(signer: Signer, encoded: bytes) -> bytes:
    """What `.jetsync/manifest.sig` holds for this manifest."""
    signature = signer.sign(channels.signed_manifest(encoded))
    return json.dumps({"publisher": signer.public, "signature": signature}).encode()
