"""Manifests: what a snapshot holds, as canonical JSON (DESIGN section 7).

A manifest is a tree as a value: each path with its entry. Its text is canonical, so that equal trees have equal bytes
and the digest of the bytes identifies the tree:

    {"entries":[{"digest":"<64 hex digits>","mode":"644","path":"a/b","size":5},     a file; mode 644 or 755
                {"path":"a/c","target":"a/b"},                                       a symlink, target from the root
                {"path":"d/"}],"version":1}                                          an empty directory

Keys are sorted, there is no white space, entries are sorted by the bytes of their paths, text is UTF-8 and not escaped.
Times, owners and the publisher are not part of it: they don't make another tree.

A manifest that comes from a bucket is hostile until `parse` has passed it. What it has passed can be made as a
directory tree: every path is valid and not reserved, none comes twice, and none stands below a file or a symlink.
Whether the bytes behind a digest are what it says is for whoever fetches them.

The id of a snapshot is the time of publishing and the first 12 hex digits of the manifest's digest; its bucket is named
`<repository>_<id>`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from agent.core import names
from agent.core.entries import Entry, Kind
from agent.errors import ManifestError

VERSION = 1
MANIFEST_NAME = ".jetsync/manifest.json"
SIGNATURE_NAME = ".jetsync/manifest.sig"
CONTENT_PREFIX = "sha256/"
CHANNEL_PREFIX = "channels/"

_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_EMPTY = hashlib.sha256(b"").digest()
_MAX_SIZE = (1 << 63) - 1
_TOLD = 20  # mistakes of a manifest that are told


@dataclass(frozen=True)
class Manifest:
    """A tree. entries: path -> entry, in the order of the paths' bytes; times are None, executable bits are known."""

    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, entries: Iterable[tuple[str, Entry]]) -> Manifest:
        """From entries in any order. What a snapshot doesn't hold (times) is left out.

        :raises ManifestError: they can't stand in one tree
        """
        made = cls(_in_order((path, _plain(entry)) for path, entry in entries))
        mistakes = list(_clashes(made.entries))
        if mistakes:
            raise ManifestError(f"the tree can't be published: {_listed(mistakes)}", remedy="rename one of them")
        return made

    @cached_property
    def encoded(self) -> bytes:
        """The canonical text."""
        value = {"entries": [_value(path, entry) for path, entry in self.entries.items()], "version": VERSION}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()

    @cached_property
    def digest(self) -> str:
        """Of the canonical text: SHA-256, 64 hex digits."""
        return hashlib.sha256(self.encoded).hexdigest()

    @property
    def files(self) -> Iterator[tuple[str, Entry]]:
        return ((path, entry) for path, entry in self.entries.items() if entry.kind is Kind.FILE)

    @cached_property
    def contents(self) -> dict[bytes, int]:
        """The digests of all files (32 raw bytes) with their sizes, each once."""
        return {entry.digest: entry.size for _, entry in self.files}

    @property
    def size(self) -> int:
        """Bytes of all files, as they stand in the tree."""
        return sum(entry.size for _, entry in self.files)


def parse(text: bytes) -> Manifest:
    """A manifest from its text, as it came from somewhere.

    :raises ManifestError: it isn't canonical, or no tree can be as it says; names the first mistakes
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError("the manifest isn't JSON") from error
    if not isinstance(value, dict) or value.keys() != {"entries", "version"} or not isinstance(value["entries"], list):
        raise ManifestError("the manifest isn't one: it must have version and entries")
    if value["version"] != VERSION or isinstance(value["version"], bool):
        raise ManifestError(
            f"the manifest has version {value['version']!r}; this program reads {VERSION}",
            remedy="use a newer jetsync",
        )
    entries: dict[str, Entry] = {}
    mistakes: list[str] = []
    for item in value["entries"]:
        read = _read(item)
        if isinstance(read, str):
            mistakes.append(read)
        elif read[0] in entries:
            mistakes.append(f"{read[0]!r} comes twice")
        else:
            entries[read[0]] = read[1]
    mistakes += _clashes(entries)
    if mistakes:
        raise ManifestError(f"the manifest lies: {_listed(mistakes)}")
    made = Manifest(_in_order(entries.items()))
    if made.encoded != text:
        raise ManifestError("the manifest isn't canonical: order, white space or escapes aren't as they must be")
    return made


def case_clashes(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names, directories included, that a case-insensitive file system takes for one."""
    seen: dict[str, str] = {}
    found = []
    for path in paths:
        for name in (*names.parents_of(path), path.rstrip("/")):
            other = seen.setdefault(names.fold(name), name)
            if other != name:
                found.append((other, name))
    return found


# -- one entry ---------------------------------------------------------------------------------------------------------


def _in_order(entries: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    return dict(sorted(entries, key=lambda item: item[0].encode()))


def _plain(entry: Entry) -> Entry:
    if entry.kind is Kind.FILE:
        return Entry(Kind.FILE, entry.digest, entry.size, executable=bool(entry.executable))
    return Entry(entry.kind, target=entry.target)


def _value(path: str, entry: Entry) -> dict[str, Any]:
    if entry.kind is Kind.LINK:
        return {"path": path, "target": entry.target}
    if entry.kind is Kind.DIRECTORY:
        return {"path": path}
    return {
        "digest": entry.digest.hex(),
        "mode": "755" if entry.executable else "644",
        "path": path,
        "size": entry.size,
    }


def _read(item: Any) -> tuple[str, Entry] | str:
    """An entry and its path, or what is wrong with it."""
    if not isinstance(item, dict) or not isinstance(item.get("path"), str):
        return "an entry without a path"
    path: str = item["path"]
    directory = path.endswith("/")
    obstacle = names.problem_of(path, directory=directory)
    if obstacle is not None:
        return f"{path!r}: {obstacle.detail}"
    if names.reserved(path):
        return f"{path!r} is reserved"
    if directory:
        return (path, Entry(Kind.DIRECTORY)) if item.keys() == {"path"} else f"{path!r}: a directory has a path only"
    if item.keys() == {"path", "target"}:
        return _read_link(path, item["target"])
    return _read_file(path, item)


def _read_link(path: str, target: Any) -> tuple[str, Entry] | str:
    if not isinstance(target, str) or names.problem_of(target) is not None or names.reserved(target + "/"):
        return f"{path!r} leads out of the tree"
    return (path, Entry(Kind.LINK, target=target)) if target != path else f"{path!r} leads to itself"


def _read_file(path: str, item: dict[str, Any]) -> tuple[str, Entry] | str:
    if item.keys() != {"digest", "mode", "path", "size"}:
        return f"{path!r}: a file has digest, mode, path and size"
    digest, mode, size = item["digest"], item["mode"], item["size"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return f"{path!r}: the digest isn't 64 hex digits"
    if mode not in ("644", "755"):
        return f"{path!r}: the mode is neither 644 nor 755"
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        return f"{path!r}: the size isn't a number of bytes"
    raw = bytes.fromhex(digest)
    if (size == 0) != (raw == _EMPTY):
        return f"{path!r}: size and digest contradict each other"
    return path, Entry(Kind.FILE, raw, size, executable=mode == "755")


def _clashes(entries: Mapping[str, Entry]) -> Iterator[str]:
    """What stands below something that has nothing below it."""
    for path in entries:
        for parent in names.parents_of(path):
            if parent in entries:
                yield f"{path!r} stands below {parent!r}, which is no directory"
            if parent + "/" in entries:
                yield f"{path!r} stands below {parent + '/'!r}, which is an empty directory"
        if path.endswith("/") and path[:-1] in entries:
            yield f"{path!r} and {path[:-1]!r} are one name"


def _listed(mistakes: list[str]) -> str:
    more = f"; and {len(mistakes) - _TOLD} more" if len(mistakes) > _TOLD else ""
    return "; ".join(mistakes[:_TOLD]) + more


# -- names of snapshots ------------------------------------------------------------------------------------------------


def snapshot_id(published: datetime, digest: str) -> str:
    """The id of a snapshot. digest: of its manifest, 64 hex digits."""
    return f"{published.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:12]}"


def is_snapshot_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def belongs(identity: str, digest: str) -> bool:
    """Whether a snapshot of this id can have the manifest with this digest."""
    return identity.rpartition("-")[2] == digest[:12]


def bucket_of(repository: str, identity: str) -> str:
    return f"{repository}_{identity}"


def repository_of(bucket: str, identity: str) -> str:
    """The other way: the repository of the snapshot whose bucket has this name."""
    return bucket.removesuffix(f"_{identity}")


def identity_in(bucket: str, *, repository: str) -> str | None:
    """The id of the snapshot that a bucket of this name holds, if it is one of the repository."""
    start, _, identity = bucket.rpartition("_")
    return identity if start == repository and is_snapshot_id(identity) else None


def content_name(digest: bytes) -> str:
    """The object in the repository that holds the content with this digest (32 raw bytes)."""
    return CONTENT_PREFIX + digest.hex()


def content_digest(name: str) -> bytes | None:
    """The digest that the object of this name promises; None for the name of anything else."""
    text = name.removeprefix(CONTENT_PREFIX)
    return bytes.fromhex(text) if text != name and _DIGEST.fullmatch(text) else None


def channel_name(channel: str) -> str:
    """The object in the repository that is the channel."""
    return CHANNEL_PREFIX + channel


# -- differences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that two manifests don't share. before, after: None = not there."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def change(self) -> str:
        """added, removed, changed, or mode: only the executable bit."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        return "mode" if self.before.same_content(self.after) else "changed"


def differences(before: Manifest, after: Manifest) -> list[Difference]:
    """All paths in which two snapshots differ, in the order of the paths' bytes."""
    paths = sorted(before.entries.keys() | after.entries.keys(), key=str.encode)
    pairs = ((path, before.entries.get(path), after.entries.get(path)) for path in paths)
    return [Difference(path, old, new) for path, old, new in pairs if old != new]
