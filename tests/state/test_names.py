"""The bucket's names: every one is counted once, wherever it stands, and what a listing doesn't meet is found."""

from __future__ import annotations

import pytest

from agent.core.entries import Reason, Row
from agent.state import OtherName, StateStore
from tests.support.rows import BAD, agreed, local_only, marker, remote_only


@pytest.fixture(autouse=True)
def _prefix(store: StateStore) -> None:
    store.set_identity({"prefix": "in/"})


def test_known_names_are_live_objects_and_markers_here_and_elsewhere(store: StateStore) -> None:
    store.put([agreed("a"), Row("b", remote=marker(3)), local_only("c"), remote_only("d", BAD)], dirty=True)
    store.put_other("elsewhere/x", 7, "N7")
    store.put_other("elsewhere/marker", 8)
    store.put_other("elsewhere/x", 9, "N9")

    assert store.known_names() == store.counts().names == 5


def test_a_name_that_becomes_a_path_is_not_counted_twice(store: StateStore) -> None:
    store.put_other("in/a", 3, "N3")
    store.put_other("in/b", 4, "N4")

    store.put([remote_only("a", revision=3), local_only("b")], dirty=True)

    assert store.others() == [OtherName("in/b", 4, "N4")]
    assert store.known_names() == 2


def test_a_path_that_becomes_an_other_name_loses_its_row(store: StateStore) -> None:
    store.put([agreed("a"), agreed("b")], dirty=True)

    store.put_other("in/a", 5, "N5", Reason.CASE_CLASH, "rename one")

    assert list(store.below("")) == ["b"]
    assert store.known_names() == 2


def test_a_live_nuid_is_found_under_its_full_name(store: StateStore) -> None:
    store.put([remote_only("a", nuid="N1"), Row("b", remote=marker())], dirty=True)
    store.put_other("elsewhere", 5, "N2")

    assert store.find_nuid("N1") == ["in/a"]
    assert store.find_nuid("N2") == ["elsewhere"]
    assert store.find_nuid("N3") == store.find_nuid("") == []

    store.put_other("elsewhere", 6)
    assert store.find_nuid("N2") == []


def test_names_that_are_not_utf8_are_kept_apart(store: StateStore) -> None:
    names = ["in/\udcff", "in/\udcfe", "in/\ud800"]
    for name in names:
        store.put_other(name, 1, "N", Reason.NOT_UTF8)

    assert store.known_names() == 3
    assert sorted(path for path, _ in store.problems(9))[1:] == ["in/\\xfe", "in/\\xff"]


def test_a_listing_finds_what_it_did_not_meet(store: StateStore) -> None:
    store.put([agreed("a", revision=1), agreed("gone", revision=2), Row("marker", remote=marker(3))], dirty=False)
    store.put_other("elsewhere", 4, "N4")
    store.put_other("also gone", 5, "N5")

    store.begin_listing()
    store.seen(["in/a", "elsewhere"])
    store.seen([])

    assert store.unseen(up_to=5) == ["gone", "marker"]
    assert store.others() == [OtherName("elsewhere", 4, "N4")]


def test_names_newer_than_the_listing_are_not_missed(store: StateStore) -> None:
    store.put([agreed("old", revision=1), agreed("new", revision=11), local_only("local")], dirty=False)
    store.put_other("new elsewhere", 12, "N")

    store.begin_listing()

    assert store.unseen(up_to=10) == ["old"]
    assert store.known_names() == 3


def test_a_listing_that_was_broken_off_is_begun_again(store: StateStore) -> None:
    store.put([agreed("a", revision=1), agreed("b", revision=2)], dirty=False)
    store.begin_listing()
    store.seen(["in/a"])

    store.begin_listing()
    store.seen(["in/b"])

    assert store.unseen(up_to=2) == ["a"]


def test_the_unseen_of_forgotten_sides_include_objects_that_vanished_meanwhile(store: StateStore) -> None:
    store.put([agreed("a", revision=1), agreed("b", revision=2)], dirty=False)
    store.forget_sides()

    store.put([agreed("a", revision=1)], dirty=None)
    store.begin_listing()
    store.seen(["in/a"])

    assert store.unseen(up_to=2) == ["b"]
