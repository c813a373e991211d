"""The codec between a `Row` and the columns of table `paths`.

A path that both sides agree on is the common case by far, so it is the one that is made small and fast: the digest is
stored once (flags say that the ancestor and the remote side have the local side's), the size and mtime of a local file
are those of its signature, and all that few rows have (link targets, an obstacle's words, numbers beyond 64 bits such
as the mtime of a file from the year 9999) is in the JSON column `more`, which is '' otherwise.

Absent values are 0 and '' rather than NULL, and digests are bound as bytearray: `sqlite3` binds exactly int, float, str
and bytearray directly, and looks for an adapter for everything else, None and bytes included, which costs ten times as
much (measured: 61,000 rows/s with NULLs, 156,000 without).
"""

# ruff: noqa: S608 - the texts of statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agent.core.entries import Ancestor, Entry, Gone, Kind, Local, Obstacle, Reason, Remote, Row, Signature, Verdict

ABSENT, FILE, LINK, DIRECTORY, OBSTACLE = range(5)  # the kinds, as stored; FILE is entries.SIGHTED_FILE

# Bits of `flags`. Executable is 2 bits: 0 unknown, 1 no, 2 yes.
RACY = 1
_SIGNATURE = 1 << 1  # the local side has a signature
_L_OWN = 1 << 2  # the local entry's size or mtime aren't the signature's: they are in `more`
A_SAME = 1 << 3  # the ancestor's digest is the local side's
R_SAME = 1 << 4  # so is the remote side's
_VIA_LINK = 1 << 5
_GONE_SHIFT, _L_SHIFT, _A_SHIFT, _R_SHIFT = 6, 8, 10, 12

COLUMNS = tuple(
    "path l_kind s_size s_mtime s_ctime s_inode s_mode flags dirty verdict reason l_digest"  # noqa: SIM905
    " a_kind a_digest a_size a_mtime a_local_mtime a_remote_mtime"
    " r_kind r_digest r_size r_mtime r_revision r_nuid r_chunks more".split()
)
SELECT = f"SELECT {', '.join(COLUMNS)} FROM paths"
_MARKS = ", ".join("?" * len(COLUMNS))
REPLACE = f"INSERT OR REPLACE INTO paths VALUES ({_MARKS})"
# What a row is without its ancestor, and without everything but its local side, in SQL.
_NO_ANCESTOR = "a_kind = 0, a_digest = x'', a_size = 0, a_mtime = 0, a_local_mtime = 0, a_remote_mtime = 0"
_A_FLAGS = A_SAME | 3 << _A_SHIFT
_R_FLAGS = R_SAME | _VIA_LINK | 3 << _GONE_SHIFT | 3 << _R_SHIFT
NO_ANCESTOR = f"{_NO_ANCESTOR}, flags = flags & ~{_A_FLAGS}"
NO_SIDES_BUT_LOCAL = (
    f"{_NO_ANCESTOR}, flags = flags & ~{_A_FLAGS | _R_FLAGS},"
    " r_kind = 0, r_digest = x'', r_size = 0, r_mtime = 0, r_revision = -1, r_nuid = '', r_chunks = 0,"
    " reason = CASE more WHEN '' THEN '' ELSE coalesce(json_extract(more, '$.lo[0]'), '') END,"
    " more = CASE more WHEN '' THEN '' ELSE json_remove(more, '$.at', '$.ro', '$.rt') END"
)


_KINDS = (Kind.FILE, Kind.FILE, Kind.LINK, Kind.DIRECTORY)  # by code; 0 isn't asked for
_CODES = {Kind.FILE: FILE, Kind.LINK: LINK, Kind.DIRECTORY: DIRECTORY}
_EXECUTABLE = (None, False, True)
_EXECUTABLE_CODES = {None: 0, False: 1, True: 2}
_GONE = (None, Gone.DELETED, Gone.VANISHED, Gone.EXPIRED)
IS_VANISHED = f"(flags >> {_GONE_SHIFT}) & 3 = {_GONE.index(Gone.VANISHED)}"  # in SQL
_VERDICTS = (Verdict.NONE, Verdict.CONFLICT, Verdict.DIVERGED)
REASONS = {reason.value: reason for reason in Reason}
_NONE = Verdict.NONE
_NOTHING = Entry(Kind.FILE)
_TOP = 1 << 63
_WRAP = 1 << 64
_NO_DIGEST = bytearray()

Columns = tuple[Any, ...]


def encode(row: Row, dirty: bool) -> Columns:
    """The columns of a row, in the order of COLUMNS. Integers may be beyond 64 bits: see `narrow`."""
    more: dict[str, Any] | None = None
    flags = 0

    l_kind = s_size = s_mtime = s_ctime = s_inode = s_mode = 0
    digest = b""
    local = row.local
    if local is not None:
        side, signature = local.side, local.signature
        if local.racy:
            flags = RACY
        if signature is not None:
            flags |= _SIGNATURE
            s_size, s_mtime, s_ctime = signature.size, signature.mtime_ns, signature.ctime_ns
            s_inode, s_mode = signature.inode, signature.mode
            if s_inode >= _TOP:
                s_inode -= _WRAP  # inode numbers are unsigned; some file systems use the top bit
        elif isinstance(side, Entry):
            s_size = side.size  # for the counts
        if isinstance(side, Entry):
            l_kind = _CODES[side.kind]
            digest = side.digest
            flags |= _EXECUTABLE_CODES[side.executable] << _L_SHIFT
            if signature is None or side.size != s_size or side.mtime_ns != s_mtime:
                flags |= _L_OWN
                more = {"own": [side.size, side.mtime_ns]}
            if side.target:
                more = {**(more or {}), "lt": side.target}
        else:
            l_kind = OBSTACLE
            more = {"lo": [side.reason.value, side.detail]}

    a_kind = a_size = 0
    a_mtime: int | None = 0
    a_local_mtime: int | None = 0
    a_remote_mtime: int | None = 0
    a_digest = _NO_DIGEST
    ancestor = row.ancestor
    if ancestor is not None:
        entry = ancestor.entry
        a_kind = _CODES[entry.kind]
        a_size, a_mtime = entry.size, entry.mtime_ns
        a_local_mtime, a_remote_mtime = ancestor.local_mtime_ns, ancestor.remote_mtime_ns
        flags |= _EXECUTABLE_CODES[entry.executable] << _A_SHIFT
        if entry.digest == digest:
            flags |= A_SAME
        else:
            a_digest = bytearray(entry.digest)
        if entry.target:
            more = {**(more or {}), "at": entry.target}

    r_kind = r_size = r_chunks = 0
    r_mtime: int | None = 0
    r_revision, r_nuid = -1, ""
    r_digest = _NO_DIGEST
    remote = row.remote
    if remote is not None:
        r_revision, r_nuid, r_chunks = remote.revision, remote.nuid, remote.chunks
        if remote.via_link:
            flags |= _VIA_LINK
        there = remote.side
        if there is None:
            flags |= _GONE.index(remote.gone) << _GONE_SHIFT
        elif isinstance(there, Entry):
            r_kind = _CODES[there.kind]
            r_size, r_mtime = there.size, there.mtime_ns
            flags |= _EXECUTABLE_CODES[there.executable] << _R_SHIFT
            if there.digest == digest:
                flags |= R_SAME
            else:
                r_digest = bytearray(there.digest)
            if there.target:
                more = {**(more or {}), "rt": there.target}
        else:
            r_kind = OBSTACLE
            more = {**(more or {}), "ro": [there.reason.value, there.detail]}

    verdict = row.verdict
    return (
        row.path,
        l_kind,
        s_size,
        s_mtime,
        s_ctime,
        s_inode,
        s_mode,
        flags,
        1 if dirty else 0,
        0 if verdict is _NONE else _VERDICTS.index(verdict),
        "" if more is None else _reason(more),
        bytearray(digest),
        a_kind,
        a_digest,
        a_size,
        a_mtime,
        a_local_mtime,
        a_remote_mtime,
        r_kind,
        r_digest,
        r_size,
        r_mtime,
        r_revision,
        r_nuid,
        r_chunks,
        "" if more is None else json.dumps(more),
    )


def narrow(columns: Columns) -> Columns:
    """The same with integers beyond 64 bits moved into `more`: for the few rows where binding says OverflowError.

    They come from other people's clocks and metas; in its column such a number stands as the nearest that fits, which
    compares unequal to the true one, so the path is looked at again rather than trusted.
    """
    big = {COLUMNS[i]: v for i, v in enumerate(columns) if type(v) is int and not -_TOP <= v < _TOP}
    if not big:
        return columns
    more = json.loads(columns[-1]) if columns[-1] else {}
    clamped = tuple(max(-_TOP, min(v, _TOP - 1)) if type(v) is int else v for v in columns[:-1])
    return (*clamped, json.dumps({**more, "big": big}))


def decode(columns: Columns) -> Row:
    """The row of a result of SELECT."""
    more: dict[str, Any] = {}
    if columns[-1]:
        more = json.loads(columns[-1])
        if "big" in more:
            columns = tuple(more["big"].get(name, value) for name, value in zip(COLUMNS, columns, strict=True))
    (
        path, l_kind, s_size, s_mtime, s_ctime, s_inode, s_mode, flags, _dirty, verdict, _word, l_digest,
        a_kind, a_digest, a_size, a_mtime, a_local_mtime, a_remote_mtime,
        r_kind, r_digest, r_size, r_mtime, r_revision, r_nuid, r_chunks, _text,
    ) = columns  # fmt: skip

    local = None
    if l_kind:
        signature = None
        if flags & _SIGNATURE:
            signature = Signature(s_size, s_mtime, s_ctime, s_inode if s_inode >= 0 else s_inode + _WRAP, s_mode)
        local = _local(l_kind, signature, flags, l_digest, more)
    # Entries are values: equal ones may be one object, and making one costs more than comparing.
    at_hand = local.side if local is not None and isinstance(local.side, Entry) else _NOTHING
    like = (at_hand.kind, at_hand.digest, at_hand.size, at_hand.executable, at_hand.mtime_ns, at_hand.target)
    ancestor = None
    if a_kind:
        digest = l_digest if flags & A_SAME else a_digest
        parts = (_KINDS[a_kind], digest, a_size, _EXECUTABLE[flags >> _A_SHIFT & 3], a_mtime, more.get("at", ""))
        ancestor = Ancestor(at_hand if parts == like else Entry(*parts), a_local_mtime, a_remote_mtime)
    remote = None
    if r_revision >= 0:
        side: Entry | Obstacle | None = None
        if r_kind == OBSTACLE:
            side = _obstacle(more["ro"])
        elif r_kind:
            digest = l_digest if flags & R_SAME else r_digest
            parts = (_KINDS[r_kind], digest, r_size, _EXECUTABLE[flags >> _R_SHIFT & 3], r_mtime, more.get("rt", ""))
            side = at_hand if parts == like else Entry(*parts)
        remote = Remote(side, r_revision, r_nuid, r_chunks, _GONE[flags >> _GONE_SHIFT & 3], flags & _VIA_LINK != 0)
    return Row(path, ancestor, local, remote, _VERDICTS[verdict] if verdict else _NONE)


LOCAL_SELECT = "SELECT path, l_kind, s_size, s_mtime, s_ctime, s_inode, s_mode, flags, l_digest, more FROM paths"


def decode_local(columns: Columns) -> tuple[str, Local]:
    """The path and local side of a result of LOCAL_SELECT whose l_kind isn't ABSENT."""
    path, l_kind, s_size, s_mtime, s_ctime, s_inode, s_mode, flags, digest, text = columns
    more: dict[str, Any] = {}
    if text:
        more = json.loads(text)
        big = more.get("big", {})
        s_size, s_mtime, s_ctime = big.get("s_size", s_size), big.get("s_mtime", s_mtime), big.get("s_ctime", s_ctime)
    signature = None
    if flags & _SIGNATURE:
        signature = Signature(s_size, s_mtime, s_ctime, s_inode if s_inode >= 0 else s_inode + _WRAP, s_mode)
    return path, _local(l_kind, signature, flags, digest, more)


def _local(kind: int, signature: Signature | None, flags: int, digest: bytes, more: dict[str, Any]) -> Local:
    if kind == OBSTACLE:
        return Local(_obstacle(more["lo"]), signature, flags & RACY != 0)
    if signature is None or flags & _L_OWN:
        size, mtime = more["own"]
    else:
        size, mtime = signature.size, signature.mtime_ns
    executable = _EXECUTABLE[flags >> _L_SHIFT & 3]
    entry = Entry(_KINDS[kind], digest, size, executable, mtime, more.get("lt", ""))
    return Local(entry, signature, flags & RACY != 0)


def is_kept(row: Row) -> bool:
    """False for a row that says nothing any more: no ancestor, nothing local, and no meta on the server.

    A delete marker is a meta: the row stays, since the next create has to expect its revision.
    """
    if row.ancestor is not None or row.local is not None:
        return True
    return row.remote is not None and (row.remote.revision > 0 or row.remote.side is not None)


def obstacle_of(columns_more: str) -> Obstacle:
    """The obstacle that counts for a path, from its column `more`: a problem goes before what is skipped."""
    more = json.loads(columns_more)
    return _chosen(more) or Obstacle(Reason.UNREADABLE)


def _reason(more: dict[str, Any]) -> str:
    obstacle = _chosen(more)
    return obstacle.reason.value if obstacle else ""


def _chosen(more: dict[str, Any]) -> Obstacle | None:
    found = [_obstacle(more[key]) for key in ("lo", "ro") if key in more]
    return min(found, key=_skipped, default=None)


_skipped: Callable[[Obstacle], bool] = lambda obstacle: obstacle.reason.skipped  # noqa: E731


def _obstacle(words: list[str]) -> Obstacle:
    # A reason that this program doesn't know was written by another version. It stays what it is: not to be touched.
    return Obstacle(REASONS.get(words[0], Reason.UNREADABLE), words[1])
