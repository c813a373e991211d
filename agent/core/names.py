"""Names: which paths and object names are safe to use, which are reserved, and how conflict copies and links are named.

Everything in a bucket is untrusted (promise 8), so an object name becomes a path only when `problem_of` has nothing
against it. The same rules hold for local paths, so that whatever is found on one side can exist on the other:

    valid       "/"-separated components of 1 to 255 bytes of UTF-8, 2048 bytes in all; no "." or ".." component,
                no leading "/", no NUL, no backslash. A directory entry ends in one "/"
    reserved    `.jetsync/`, `lost+found/`, `.nfs*`, `.snapshot/` at any depth, silently outside every mapping;
                in a repository also the object names below `sha256/` and `channels/`
    copy        STEM.conflict-AGENT-YYYYMMDDTHHMMSSZ-DIGEST8.EXT (DESIGN section 4)

Names are compared as they are, byte for byte: no Unicode normalisation. Only `.jetsync` is reserved in every
spelling that a case-insensitive file system may take for it, because there they all are our own control directory.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from datetime import UTC, datetime, timedelta

from agent.core.entries import Entry, Obstacle, Reason

MAX_COMPONENT = 255
MAX_NAME = 2048

IGNORE_FILE = ".jetsyncignore"
CONTROL_DIRECTORY = ".jetsync"

_COPY = re.compile(
    r"(?s:(?P<stem>.+))\.conflict-[A-Za-z0-9-]{1,32}-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}(?P<suffix>\.[^./]+)?"
)
_LONGEST_MIDDLE = len(".conflict--YYYYMMDDTHHMMSSZ-DIGEST88") + 32  # with an agent of 32 characters
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
).match
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def problem_of(name: str, *, directory: bool = False) -> Obstacle | None:
    """Why `name` can't be a path (or an object name), or None when it can.

    directory: True for the entry of an empty directory, which must end in "/" where everything else must not.
    Reasons: INVALID_NAME, NAME_TOO_LONG, NOT_UTF8 (lone surrogates, which have no UTF-8). Never raises.
    """
    if directory:
        if not name.endswith("/"):
            return _invalid('the entry of a directory has to end in "/"')
        name = name[:-1]
    if name.isascii():
        length = len(name)
    else:
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            return Obstacle(Reason.NOT_UTF8, "the name isn't UTF-8; rename it")
    if not name:
        return _invalid("the name is empty")
    if "\0" in name:
        return _invalid("the name has a NUL in it")
    if "\\" in name:
        return _invalid("the name has a backslash in it")
    if name[0] == "/":
        return _invalid('the name begins with "/"')
    for component in name.split("/"):
        if component in ("", ".", ".."):
            what = f'the component "{component}"' if component else "an empty component"
            return _invalid(f"the name has {what}")
    if length > MAX_NAME:
        return Obstacle(Reason.NAME_TOO_LONG, f"the name has {length} bytes, {MAX_NAME} are allowed; shorten it")
    if length > MAX_COMPONENT:
        longest = max(len(component.encode()) for component in name.split("/"))
        if longest > MAX_COMPONENT:
            detail = f"a component of the name has {longest} bytes, {MAX_COMPONENT} are allowed; shorten it"
            return Obstacle(Reason.NAME_TOO_LONG, detail)
    return None


def _invalid(what: str) -> Obstacle:
    return Obstacle(Reason.INVALID_NAME, f"{what}; rename it")


def reserved(path: str, *, repository: bool = False) -> bool:
    """Whether `path` is silently outside every mapping (DESIGN sections 2 and 4).

    A path that ends in "/" is a directory, as is every component but the last; `lost+found` and `.snapshot` are
    reserved as directories only. repository: `path` is an object name in a repository, where `sha256/` and
    `channels/` hold the content of snapshots.
    """
    if repository and path.startswith(("sha256/", "channels/")):
        return True
    *parents, name = path.split("/")
    return (bool(name) and reserved_name(name, directory=False)) or any(
        reserved_name(parent, directory=True) for parent in parents
    )


def reserved_name(component: str, *, directory: bool) -> bool:
    """Whether one component is reserved, at any depth."""
    if component.startswith(".nfs"):
        return True
    if directory and component in ("lost+found", ".snapshot"):
        return True
    if component.isascii():
        return len(component) == len(CONTROL_DIRECTORY) and component.lower() == CONTROL_DIRECTORY
    return _as_compared(component) == CONTROL_DIRECTORY


def _as_compared(component: str) -> str:
    """How a case-insensitive file system compares names (ext4 and f2fs: case folded, without ignorable characters)."""
    text = unicodedata.normalize("NFD", component).casefold()
    return "".join(char for char in text if unicodedata.category(char) != "Cf" and not _IGNORABLE(char))


def fold(path: str) -> str:
    """Equal for names that a case-insensitive file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def parents_of(path: str) -> list[str]:
    """The directories above a path, outermost first, without trailing slashes: "a/b/c" and "a/b/c/" -> ["a", "a/b"]."""
    found = []
    at = path.find("/")
    end = len(path) - 1
    while 0 <= at < end:
        found.append(path[:at])
        at = path.find("/", at + 1)
    return found


# ---- conflict copies ----


def conflict_name(path: str, *, agent: str, mtime_ns: int | None, digest: bytes, prefix_bytes: int = 0) -> str | None:
    """The path of a conflict copy of `path`; deterministic: the same version gives the same name on every try.

    mtime_ns: of the local file (None counts as 1970). digest: of its content (`copy_digest`). prefix_bytes: length of
    the mapping's prefix, which has to fit in the object's name too. None when the directory's own name leaves no room.
    """
    directory, slash, name = path.rpartition("/")
    stem, suffix = _split_suffix(name)
    middle = f".conflict-{_agent_part(agent)}-{_time_part(mtime_ns)}-{digest.hex()[:8]}"
    room = min(MAX_COMPONENT, MAX_NAME - prefix_bytes - len((directory + slash).encode()))
    stem = _cut(stem, room - len(middle) - len(suffix.encode()))
    return f"{directory}{slash}{stem}{middle}{suffix}" if stem else None


def copy_digest(entry: Entry) -> bytes:
    """What DIGEST8 is made of: the digest of a file; for a link, the digest of its target."""
    return entry.digest or hashlib.sha256(entry.target.encode()).digest()


def is_conflict_copy(path: str) -> bool:
    """Whether `path` has the name of a conflict copy, made by any agent."""
    return ".conflict-" in path and _COPY.fullmatch(path.rpartition("/")[2]) is not None


def conflict_base(path: str) -> str:
    """The path a conflict copy was made of; `path` itself when it isn't one. The name may have been cut (`was_cut`)."""
    directory, slash, name = path.rpartition("/")
    match = _COPY.fullmatch(name) if ".conflict-" in name else None
    return f"{directory}{slash}{match['stem']}{match['suffix'] or ''}" if match else path


def is_copy_of(copy: str, path: str) -> bool:
    """Whether `copy` is a conflict copy of `path`; a copy whose STEM was cut counts for every name it may stand for."""
    directory, slash, name = copy.rpartition("/")
    match = _COPY.fullmatch(name) if ".conflict-" in name else None
    if not match:
        return False
    start, end = f"{directory}{slash}{match['stem']}", match["suffix"] or ""
    return path == start + end or (was_cut(copy) and path.startswith(start) and path.endswith(end))


def was_cut(copy: str) -> bool:
    """Whether STEM may have been cut: only then is the name so long that not one more character would have fitted."""
    return len(copy.rpartition("/")[2].encode()) > MAX_COMPONENT - 4 or len(copy.encode()) > MAX_NAME - 4


def copy_prefix(path: str) -> str:
    """What the path of every conflict copy of `path` begins with (for range queries; confirm with `is_copy_of`)."""
    directory, slash, name = path.rpartition("/")
    stem, suffix = _split_suffix(name)
    room = min(MAX_COMPONENT, MAX_NAME - len((directory + slash).encode())) - _LONGEST_MIDDLE - len(suffix.encode())
    cut = _cut(stem, room)
    return f"{directory}{slash}{cut}.conflict-" if cut == stem else f"{directory}{slash}{cut}"


def _split_suffix(name: str) -> tuple[str, str]:
    """STEM and ".EXT"; no EXT for a dotfile, for a name that ends in a dot, and where it alone would fill the name."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or not suffix or name.startswith(".") or len(suffix.encode()) >= MAX_COMPONENT - _LONGEST_MIDDLE - 1:
        return name, ""
    return stem, dot + suffix


def _agent_part(agent: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "", agent)[:32] or "agent"


def _time_part(mtime_ns: int | None) -> str:
    try:
        moment = _EPOCH + timedelta(seconds=(mtime_ns or 0) // 1_000_000_000)
    except OverflowError:  # a file system may hold years that no calendar has
        moment = _LAST if (mtime_ns or 0) > 0 else _EPOCH
    return f"{moment.year:04}{moment:%m%dT%H%M%SZ}"


def _cut(text: str, size: int) -> str:
    """The longest beginning of `text` of at most `size` bytes that ends at a character's border."""
    encoded = text.encode()
    return text if len(encoded) <= size else encoded[: max(size, 0)].decode(errors="ignore")


# ---- symbolic links ----


def target_from_link(path: str, text: str) -> str | None:
    """The target of the symlink at `path` with content `text`, as a path relative to the root.

    The target may dangle or be a directory. None when the link leads outside, to the root itself, or to what can't be
    an object's name.
    """
    target = normalised_target(path, text)
    return None if target is None or problem_of(target) or reserved(target + "/") else target


def normalised_target(path: str, text: str) -> str | None:
    """Where the symlink at `path` with content `text` leads, by its words alone; "" is the root. None when the link is
    absolute or leaves the root at any point."""
    if text.startswith("/"):
        return None
    components = path.split("/")[:-1]
    for component in text.split("/"):
        if component in ("", "."):
            continue
        if component != "..":
            components.append(component)
        elif components:
            components.pop()
        else:
            return None
    return "/".join(components)


def link_text(path: str, target: str) -> str:
    """The shortest relative text for a symlink at `path` to `target` (both relative to the root)."""
    base = path.split("/")[:-1]
    goal = target.split("/")
    common = 0
    while common < min(len(base), len(goal)) and base[common] == goal[common]:
        common += 1
    return "/".join([".."] * (len(base) - common) + goal[common:]) or "."
