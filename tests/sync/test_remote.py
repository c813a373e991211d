"""Metas to rows and back: names, prefixes, links, the metadata on the wire."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.entries import Entry, Gone, Kind, Obstacle, Reason, Remote
from agent.core.filters import Filters
from agent.errors import BadMetaError
from agent.objectstore import Link, MetaMessage, ObjectInfo
from agent.sync.remote import Outsider, Scope, format_mtime, metadata_of, parse_mtime, place

DIGEST = hashlib.sha256(b"x").digest()
SCOPE = Scope(
    bucket="b",
    prefix="in/",
    pulls_only=False,
    symlinks="link",
    max_size=100,
    empty_directories=False,
    repository=False,
    filters=Filters([], ["*.tmp"]),
)


def meta(name: str, **fields: object) -> MetaMessage:
    info = ObjectInfo(bucket="b", name=name, nuid="N", size=1, chunks=1, digest=DIGEST, revision=7)
    return MetaMessage(7, 0, name, replace(info, **fields))  # type: ignore[arg-type]


def test_an_object_below_the_prefix_is_a_file_at_the_rest_of_its_name():
    message = meta("in/a/b", metadata={"jetsync.mode": "755", "jetsync.mtime": "2020-01-02T03:04:05.000000006Z"})

    entry = Entry(Kind.FILE, DIGEST, 1, executable=True, mtime_ns=1577934245000000006)
    assert place(message, SCOPE) == ("a/b", Remote(entry, 7, nuid="N", chunks=1))


def test_metadata_of_other_clients_may_be_missing_or_nonsense():
    message = meta("in/a", metadata={"jetsync.mode": "0755", "jetsync.mtime": "yesterday"})

    assert place(message, SCOPE) == ("a", Remote(Entry(Kind.FILE, DIGEST, 1), 7, nuid="N", chunks=1))


@pytest.mark.parametrize("name", ["other", "in", "in/", "in/x.tmp", "in/.jetsync/root.json", "in/a/lost+found/x"])
def test_names_outside_prefix_and_filters_are_outsiders_that_nobody_needs_to_hear_of(name: str):
    assert place(meta(name), SCOPE) == Outsider(name, 7, "N")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("in/../etc/passwd", Reason.INVALID_NAME),
        ("in//etc/passwd", Reason.INVALID_NAME),
        ("in/a//b", Reason.INVALID_NAME),
        ("in/a\\b", Reason.INVALID_NAME),
        ("in/a\0b", Reason.INVALID_NAME),
        ("in/a/", Reason.INVALID_NAME),
        ("in/" + "x" * 256, Reason.NAME_TOO_LONG),
    ],
)
def test_hostile_names_are_outsiders_with_a_reason(name: str, reason: Reason):
    found = place(meta(name), SCOPE)

    assert isinstance(found, Outsider)
    assert (found.name, found.reason) == (name, reason)


def test_a_delete_marker_is_absence_with_a_revision():
    assert place(meta("in/a", deleted=True, size=0, chunks=0, digest=b""), SCOPE) == (
        "a",
        Remote(None, 7, gone=Gone.DELETED),
    )


def test_a_link_into_the_mapping_is_a_symlink():
    found = place(meta("in/l", link=Link("b", "in/d/t"), size=0, chunks=0, digest=b""), SCOPE)

    assert found == ("l", Remote(Entry(Kind.LINK, target="d/t"), 7, nuid="N"))


@pytest.mark.parametrize("link", [Link("b", "elsewhere"), Link("other", "in/x"), Link("b", "in/../x")])
def test_a_link_out_of_the_mapping_is_a_problem_where_we_push(link: Link):
    found = place(meta("in/l", link=link, size=0, chunks=0, digest=b""), SCOPE)

    assert isinstance(found, tuple)
    assert isinstance(found[1].side, Obstacle)
    assert found[1].side.reason is Reason.LINK_OUTSIDE


def test_a_link_out_of_the_mapping_is_a_file_where_we_only_pull_when_it_tells_its_digest():
    metadata = {"jetsync.digest": DIGEST.hex(), "jetsync.size": "9"}
    message = meta("in/l", link=Link("other", "x"), size=0, chunks=0, digest=b"", metadata=metadata)
    found = place(message, replace(SCOPE, pulls_only=True))

    assert found == ("l", Remote(Entry(Kind.FILE, DIGEST, 9), 7, nuid="N", via_link=True))


def test_a_link_to_itself_is_a_problem():
    found = place(meta("in/l", link=Link("b", "in/l"), size=0, chunks=0, digest=b""), SCOPE)

    assert not isinstance(found, Outsider)
    assert isinstance(found[1].side, Obstacle)
    assert found[1].side.reason is Reason.BROKEN_LINK


def test_a_bucket_link_is_a_problem():
    found = place(meta("in/l", link=Link("other"), size=0, chunks=0, digest=b""), SCOPE)

    assert isinstance(found, tuple)
    assert isinstance(found[1].side, Obstacle)
    assert found[1].side.reason is Reason.BROKEN_LINK


def test_objects_over_max_size_are_skipped():
    found = place(meta("in/big", size=101), SCOPE)

    assert isinstance(found, tuple)
    assert isinstance(found[1].side, Obstacle)
    assert found[1].side.reason is Reason.MAX_SIZE


def test_a_broken_meta_is_an_obstacle_at_its_path_so_that_nothing_is_done_there():
    message = MetaMessage(7, 0, "in/a", None, BadMetaError("not JSON"))

    assert place(message, SCOPE) == ("a", Remote(Obstacle(Reason.BAD_META, "not JSON"), 7))


def test_an_empty_directory_travels_only_when_asked():
    message = meta("in/d/", size=0, chunks=0, metadata={"jetsync.kind": "directory"})

    assert place(message, SCOPE) == Outsider("in/d/", 7, "N")
    assert place(message, replace(SCOPE, empty_directories=True)) == (
        "d/",
        Remote(Entry(Kind.DIRECTORY), 7, nuid="N", chunks=0),
    )


@given(st.integers(-(2**62), 2**62))
def test_mtime_survives_the_way_to_the_wire_and_back(mtime_ns: int):
    assert parse_mtime(format_mtime(mtime_ns)) == mtime_ns


@given(st.integers())
def test_any_mtime_can_be_written(mtime_ns: int):
    assert parse_mtime(format_mtime(mtime_ns)) is not None


@given(st.text())
def test_any_text_can_be_read_as_mtime(text: str):
    assert parse_mtime(text) is None or text.endswith("Z")


def test_what_is_unknown_isnt_written():
    assert metadata_of(Entry(Kind.FILE, DIGEST, 1)) == {}
    assert metadata_of(Entry(Kind.FILE, DIGEST, 1, executable=False)) == {"jetsync.mode": "644"}
