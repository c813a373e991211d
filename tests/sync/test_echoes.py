"""Echoes: our own metas are dropped unread, and nobody else's; the cursor never passes a meta that no row has."""

from __future__ import annotations

from agent.core.entries import Entry, Kind, Local, Remote, Row
from agent.core.plan import Action, Verb
from agent.objectstore import MetaMessage
from agent.objectstore.subjects import meta_subject
from agent.sync.echoes import Echoes
from agent.sync.outcome import Change, Outcome, Result

FILE = Entry(Kind.FILE, b"1" * 32, 1)


def meta(path: str, revision: int) -> MetaMessage:
    """One that can't be read: whoever tries has an error."""
    return MetaMessage.undecoded("b", meta_subject("b", f"in/{path}"), b"not JSON", revision, 0)


def applied(path: str, revision: int) -> Outcome:
    change = Change(path, remote=Remote(FILE, revision, "nuid", 1))
    return Outcome(Action(verb=Verb.UPLOAD, row=Row(path, local=Local(FILE)), reason=""), Result.APPLIED, [change])


def failed(path: str) -> Outcome:
    return Outcome(Action(verb=Verb.UPLOAD, row=Row(path, local=Local(FILE)), reason=""), Result.FAILED)


def told(metas: list[MetaMessage]) -> list[int]:
    return [one.revision for one in metas]


def test_an_echo_that_comes_before_its_outcome_waits_for_it_and_the_cursor_with_it():
    echoes = Echoes("in/")
    echoes.expect(["a", "b"])

    assert echoes.sift([meta("a", 5)], 7) == []
    assert echoes.cursor(7) == 4
    echoes.committed([applied("a", 5)])
    assert (echoes.cursor(7), echoes.late) == (7, [])


def test_what_waits_is_stored_before_the_next_meta_of_somebody_else():
    """A rename by another client is found by the nuid that the old name has in its row."""
    echoes = Echoes("in/")
    echoes.expect(["a", "b"])

    assert echoes.sift([meta("a", 5)], 5) == []
    assert told(echoes.sift([meta("b", 6), meta("c", 7), meta("d", 8)], 8)) == [5, 6, 7, 8]
    assert echoes.cursor(8) == 8
    echoes.committed([applied("a", 5), failed("b")])
    assert echoes.late == []


def test_an_echo_that_comes_after_its_outcome_is_dropped_once():
    echoes = Echoes("in/")
    echoes.expect(["a"])
    echoes.committed([applied("a", 5)])

    assert told(echoes.sift([meta("a", 5), meta("a", 6)], 6)) == [6]
    assert echoes.cursor(6) == 6


def test_what_somebody_else_wrote_meanwhile_is_stored_after_the_outcome():
    echoes = Echoes("in/")
    echoes.expect(["a", "b", "c"])

    assert echoes.sift([meta("a", 5), meta("a", 8), meta("b", 9), meta("c", 4)], 9) == []
    echoes.committed([applied("a", 5), failed("b"), applied("c", 7)])
    assert told(echoes.late) == [8, 9]
    assert echoes.cursor(9) == 7
    assert told(echoes.sift([meta("x", 10)], 10)) == [8, 9, 10]
    assert (echoes.cursor(10), echoes.late) == (10, [])


def test_an_echo_that_never_comes_is_forgotten():
    echoes = Echoes("in/")
    echoes.expect(["a"])
    echoes.committed([applied("a", 5)])

    assert told(echoes.sift([meta("a", 6)], 6)) == [6]
    assert not echoes._ours


def test_a_meta_of_another_name_or_of_a_path_that_is_not_uploaded_is_stored_at_once():
    echoes = Echoes("in/")
    echoes.expect(["a"])
    outside = MetaMessage.undecoded("b", meta_subject("b", "a"), b"", 4, 0)
    nameless = MetaMessage.undecoded("b", "$O.b.M.x.y", b"", 5, 0)

    assert told(echoes.sift([outside, nameless, meta("x", 6)], 6)) == [4, 5, 6]
    echoes.committed([applied("x", 6)])
    assert told(echoes.sift([meta("x", 7)], 7)) == [7]
