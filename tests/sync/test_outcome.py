"""Outcomes into rows: an outcome never takes a row back in time."""

from __future__ import annotations

import pytest

from agent.core.entries import Ancestor, Entry, Gone, Kind, Local, Remote, Row, Verdict
from agent.sync.outcome import Change, merged, whole

OLD = Entry(Kind.FILE, b"1" * 32, 1)
NEW = Entry(Kind.FILE, b"2" * 32, 1)
ROW = Row("a", Ancestor(OLD), Local(NEW), Remote(OLD, 5, nuid="old", chunks=1))


def test_an_upload_that_nobody_overtook_leaves_a_clean_row():
    change = Change("a", ancestor=Ancestor(NEW), remote=Remote(NEW, 6, nuid="new"), seen=5)
    row, dirty = merged(ROW, change)

    assert (row.ancestor, row.remote, dirty) == (Ancestor(NEW), Remote(NEW, 6, nuid="new"), False)


def test_a_meta_that_came_while_the_upload_ran_stays_and_the_row_is_planned_again():
    newer = Remote(OLD, 7, nuid="theirs")
    row, dirty = merged(
        Row("a", ROW.ancestor, ROW.local, newer), Change("a", ancestor=Ancestor(NEW), remote=Remote(NEW, 6), seen=5)
    )

    assert (row.remote, row.ancestor, dirty) == (newer, Ancestor(NEW), True)


def test_our_own_echo_that_came_first_is_no_reason_to_plan_again():
    echo = Remote(NEW, 6, nuid="new", chunks=1)
    row, dirty = merged(
        Row("a", ROW.ancestor, ROW.local, echo), Change("a", ancestor=Ancestor(NEW), remote=echo, seen=5)
    )

    assert (row.remote, dirty) == (echo, False)


def test_a_name_found_purged_is_absent_unless_something_newer_was_seen():
    gone = Change("a", remote=Remote(None, 0, gone=Gone.VANISHED), seen=5, dirty=True)

    assert merged(ROW, gone)[0].remote == Remote(None, 0, gone=Gone.VANISHED)
    newer = Row("a", ROW.ancestor, ROW.local, Remote(NEW, 9))
    assert merged(newer, gone)[0].remote == Remote(NEW, 9)


def test_sides_that_an_action_doesnt_name_stay_as_they_are():
    row, _ = merged(ROW, Change("a", ancestor=None, local=None, seen=5))

    assert row == Row("a", None, None, ROW.remote)


def test_a_meta_that_came_while_a_local_file_was_deleted_is_planned():
    came = Remote(NEW, 7, nuid="theirs")
    row, dirty = merged(Row("a", None, Local(OLD), came), Change("a", ancestor=None, local=None, seen=0))

    assert (row, dirty) == (Row("a", None, None, came), True)


def test_a_name_that_was_found_gone_while_its_download_ran_is_planned_again():
    gone = Remote(None, 0, gone=Gone.VANISHED)
    loaded = Change("a", ancestor=Ancestor(NEW), local=Local(NEW), remote=Remote(NEW, 5), seen=5)
    row, dirty = merged(Row("a", None, None, gone), loaded)

    assert (row, dirty) == (Row("a", Ancestor(NEW), Local(NEW), gone), True)


def test_a_name_that_was_found_gone_while_its_file_was_sent_is_there():
    gone = Remote(None, 0, gone=Gone.VANISHED)
    sent = Change("a", ancestor=Ancestor(NEW), remote=Remote(NEW, 6), seen=5)
    row, dirty = merged(Row("a", None, Local(NEW), gone), sent)

    assert (row.remote, dirty) == (Remote(NEW, 6), False)


SEEN = Change("a", ancestor=Ancestor(NEW), local=Local(NEW), remote=Remote(NEW, 6, nuid="new", chunks=1), seen=5)


def test_a_change_of_all_sides_needs_nothing_of_the_row_but_its_revision():
    for revision in (5, 6):
        row = Row("a", ROW.ancestor, ROW.local, Remote(OLD, revision), Verdict.CONFLICT)

        assert (whole(SEEN, revision), False) == merged(row, SEEN)


@pytest.mark.parametrize(
    ("change", "revision"),
    [
        (SEEN, 7),  # somebody wrote meanwhile
        (SEEN, 4),  # the row went back behind what the action saw
        (Change("a", ancestor=Ancestor(NEW), local=Local(NEW), seen=5), 5),
        (Change("a", ancestor=Ancestor(NEW), remote=Remote(NEW, 6), seen=5), 5),
        (Change("a", local=Local(NEW), remote=Remote(NEW, 6), seen=5), 5),
        (Change("a", ancestor=None, local=None, remote=Remote(None, 6, gone=Gone.DELETED), seen=5), 5),
        (Change("a", ancestor=None, local=None, remote=None, seen=5), 5),
        (Change("a", ancestor=None, local=None, remote=Remote(NEW, 6), seen=5, dirty=True), 5),
    ],
)
def test_any_other_change_is_merged_with_the_row(change: Change, revision: int):
    assert whole(change, revision) is None
