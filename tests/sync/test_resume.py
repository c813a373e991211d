"""Which nuid an upload takes, which leftovers are waited for, and what happens to a partial that is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.entries import Entry, Kind, Local, Remote, Row, Signature
from agent.core.plan import Action, Verb
from agent.directory import Kept
from agent.state import StateStore
from agent.sync.resume import KEPT_SECONDS, forget, is_wanted, journal_uploads, source_of, unwanted

BIG = Entry(Kind.FILE, b"d" * 32, 20 << 20)
SIGNATURE = Signature(size=BIG.size, mtime_ns=1, ctime_ns=2, inode=3)
ROW = Row("large", local=Local(BIG, SIGNATURE), remote=Remote(None, 41))
NOW = 1_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state.db") as store:
        yield store


def upload(row: Row) -> Action:
    return Action(
        verb=Verb.UPLOAD, row=row, reason="", entry=row.local_side if isinstance(row.local_side, Entry) else None
    )


def journal(store: StateStore, row: Row) -> str:
    return journal_uploads(store, "b", "in/", [upload(row)])[row.path]


def test_the_same_upload_takes_its_nuid_again(store: StateStore):
    first = journal(store, ROW)
    assert journal(store, ROW) == first
    assert [entry.name for entry in store.journal_all()] == ["in/large"]


@pytest.mark.parametrize(
    "other",
    [
        replace(ROW, local=Local(BIG, replace(SIGNATURE, ctime_ns=9))),
        replace(ROW, local=Local(replace(BIG, digest=b"e" * 32), SIGNATURE)),
        replace(ROW, remote=Remote(None, 42)),
        replace(ROW, path="other"),
    ],
    ids=["the file was touched", "its content changed", "the bucket's version changed", "another path"],
)
def test_any_other_upload_gets_a_new_nuid(store: StateStore, other: Row):
    assert journal(store, ROW) != journal(store, other)


def test_small_uploads_get_a_new_nuid_each_time(store: StateStore):
    row = Row("small", local=Local(replace(BIG, size=1000), SIGNATURE))
    assert source_of(row) == ""
    assert journal(store, row) != journal(store, row)


def test_a_nuid_that_was_given_up_is_not_taken_again_and_one_that_was_taken_is_not_given_up(store: StateStore):
    first = journal(store, ROW)
    (before,) = store.journal_all()
    time.sleep(0.001)
    assert journal(store, ROW) == first
    assert not store.journal_give_up(before)
    (entry,) = store.journal_all()
    assert store.journal_give_up(entry)
    assert [entry.kind for entry in store.journal_all()] == ["old"]
    assert journal(store, ROW) != first


def test_what_an_earlier_attempt_may_have_stored_is_not_forgotten(store: StateStore):
    small = Row("small", local=Local(replace(BIG, size=1000), SIGNATURE))
    nuids = journal_uploads(store, "b", "in/", [upload(ROW), upload(small)])
    forget(store, nuids.values())
    assert [entry.nuid for entry in store.journal_all()] == [nuids["large"]]


def test_an_upload_is_wanted_while_its_file_and_name_are_as_they_were(store: StateStore):
    journal(store, ROW)
    (entry,) = store.journal_all()
    store.put([ROW], dirty=True)
    assert is_wanted(store, "in/", entry)
    store.put([replace(ROW, remote=Remote(None, 42))], dirty=True)
    assert not is_wanted(store, "in/", entry)
    store.put([replace(ROW, local=None)], dirty=True)
    assert not is_wanted(store, "in/", entry)


def test_a_partial_is_wanted_while_its_content_is_missing_here_and_for_a_day(store: StateStore):
    kept = Kept("part-1", "large", BIG.digest, NOW)
    theirs = Remote(BIG, 41, nuid="N", chunks=40)
    store.put([Row("large", remote=theirs)], dirty=True)
    assert unwanted(store, [kept], NOW + 60) == []
    assert unwanted(store, [kept], NOW + KEPT_SECONDS + 1) == [kept]
    store.put([Row("large", local=Local(BIG, SIGNATURE), remote=theirs)], dirty=True)
    assert unwanted(store, [kept], NOW + 60) == [kept]
    store.put([Row("large", remote=replace(theirs, side=replace(BIG, digest=b"e" * 32)))], dirty=True)
    assert unwanted(store, [kept], NOW + 60) == [kept]
    assert unwanted(store, [replace(kept, path="unknown")], NOW + 60) == [replace(kept, path="unknown")]
