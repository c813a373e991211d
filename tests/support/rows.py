"""Rows for tests: values by name, and hypothesis strategies for everything a row can hold."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from agent.core.entries import (
    Ancestor,
    Entry,
    Gone,
    Kind,
    Local,
    Obstacle,
    Reason,
    Remote,
    Row,
    Signature,
    Verdict,
)

F1 = Entry(Kind.FILE, b"\x01" * 32, 100, False, 1_700_000_000_000_000_001)
F2 = Entry(Kind.FILE, b"\x02" * 32, 250, True, 1_700_000_000_000_000_002)
L1 = Entry(Kind.LINK, target="a/target")
D1 = Entry(Kind.DIRECTORY)
BAD = Obstacle(Reason.UNREADABLE, "permission denied; chmod it")
SKIPPED = Obstacle(Reason.FIFO)


def signature_of(entry: Entry, inode: int = 7) -> Signature:
    return Signature(entry.size, entry.mtime_ns or 0, 1_700_000_000_000_000_009, inode, 0o644)


def local(side: Entry | Obstacle = F1, *, racy: bool = False) -> Local:
    return Local(side, signature_of(side) if isinstance(side, Entry) else None, racy)


def remote(side: Entry | Obstacle = F1, revision: int = 1, nuid: str = "NUID") -> Remote:
    return Remote(side, revision, nuid, 1)


def marker(revision: int = 1) -> Remote:
    return Remote(None, revision, gone=Gone.DELETED)


def agreed(path: str, entry: Entry = F1, revision: int = 1, nuid: str = "NUID") -> Row:
    ancestor = Ancestor(entry, entry.mtime_ns, entry.mtime_ns)
    return Row(path, ancestor, local(entry), remote(entry, revision, nuid))


def local_only(path: str, side: Entry | Obstacle = F1) -> Row:
    return Row(path, local=local(side))


def remote_only(path: str, side: Entry | Obstacle = F1, revision: int = 1, nuid: str = "NUID") -> Row:
    return Row(path, remote=remote(side, revision, nuid))


# ---- strategies ----

# mtimes come from file systems and from other people's metas: any year that exists.
times = st.none() | st.integers(-(1 << 70), 1 << 70) | st.integers(0, 2_000_000_000_000_000_000)
sizes = st.integers(0, 10_000) | st.integers(0, 1 << 64)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
paths = st.lists(st.text(st.sampled_from("ab-./é0~"), min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)

entries = st.one_of(
    st.builds(
        Entry,
        st.just(Kind.FILE),
        st.sampled_from([b"\x01" * 32, b"\x02" * 32, b""]),
        sizes,
        st.sampled_from([None, False, True]),
        times,
    ),
    st.builds(Entry, st.just(Kind.LINK), target=texts, mtime_ns=times),
    st.builds(Entry, st.just(Kind.DIRECTORY), mtime_ns=times),
)
obstacles = st.builds(Obstacle, st.sampled_from(list(Reason)), texts)
signatures = st.builds(
    Signature,
    sizes,
    times.filter(lambda time: time is not None),
    times.filter(lambda time: time is not None),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 0o7777),
)


@st.composite
def locals_(draw: Any) -> Local:
    side = draw(entries | obstacles)
    signature = draw(st.none() | signatures)
    if isinstance(side, Entry) and draw(st.booleans()):
        signature = signature_of(side)
    return Local(side, signature, draw(st.booleans()))


remotes = st.one_of(
    st.builds(
        Remote,
        entries | obstacles,
        st.integers(0, 1 << 40),
        st.sampled_from(["", "N1", "N2"]),
        st.integers(0, 9),
        via_link=st.booleans(),
    ),
    st.builds(Remote, st.none(), st.integers(0, 1 << 40), gone=st.sampled_from([None, *Gone])),
)
rows = st.builds(
    Row,
    paths,
    st.none() | st.builds(Ancestor, entries, times, times),
    st.none() | locals_(),
    st.none() | remotes,
    st.sampled_from(list(Verdict)),
)
