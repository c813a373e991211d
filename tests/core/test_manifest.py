"""Manifests: canonical, and nothing that a hostile one says gets past `parse`."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import manifest
from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest
from agent.errors import ManifestError

HELLO = hashlib.sha256(b"hello").digest()
OTHER = hashlib.sha256(b"other").digest()
EMPTY = hashlib.sha256(b"").hexdigest()
FILE = Entry(Kind.FILE, HELLO, 5)
TOOL = Entry(Kind.FILE, HELLO, 5, executable=True)


def text_of(*entries: Any, **more: Any) -> bytes:
    value = {"entries": list(entries), "version": 1} | more
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def file(path: Any, **more: Any) -> dict[str, Any]:
    return {"path": path, "digest": HELLO.hex(), "mode": "644", "size": 5} | more


def test_the_text_of_a_manifest_is_fixed():
    tree = Manifest.of([("b", TOOL), ("ä", Entry(Kind.LINK, target="b")), ("a/x", FILE), ("d/", Entry(Kind.DIRECTORY))])

    assert tree.encoded.decode() == (
        f'{{"entries":[{{"digest":"{HELLO.hex()}","mode":"644","path":"a/x","size":5}},'
        f'{{"digest":"{HELLO.hex()}","mode":"755","path":"b","size":5}},{{"path":"d/"}},{{"path":"ä","target":"b"}}],'
        '"version":1}'
    )
    assert tree.digest == hashlib.sha256(tree.encoded).hexdigest()


def test_times_and_unknown_bits_make_no_other_tree():
    plain = Manifest.of([("a", FILE)])

    assert Manifest.of([("a", Entry(Kind.FILE, HELLO, 5, executable=False, mtime_ns=7))]).digest == plain.digest
    assert Manifest.of([("a", TOOL)]).digest != plain.digest


names_ = st.text(st.characters(exclude_characters="/\0\\", exclude_categories=["Cs"]), min_size=1, max_size=8)
entries_ = st.dictionaries(
    names_.filter(lambda name: name not in (".", "..", ".jetsync") and not name.startswith(".nfs")),
    st.builds(
        lambda digest, size, bit: Entry(Kind.FILE, digest, size, executable=bit),
        st.binary(min_size=32, max_size=32),
        st.integers(1, 1 << 62),
        st.booleans(),
    ),
)


@given(entries_)
def test_what_is_written_is_read_back(entries: dict[str, Entry]):
    tree = Manifest.of(entries.items())

    read = manifest.parse(tree.encoded)
    assert read.entries == entries and read.digest == tree.digest
    assert list(read.entries) == sorted(entries, key=str.encode)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "isn't JSON"),
        (b"\xff", "isn't JSON"),
        (b"[" * 100_000, "isn't JSON"),
        (b"[]", "must have version and entries"),
        (b'{"entries":{},"version":1}', "must have version and entries"),
        (text_of(more=1), "must have version and entries"),
        (text_of(version=2), "version 2"),
        (text_of(version=True), "version True"),
        (text_of("a"), "an entry without a path"),
        (text_of({"path": 1}), "an entry without a path"),
        (text_of(file("../a")), "component"),
        (text_of(file("/etc/passwd")), "begins with"),
        (text_of(file("a//b")), "empty component"),
        (text_of(file("a\\b")), "backslash"),
        (text_of(file("a\0b")), "NUL"),
        (text_of(file("x" * 256)), "256 bytes"),
        (text_of(file(".jetsync/manifest.json")), "reserved"),
        (text_of(file("a/.JETSYNC/x")), "reserved"),
        (text_of({"path": "../"}), "component"),
        (text_of(file("a"), file("a")), "comes twice"),
        (text_of(file("a"), file("a/b")), "stands below"),
        (text_of({"path": "a", "target": "b"}, file("a/b")), "stands below"),
        (text_of({"path": "a/"}, file("a/b")), "empty directory"),
        (text_of(file("a"), {"path": "a/"}), "one name"),
        (text_of(file("a", digest="0" * 63)), "64 hex digits"),
        (text_of(file("a", digest=HELLO.hex().upper())), "64 hex digits"),
        (text_of(file("a", digest=7)), "64 hex digits"),
        (text_of(file("a", mode="777")), "mode"),
        (text_of(file("a", mode=644)), "mode"),
        (text_of(file("a", size=-1)), "size"),
        (text_of(file("a", size=True)), "size"),
        (text_of(file("a", size=1.0)), "size"),
        (text_of(file("a", size=1 << 63)), "size"),
        (text_of(file("a", size=0)), "contradict"),
        (text_of(file("a", digest=EMPTY)), "contradict"),
        (text_of(file("a", owner="root")), "digest, mode, path and size"),
        (text_of({"path": "a", "target": "../b"}), "leads out"),
        (text_of({"path": "a", "target": "/b"}), "leads out"),
        (text_of({"path": "a", "target": ".jetsync"}), "leads out"),
        (text_of({"path": "a", "target": 3}), "leads out"),
        (text_of({"path": "a", "target": "a"}), "leads to itself"),
        (text_of({"path": "d/", "size": 0}), "a path only"),
        (text_of(file("b"), file("a")), "canonical"),
        (b" " + text_of(file("a")), "canonical"),
        (text_of(file("a")).replace(b'"a"', b'"\\u0061"'), "canonical"),
        (b'{"entries":[],"version":1,"version":1}', "canonical"),
    ],
)
def test_a_manifest_that_lies_is_refused(text: bytes, words: str):
    with pytest.raises(ManifestError) as caught:
        manifest.parse(text)
    assert words in caught.value.message


def test_a_tree_that_cannot_be_one_is_not_published():
    with pytest.raises(ManifestError, match="stands below"):
        Manifest.of([("a", FILE), ("a/b", FILE)])


def test_the_first_mistakes_are_told_and_the_others_counted():
    with pytest.raises(ManifestError, match="and 80 more"):
        manifest.parse(text_of(*(file(f"../{number}") for number in range(100))))


def test_names_that_differ_by_case_are_found_in_directories_too():
    assert manifest.case_clashes(["A/x", "a/y", "b"]) == [("A", "a")]
    assert manifest.case_clashes(["a", "b/", "c"]) == []


def test_an_id_tells_the_time_in_utc_and_the_digest():
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    identity = manifest.snapshot_id(when, "ab" * 32)

    assert identity == "20260102T020405Z-abababababab"
    assert manifest.is_snapshot_id(identity)
    assert manifest.belongs(identity, "ab" * 32) and not manifest.belongs(identity, "cd" * 32)


def test_a_bucket_tells_its_snapshot():
    identity = manifest.snapshot_id(datetime(2026, 1, 2, tzinfo=UTC), "ab" * 32)

    assert manifest.identity_in(manifest.bucket_of("my_repo", identity), repository="my_repo") == identity
    assert manifest.identity_in(manifest.bucket_of("my_repo", identity), repository="my") is None
    assert manifest.identity_in("my_repo_x", repository="my_repo") is None


def test_the_name_of_content_is_its_digest():
    assert manifest.content_digest(manifest.content_name(HELLO)) == HELLO
    assert manifest.content_digest("sha256/xyz") is None
    assert manifest.content_digest(HELLO.hex()) is None


def test_differences_are_told_path_by_path():
    before = Manifest.of([("a", FILE), ("b", FILE), ("c", FILE), ("l", Entry(Kind.LINK, target="a"))])
    after = Manifest.of([("a", FILE), ("b", TOOL), ("d", FILE), ("l", Entry(Kind.FILE, OTHER, 5))])

    told = [(found.path, found.change) for found in manifest.differences(before, after)]
    assert told == [("b", "mode"), ("c", "removed"), ("d", "added"), ("l", "changed")]
    assert manifest.differences(before, before) == []
