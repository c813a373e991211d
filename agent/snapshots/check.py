"""Reading a snapshot whole: every byte of every file, against its manifest. Changes nothing.

It tells what a subscriber would meet, and more: that the bucket is sealed, who signed it, that every link leads where
the manifest says, that each content is there with its size and digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core import manifest
from agent.core.entries import Entry, Kind
from agent.errors import (
    BadMetaError,
    ChunksError,
    DigestError,
    LinkError,
    ManifestError,
    ObjectNotFoundError,
)
from agent.objectstore import Bucket, ObjectInfo
from agent.snapshots.complete import leads_right
from agent.snapshots.many import each
from agent.snapshots.repository import Repository, read_manifest

# Contents that are read at a time.
_AT_ONCE = 8


@dataclass(slots=True)
class Checked:
    """problems: what is wrong, as (path, words); path "" for the snapshot as a whole. bytes: that were read."""

    id: str
    sealed: bool = False
    signer: str = ""
    files: int = 0
    bytes: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


async def check(
    repository: Repository, identity: str, *, on_progress: Callable[[int, int], None] | None = None
) -> Checked:
    """Read the snapshot. on_progress: called with the bytes read so far, and all.

    :raises SnapshotError: there is no such snapshot
    """
    result = Checked(identity)
    bucket = await repository.snapshot_bucket(identity)
    result.sealed = bucket.sealed
    if not bucket.sealed and bucket.origin is None:
        result.problems.append(("", "it isn't sealed: it was never completed, or is being published"))
    try:
        stated = await read_manifest(bucket, identity)
    except (ManifestError, ChunksError, DigestError) as error:
        result.problems.append(("", error.message))
        return result
    tree, result.signer = stated.manifest, stated.signer
    there: dict[str, ObjectInfo] = {info.name: info for info in await bucket.list(on_bad=lambda _: None)}
    for name in there.keys() - tree.entries.keys() - {manifest.MANIFEST_NAME, manifest.SIGNATURE_NAME}:
        result.problems.append((name, "is in the bucket, and not in the manifest"))
    total = sum(tree.contents.values())
    paths: dict[tuple[bytes, bool], list[str]] = {}
    for path, entry in tree.files:
        result.files += 1
        linked = path in there and there[path].link is not None
        paths.setdefault((entry.digest, linked), []).append(path)

    async def read(group: list[str]) -> None:
        first, entry = group[0], tree.entries[group[0]]
        why = await _read(bucket, there.get(first), entry)
        result.bytes += entry.size
        result.problems.extend((path, why) for path in group if why)
        if on_progress is not None:
            on_progress(min(result.bytes, total), total)

    for path, entry in tree.entries.items():
        info = there.get(path)
        if info is not None and info.link is not None and not leads_right(repository, bucket, info, entry):
            result.problems.append((path, "leads elsewhere than the manifest says"))
        elif info is None and entry.kind is not Kind.FILE:
            result.problems.append((path, "is missing in the bucket"))
    await each(paths.values(), read, at_once=_AT_ONCE)
    result.problems.sort()
    return result


async def _read(bucket: Bucket, info: ObjectInfo | None, entry: Entry) -> str:
    """Read one content; what is wrong with it, "" for nothing."""
    if info is None:
        return "is missing in the bucket"
    digest = hashlib.sha256()
    size = 0
    try:
        async with bucket.get(info, verify=False) as reader:
            async for block in reader:
                digest.update(block)
                size += len(block)
    except (ObjectNotFoundError, LinkError, ChunksError, DigestError, BadMetaError) as error:
        return error.message
    if size != entry.size or digest.digest() != entry.digest:
        return "its bytes aren't those that the manifest promises: somebody has damaged or replaced them"
    return ""
