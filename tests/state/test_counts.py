"""The numbers kept with each write are those that a count of all rows gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.entries import Row
from agent.state import StateStore, counts
from tests.support.rows import F1, F2, agreed, local_only, marker, rows

steps = st.one_of(
    st.tuples(st.just("put"), st.lists(rows, max_size=5), st.sampled_from([True, False, None])),
    st.tuples(st.just("mark"), st.lists(rows, max_size=3)),
    st.tuples(st.just("other"), st.sampled_from(["a", "in/a", "in/b", "x"])),
    st.tuples(st.sampled_from(["mark_all_dirty", "forget_ancestors", "forget_sides", "forget_remote", "fail", "drop"])),
)


def run(store: StateStore, step: tuple) -> None:
    match step:
        case ("put", put, dirty):
            store.put(put, dirty=dirty)
        case ("mark", marked):
            store.mark_dirty(row.path for row in marked)
        case ("other", name):
            store.put_other(name, 3, "N")
        case ("fail",):
            try:
                with store.transaction():
                    store.put([agreed("a"), Row("b")], dirty=True)
                    store.put_other("y", 3)
                    raise KeyError
            except KeyError:
                pass
        case ("drop",):
            store.drop("a")
        case (method,):
            getattr(store, method)()


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=8))
def test_numbers_are_right_after_any_writes(shared: StateStore, sequence: list[tuple]) -> None:
    with shared.transaction(durable=False):
        shared.forget_all()
        shared.set_identity({"prefix": "in/"})
        for step in sequence:
            run(shared, step)
            assert shared._numbers == counts.recount(shared._db), step
    with shared.reader() as reader:
        assert reader.counts() == shared.counts()


def test_objects_and_bytes_of_both_sides(store: StateStore) -> None:
    store.put([agreed("a", F1), agreed("b", F2), local_only("c", F2), Row("d", remote=marker())], dirty=True)
    store.put([agreed("a", F2)], dirty=False)

    found = store.counts()

    assert (found.local_objects, found.local_bytes) == (3, 750)
    assert (found.remote_objects, found.remote_bytes) == (2, 500)
    assert (found.rows, found.dirty, found.names) == (4, 3, 3)
    assert found.dirty_bytes == 500


def test_numbers_that_another_version_left_are_counted_anew(store: StateStore) -> None:
    store.put([agreed("a")], dirty=True)
    store.kv_set("counts", '{"something": 1}')
    store.close()

    again = StateStore.open(store.path)

    assert again.counts().local_objects == 1
    again.close()
