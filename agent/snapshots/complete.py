"""Whether a snapshot is complete: everything that its manifest says is stored, whole, where it says. Reads no content.

This stands before every move of a channel: when publishing, once before the bucket is sealed and once after, and when a
person promotes a snapshot or rolls back to one. It knows nothing of how the snapshot was made: a file is a link to its
content in the repository, or an object with the content itself.
"""

from __future__ import annotations

from agent.core import manifest
from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest
from agent.errors import ManifestError, SnapshotError
from agent.objectstore import Bucket, Link, ObjectInfo
from agent.snapshots.repository import Repository, read_manifest
from agent.snapshots.stored import Stored

_TOLD = 10


async def require_complete(repository: Repository, bucket: Bucket, identity: str, tree: Manifest) -> None:
    """:raises SnapshotError: names what isn't as the manifest says"""
    complaints = await incomplete(repository, bucket, identity, tree)
    if complaints:
        more = f"; and {len(complaints) - _TOLD} more" if len(complaints) > _TOLD else ""
        told = "; ".join(complaints[:_TOLD]) + more
        raise SnapshotError(
            f"what is stored of snapshot {identity} isn't what its manifest says: {told}",
            remedy="publish it again; if that happens again, see who else writes to the repository",
        )


async def incomplete(repository: Repository, bucket: Bucket, identity: str, tree: Manifest) -> list[str]:
    """What isn't as the manifest says, in words."""
    there = {info.name: info for info in await bucket.list(on_bad=lambda _: None)}
    expected = {*tree.entries, manifest.MANIFEST_NAME}
    told = [f"{name} is missing" for name in expected - there.keys()]
    told += [f"{name} is not of this snapshot" for name in there.keys() - expected - {manifest.SIGNATURE_NAME}]
    told += [
        f"{path} leads elsewhere"
        for path, entry in tree.entries.items()
        if path in there and not leads_right(repository, bucket, there[path], entry)
    ]
    linked = {entry.digest: entry.size for path, entry in tree.files if path in there and there[path].link is not None}
    contents = {manifest.content_name(digest): (digest, size) for digest, size in linked.items()}
    copies = {
        path: (entry.digest, entry.size) for path, entry in tree.files if path in there and there[path].link is None
    }
    told += await Stored(repository.bucket).complaints(contents)
    told += await Stored(bucket).complaints(copies)
    try:
        await read_manifest(bucket, identity, expected=tree.digest)
    except ManifestError as error:
        told.append(error.message)
    return sorted(told)


def target_of(repository: Repository, bucket: Bucket, entry: Entry) -> Link | None:
    """What the object of an entry links to in a bucket of links; None for an empty directory."""
    if entry.kind is Kind.FILE:
        return Link(repository.name, manifest.content_name(entry.digest))
    return Link(bucket.origin or bucket.name, entry.target) if entry.kind is Kind.LINK else None


def leads_right(repository: Repository, bucket: Bucket, info: ObjectInfo, entry: Entry) -> bool:
    """Whether an object of a snapshot is what the manifest has at its path, as far as its meta tells."""
    if info.link is None:
        return entry.kind is Kind.DIRECTORY or (entry.kind is Kind.FILE and info.digest == entry.digest)
    return info.link == target_of(repository, bucket, entry)
