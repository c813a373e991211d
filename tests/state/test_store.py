"""The store's contract, method by method."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from agent.core.entries import Gone, Local, Obstacle, Reason, Remote, Row, Verdict
from agent.state import JournalEntry, StateStore
from tests.support.rows import BAD, D1, F1, F2, L1, SKIPPED, agreed, local, local_only, marker, remote, remote_only


def dirty(store: StateStore) -> list[str]:
    return [row.path for row in store.dirty(100)]


# ---- rows ----


def test_a_path_that_is_not_there_has_a_row_with_nothing_on_it(store: StateStore) -> None:
    assert store.row("a") == Row("a")
    assert store.rows(["a", "b"]) == {"a": Row("a"), "b": Row("b")}


def test_a_row_with_nothing_left_is_deleted_and_a_marker_stays_for_its_revision(store: StateStore) -> None:
    store.put([agreed("a"), agreed("b"), agreed("c")], dirty=True)

    store.put([Row("a"), Row("b", remote=marker(9)), Row("c", remote=Remote(None, 0, gone=Gone.VANISHED))], dirty=False)

    assert list(store.below("")) == ["b"]
    assert store.row("b").revision == 9
    assert store.counts().rows == 1


def test_dirty_rows_come_by_path_up_to_a_limit_without_those_to_skip(store: StateStore) -> None:
    store.put((local_only(f"f{i:04}") for i in range(3000)), dirty=True)
    store.put([local_only("f0001")], dirty=False)

    assert [row.path for row in store.dirty(3, skip={"f0000", "f0003"})] == ["f0002", "f0004", "f0005"]
    assert [row.path for row in store.dirty(2, after="f0004")] == ["f0005", "f0006"]
    assert len(store.dirty(10_000)) == 2999
    assert store.dirty_count() == 2999


def test_a_dirty_mark_can_be_left_as_it_is(store: StateStore) -> None:
    store.put([local_only("a")], dirty=True)
    store.put([local_only("b")], dirty=False)

    store.put([local_only("a", F2), local_only("b", F2), local_only("new", F2)], dirty=None)

    assert dirty(store) == ["a"]
    assert store.row("b").local_side == F2


def test_marking_dirty_passes_over_paths_without_a_row(store: StateStore) -> None:
    store.put([local_only("a"), local_only("b")], dirty=False)

    store.mark_dirty(["a", "a", "unknown"])
    assert dirty(store) == ["a"]
    assert store.dirty_count() == 1

    store.mark_all_dirty()
    assert dirty(store) == ["a", "b"]
    assert store.dirty_count() == 2


def test_below_is_the_directory_and_not_its_neighbours(store: StateStore) -> None:
    names = ["a", "a-b", "a.txt", "a/", "a/b", "a/b/c", "a0", "b"]
    store.put(map(local_only, names), dirty=False)

    assert list(store.below("a")) == ["a/", "a/b", "a/b/c"]
    assert [path for path, _ in store.local_sides("a/b")] == ["a/b/c"]
    assert [row.path for row in store.all_rows("a")] == ["a/", "a/b", "a/b/c"]
    assert [seen[0] for seen in store.local_signatures("a")] == ["a/", "a/b", "a/b/c"]


def test_a_pass_over_all_rows_may_write_them(store: StateStore) -> None:
    store.put((local_only(f"f{i:05}") for i in range(5000)), dirty=True)

    for row in store.all_rows():
        if row.path.endswith("77"):
            store.put([replace(row, local=local(F2))], dirty=False)

    assert store.dirty_count() == 4950
    assert sum(side == local(F2) for _, side in store.local_sides()) == 50


# ---- what stands in the way ----


def test_parents_and_children_stand_in_the_way(store: StateStore) -> None:
    store.put(map(local_only, ["a", "x/y/z", "x.txt", "x0"]), dirty=False)

    assert [row.path for row in store.clashes(["a/b/c"])] == ["a"]
    assert [row.path for row in store.clashes(["x"])] == ["x/y/z"]
    assert [row.path for row in store.clashes(["x/y"])] == ["x/y/z"]
    assert store.clashes(["x/y/other"]) == []


def test_an_empty_directory_clashes_with_a_file_of_its_name_and_not_with_its_content(store: StateStore) -> None:
    store.put([local_only("a", F1), local_only("b/", D1)], dirty=False)

    assert [row.path for row in store.clashes(["a/"])] == ["a"]
    assert [row.path for row in store.clashes(["b"])] == ["b/"]
    assert store.clashes(["b/c"]) == []


def test_only_what_exists_stands_in_the_way_and_nothing_that_was_asked_about(store: StateStore) -> None:
    store.put([Row("a", remote=marker()), remote_only("b"), local_only("c/d"), local_only("c/e")], dirty=False)

    assert store.clashes(["a/x"]) == []
    assert [row.path for row in store.clashes(["b/x"])] == ["b"]
    assert [row.path for row in store.clashes(["c", "c/d"])] == ["c/e"]


def test_of_many_children_a_few_are_enough_even_behind_those_asked_about(store: StateStore) -> None:
    asked = [f"d/a{i:04}" for i in range(1000)]
    store.put(map(local_only, [*asked, *(f"d/b{i:04}" for i in range(1000))]), dirty=False)

    found = store.clashes(["d", *asked])

    assert 1 <= len(found) < 10
    assert all(row.path.startswith("d/b") for row in found)


def test_live_conflict_copies_are_counted(store: StateStore) -> None:
    copy = "d/file.conflict-{}-20260101T000000Z-0123abcd.txt"
    live = [copy.format("one"), copy.format("two")]
    store.put([*map(local_only, [*live, "d/file.txt", "d/file.conflict-notes.txt"])], dirty=False)
    store.put([Row(copy.format("three"), remote=marker())], dirty=False)

    assert store.live_copies("d/file.txt") == 2
    assert store.live_copies("d/other.txt") == 0


# ---- transactions ----


class OopsError(Exception):
    pass


def test_a_transaction_is_all_or_nothing_numbers_included(store: StateStore) -> None:
    store.put([agreed("a")], dirty=False)
    before = store.counts()

    with pytest.raises(OopsError), store.transaction():
        store.put([agreed("b"), Row("a")], dirty=True)
        store.cursor = 9
        assert store.known_names() == 1
        raise OopsError

    assert store.counts() == before
    assert (store.cursor, list(store.below(""))) == (0, ["a"])


def test_a_failed_part_of_a_transaction_is_taken_back_alone(store: StateStore) -> None:
    with store.transaction(durable=False):
        store.put([agreed("a")], dirty=True)
        with pytest.raises(OopsError), store.transaction():
            store.put([agreed("b")], dirty=True)
            raise OopsError
        store.put([agreed("c")], dirty=True)

    assert dirty(store) == ["a", "c"]
    assert store.counts().dirty == 2


def test_a_reader_in_another_thread_sees_what_is_committed(store: StateStore) -> None:
    store.put([agreed("a")], dirty=True)
    seen = []

    def read() -> None:
        with store.reader() as reader:
            seen.append(([path for path, _ in reader.local_sides()], reader.counts().local_objects))

    with store.transaction():
        store.put([agreed("b")], dirty=True)
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert seen == [(["a"], 1)]


# ---- forgetting ----


def test_forgetting_ancestors_keeps_sides_and_makes_their_rows_dirty(store: StateStore) -> None:
    store.put([agreed("a"), Row("only", ancestor=agreed("x").ancestor), local_only("b")], dirty=False)

    store.forget_ancestors()

    assert store.row("a") == replace(agreed("a"), ancestor=None)
    assert dirty(store) == ["a"]
    assert list(store.below("")) == ["a", "b"]


def test_forgetting_the_remote_forgets_ancestors_too_so_that_nothing_looks_deleted(store: StateStore) -> None:
    store.set_identity({"prefix": "in/"})
    bad = Row("bad", None, local(SKIPPED), remote(BAD))
    store.put([agreed("a"), agreed("link", L1), remote_only("r"), bad], dirty=False)
    store.put_other("elsewhere", 5, "N")
    store.cursor = 7

    store.forget_remote()

    assert list(store.all_rows()) == [local_only("a"), Row("bad", local=bad.local), local_only("link", L1)]
    assert (store.cursor, store.known_names(), store.dirty_count()) == (0, 0, 3)
    assert store.counts().problems == {}
    assert store.counts().skipped == {Reason.FIFO: 1}


def test_forgetting_sides_lets_nothing_look_absent(store: StateStore) -> None:
    store.put([agreed("a", revision=5), agreed("l", L1, revision=6)], dirty=False)
    store.cursor = 9

    store.forget_sides()

    row = store.row("a")
    assert (row.ancestor, row.local, row.remote_side) == (agreed("a").ancestor, local(F1), F1)
    assert (store.cursor, row.revision) == (0, 0)
    assert store.row("l").local == Local(L1, local(L1).signature, racy=True)
    assert store.known_names() == 2, "a name that isn't listed any more must be missed"


def test_forgetting_all_keeps_the_journal_only(store: StateStore) -> None:
    store.put([agreed("a")], dirty=True)
    store.set_identity({"prefix": "in/"})
    store.journal_add([JournalEntry("N", "b", "in/a", "old", 0, 1, 1)])

    store.forget_all()

    assert (list(store.below("")), store.identity, store.counts().local_objects) == ([], {}, 0)
    assert [entry.nuid for entry in store.journal_all()] == ["N"]


def test_a_dropped_path_leaves_nothing(store: StateStore) -> None:
    store.put([agreed("a"), agreed("b")], dirty=True)

    store.drop("a")
    store.drop("never there")

    assert (list(store.below("")), store.known_names(), store.dirty_count()) == (["b"], 1, 1)


# ---- what a person wants to know ----


def test_conflicts_and_diverged_are_listed_and_counted(store: StateStore) -> None:
    store.put(
        [
            replace(agreed("b"), verdict=Verdict.CONFLICT),
            replace(agreed("a"), verdict=Verdict.CONFLICT),
            replace(agreed("c"), verdict=Verdict.DIVERGED),
        ],
        dirty=False,
    )

    assert store.conflicts() == ["a", "b"]
    assert (store.counts().conflicts, store.diverged_count()) == (2, 1)


def test_a_problem_goes_before_what_is_left_out_on_purpose(store: StateStore) -> None:
    store.put([Row("a", None, local(SKIPPED), remote(BAD)), local_only("b", SKIPPED), local_only("c", BAD)], dirty=True)
    store.put_other("no\\path", 3, "N", Reason.INVALID_NAME, "rename it")
    store.put_other("elsewhere", 4, "N2")

    assert store.problems(10) == [("a", BAD), ("c", BAD), ("no\\path", Obstacle(Reason.INVALID_NAME, "rename it"))]
    assert len(store.problems(2)) == 2
    assert store.counts().problems == {Reason.UNREADABLE: 2, Reason.INVALID_NAME: 1}
    assert store.counts().skipped == {Reason.FIFO: 1}


# ---- identity, cursor, journal ----


def test_identity_cursor_and_keys_survive_a_restart(store: StateStore) -> None:
    assert (store.identity, store.cursor, store.kv_get("x")) == ({}, 0, None)
    store.set_identity({"bucket": "b", "prefix": "in/"})
    store.cursor = 1 << 40
    store.kv_set("x", "1")
    store.kv_set("y", "2")
    store.kv_set("y", None)
    store.close()

    again = StateStore.open(store.path)

    assert again.identity == {"bucket": "b", "prefix": "in/"}
    assert again.prefix == "in/"
    assert (again.cursor, again.kv_get("x"), again.kv_get("y")) == (1 << 40, "1", None)
    again.close()


def test_the_journal_gives_back_what_is_due(store: StateStore) -> None:
    late = JournalEntry("N2", "b", "x", "old", 0, due_ns=200, created_ns=1)
    soon = JournalEntry("N1", "b", "y", "upload", 41, due_ns=100, created_ns=1)
    store.journal_add([late, soon])

    assert store.journal_due(99) == []
    assert store.journal_due(100) == [soon]
    assert store.journal_all() == [soon, late]

    store.journal_add([replace(soon, due_ns=300)])
    store.journal_remove(["N2", "unknown"])
    assert store.journal_all() == [replace(soon, due_ns=300)]
