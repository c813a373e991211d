"""Looking at local paths: what is there now, compared with what the rows know. Blocking; runs in worker threads.

`survey` takes the rows of some paths and gives back the new local sides of those that changed. An equal signature that
isn't racy means an equal file, and costs one lstat. Small files are hashed at once; large ones are named in `large`,
so that each can be hashed in a job of its own while others go on. A path that is a directory now is named in
`directories`: the caller scans below it. A path that isn't there, or isn't a directory any more, may have had paths
below it; `hollow` names those, and the caller looks at the rows below. A file with several names that was changed in
place has changed under all of them, while the kernel tells of the one that was used: `linked` has its inode, and
`other_names` finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.core.entries import Entry, Kind, Local, Obstacle, Reason, Row, Signature
from agent.directory import Contents, Directory
from agent.state import StateReader
from agent.state.rows import FILE

# Files up to this size are hashed within the survey of their lot.
LARGE = 8 << 20


@dataclass(slots=True)
class Survey:
    """changed: path -> its new local side (None = absent). refreshed: only the racy flag or the signature changed.
    linked: inode -> size and times of files with several names that were changed in place."""

    changed: dict[str, Local | None] = field(default_factory=dict)
    refreshed: dict[str, Local] = field(default_factory=dict)
    large: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    hollow: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    linked: dict[int, tuple[int, int, int]] = field(default_factory=dict)


def survey(
    directory: Directory,
    rows: Sequence[Row],
    *,
    large_too: bool,
    stop: Callable[[], bool],
    contents: Contents | None = None,
) -> Survey:
    """Look at the paths of `rows`. `large_too`: hash files of any size here. contents: gets those of small new files.

    :raises RootError: the mapping's directory is gone or was replaced; nothing of what was seen may be believed
    """
    result = Survey()
    for row in rows:
        if stop():
            break
        _look(directory, row, result, large_too=large_too, contents=contents)
        result.looked.append(row.path)
    directory.check_root()
    return result


def differing(directory: Directory, placed: Mapping[str, Signature]) -> list[str]:
    """Those of the files that we have put in place ourselves that aren't as we have left them.

    :raises RootError: as `survey`
    """
    found = directory.signatures(placed)
    directory.check_root()
    return [path for path, signature in placed.items() if found[path] != signature]


def _look(directory: Directory, row: Row, result: Survey, *, large_too: bool, contents: Contents | None) -> None:
    path = row.path
    look = directory.look(path)
    if look.kind == "absent" or (look.kind == "directory" and look.local is None):
        (result.hollow if look.kind == "absent" else result.directories).append(path)
        if row.local is not None:
            result.changed[path] = None
        return
    known = row.local
    if look.local is not None:
        if known is None or known.side != look.local.side:
            result.hollow.append(path)
        _note(row, look.local, result)
        return
    assert look.signature is not None
    if known and known.signature == look.signature and not known.racy and _is_known(known.side):
        return
    result.hollow.append(path)
    if look.signature.size > LARGE and not large_too:
        result.large.append(path)
        return
    local = directory.read(path, contents if row.remote_side is None else None)
    if local is not None:
        _note(row, local, result)
        if look.links > 1 and path in result.changed:
            _note_linked(known, local, result)
    elif row.local is not None:
        result.changed[path] = None


def _note_linked(known: Local | None, local: Local, result: Survey) -> None:
    before, now = known.signature if known else None, local.signature
    if before is not None and now is not None and before.inode == now.inode:
        result.linked[now.inode] = (now.size, now.mtime_ns, now.ctime_ns)


def other_names(rows: StateReader, linked: Mapping[int, tuple[int, int, int]]) -> list[str]:
    """The paths that were files of these inodes when they were last looked at, and had another size or other times."""
    return [
        path
        for path, kind, size, mtime_ns, ctime_ns, inode, _, _ in rows.local_signatures()
        if kind == FILE and inode in linked and linked[inode] != (size, mtime_ns, ctime_ns)
    ]


def _is_known(side: Entry | Obstacle) -> bool:
    """Whether an unchanged stat says enough. A file that was found damaged stays so: its digest is known, and wrong."""
    if isinstance(side, Entry):
        return side.kind is Kind.FILE  # a link that became a file may have its inode, and so on
    return side.reason is Reason.BAD_DIGEST


def _note(row: Row, local: Local, result: Survey) -> None:
    """Sort a new local side: a change to plan for, a fresher signature of the same thing, or nothing."""
    known = row.local
    if known is not None and known.side == local.side:
        if known != local:
            result.refreshed[row.path] = local
        return
    result.changed[row.path] = local
