"""From metas to rows: what an object is, as the remote side of a path, and back: what a path is, as an object.

A name belongs to the mapping when it starts with the prefix; the rest is the path. Everything in a bucket is
untrusted: a name that can't be a path, or a meta that can't be read, becomes an `Outsider` with its reason. Outsiders
have no row (nothing is ever done to them), but they count as known names, and their nuid is never purged.

On the wire (DESIGN section 4): `jetsync.mode` 755 or 644, `jetsync.mtime` RFC 3339 UTC with nanoseconds, an empty
directory is `path/` of size 0 with `jetsync.kind: directory`, a symlink is an ADR-20 object link to prefix + target.
An object link that leads out of the mapping is, on pull modes, a file with the digest of `jetsync.digest`, or of the
object that it resolves to (`needs_resolving`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from datetime import UTC, datetime
from time import gmtime

from agent.core import names
from agent.core.entries import Entry, Gone, Kind, Obstacle, Reason, Remote
from agent.core.filters import Filters
from agent.objectstore import Link, MetaMessage, ObjectInfo

MODE = "jetsync.mode"
MTIME = "jetsync.mtime"
KIND = "jetsync.kind"
DIGEST = "jetsync.digest"

_MTIME = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z$")
_DIGEST_BYTES = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Outsider:
    """A name that is no path of this mapping. `reason` is None when that is nothing to tell anybody."""

    name: str
    revision: int
    nuid: str
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """What decides whether and how a name is a path of this mapping."""

    bucket: str
    prefix: str
    pulls_only: bool
    symlinks: str
    max_size: int | None
    empty_directories: bool
    repository: bool
    filters: Filters

    def name_of(self, path: str) -> str:
        return self.prefix + path


def place(message: MetaMessage, scope: Scope) -> tuple[str, Remote] | Outsider:
    """Where a meta belongs: a path with its remote side, or outside.

    A link that leads out of the mapping on a pull mode comes back as BROKEN_LINK with `via_link` set: the caller
    resolves it (`resolved`), which needs the network.
    """
    name, info = message.name, message.info
    if info is None:
        return _unreadable(message, scope)
    nuid = "" if info.deleted else info.nuid
    if not name.startswith(scope.prefix):
        return Outsider(name, message.revision, nuid)
    path = name[len(scope.prefix) :]
    is_directory = info.metadata.get(KIND) == Kind.DIRECTORY.value
    # A marker has lost its metadata: "d/" was an empty directory when we can have known it as one.
    directory_name = path.endswith("/") and (is_directory or info.deleted)
    if not path or names.reserved(path, repository=scope.repository):
        return Outsider(name, message.revision, nuid)
    problem = names.problem_of(path, directory=directory_name)
    if problem is not None:
        if info.deleted:
            return Outsider(name, message.revision, nuid)
        return Outsider(name, message.revision, nuid, problem.reason, problem.detail)
    if not scope.filters.allows(path) or (directory_name and not scope.empty_directories):
        return Outsider(name, message.revision, nuid)
    return path, remote_of(info, path, scope)


def remote_of(info: ObjectInfo, path: str, scope: Scope) -> Remote:
    """The remote side that a readable meta describes."""
    if info.deleted:
        return Remote(None, info.revision, gone=Gone.DELETED)
    via_link = False
    side: Entry | Obstacle
    if info.link is not None:
        side, via_link = _link_side(info, path, scope)
    elif path.endswith("/"):
        side = _directory_side(info)
    else:
        side = _file_side(info, info.digest, info.size, scope)
    return Remote(side, info.revision, nuid=info.nuid, chunks=info.chunks, via_link=via_link)


def resolved(remote: Remote, link: ObjectInfo, target: ObjectInfo, scope: Scope) -> Remote:
    """A link that leads out of the mapping, as the file that it stands for."""
    side = _file_side(link, target.digest, target.size, scope)
    return Remote(side, remote.revision, nuid=remote.nuid, chunks=0, via_link=True)


def metadata_of(entry: Entry) -> dict[str, str]:
    """The metadata keys that jetsync writes for an entry; what is unknown isn't written."""
    if entry.kind is Kind.DIRECTORY:
        return {KIND: Kind.DIRECTORY.value}
    metadata: dict[str, str] = {}
    if entry.executable is not None and entry.kind is Kind.FILE:
        metadata[MODE] = "755" if entry.executable else "644"
    if entry.mtime_ns is not None:
        metadata[MTIME] = format_mtime(entry.mtime_ns)
    return metadata


def format_mtime(mtime_ns: int) -> str:
    """RFC 3339 UTC with nanoseconds; years outside 1-9999 are clamped."""
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    seconds = min(max(seconds, -62_135_596_800), 253_402_300_799)
    year, month, day, hour, minute, second, *_ = gmtime(seconds)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z"


def parse_mtime(text: str | None) -> int | None:
    """Nanoseconds since the epoch, or None for what isn't RFC 3339 UTC (others may write anything)."""
    found = _MTIME.match(text) if text else None
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    seconds = int((moment - _EPOCH).total_seconds())
    return seconds * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))


def executable_of(metadata: MappingOf[str, str]) -> bool | None:
    """The executable bit that the metadata tells; None when it doesn't."""
    match metadata.get(MODE):
        case "755":
            return True
        case "644":
            return False
        case _:
            return None


def _unreadable(message: MetaMessage, scope: Scope) -> tuple[str, Remote] | Outsider:
    """A meta that isn't one. When its name is a path of ours the path is an obstacle, so that nothing is done to it."""
    detail = str(message.error or "the meta message can't be read")
    name, nuid = message.name, message.nuid
    path = name[len(scope.prefix) :] if name.startswith(scope.prefix) else ""
    if not name.startswith(scope.prefix):
        return Outsider(message.key, message.revision, nuid)
    if not path or names.problem_of(path) is not None or names.reserved(path, repository=scope.repository):
        return Outsider(message.key, message.revision, nuid, Reason.BAD_META, detail)
    if not scope.filters.allows(path):
        return Outsider(name, message.revision, nuid)
    return path, Remote(Obstacle(Reason.BAD_META, detail), message.revision, nuid=nuid)


def _directory_side(info: ObjectInfo) -> Entry | Obstacle:
    """An object whose name ends in "/" is an empty directory only if it says so: another client's has content."""
    if info.metadata.get(KIND) == Kind.DIRECTORY.value:
        return Entry(Kind.DIRECTORY)
    return Obstacle(Reason.INVALID_NAME, "the name ends in a slash, and the object is no directory; rename it")


def _file_side(info: ObjectInfo, digest: bytes, size: int, scope: Scope) -> Entry | Obstacle:
    if len(digest) != _DIGEST_BYTES:
        return Obstacle(Reason.BAD_META, "the meta has no SHA-256 digest; put the object again")
    if scope.max_size is not None and size > scope.max_size:
        return Obstacle(Reason.MAX_SIZE, f"{size} bytes is over max_size ({scope.max_size})")
    return Entry(
        Kind.FILE,
        digest=digest,
        size=size,
        executable=executable_of(info.metadata),
        mtime_ns=parse_mtime(info.metadata.get(MTIME)),
    )


def _link_side(info: ObjectInfo, path: str, scope: Scope) -> tuple[Entry | Obstacle, bool]:
    link = info.link
    assert link is not None
    if link.name is None:
        return Obstacle(
            Reason.BROKEN_LINK, f"a link to the bucket {link.bucket}, which is no file; delete it, or exclude it"
        ), False
    inside = _target_inside(link, scope)
    if inside is not None:
        if scope.symlinks == "skip":
            return Obstacle(Reason.SYMLINK), False
        if inside == path:
            return Obstacle(Reason.BROKEN_LINK, "a link to itself; delete it, or let it lead to another object"), False
        return Entry(Kind.LINK, target=inside, mtime_ns=parse_mtime(info.metadata.get(MTIME))), False
    if not scope.pulls_only:
        return Obstacle(
            Reason.LINK_OUTSIDE,
            f"an object link to {link.bucket}/{link.name}, outside this mapping; delete it, or exclude it "
            "(mappings that only pull fetch its target)",
        ), False
    digest = _hex_or_text_digest(info.metadata.get(DIGEST, ""))
    size = info.metadata.get("jetsync.size", "")
    if digest and size.isascii() and size.isdigit() and len(size) < 19:
        return _file_side(info, digest, int(size), scope), True
    return Obstacle(Reason.BROKEN_LINK, f"the link to {link.bucket}/{link.name} is not resolved yet"), True


def _target_inside(link: Link, scope: Scope) -> str | None:
    """The target's path when it is one of this mapping, else None."""
    if link.bucket != scope.bucket or link.name is None or not link.name.startswith(scope.prefix):
        return None
    target = link.name[len(scope.prefix) :]
    if not target or names.problem_of(target) is not None or names.reserved(target, repository=scope.repository):
        return None
    return target


def _hex_or_text_digest(text: str) -> bytes:
    """32 bytes from "SHA-256=<base64url>" (ADR-20) or 64 hex digits; b"" from anything else."""
    try:
        digest = base64.urlsafe_b64decode(text[8:]) if text.startswith("SHA-256=") else bytes.fromhex(text)
    except (ValueError, binascii.Error):
        return b""
    return digest if len(digest) == _DIGEST_BYTES else b""
