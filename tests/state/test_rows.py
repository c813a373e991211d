"""A row comes back as it was put, whatever is on it; and orders as its bytes do."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.entries import Ancestor, Entry, Kind, Local, Obstacle, Reason, Row, Signature
from agent.state import StateStore
from agent.state.rows import FILE, is_kept
from tests.support.rows import D1, F1, F2, L1, agreed, local, local_only, paths, remote, rows


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=8))
def test_what_is_put_comes_back_equal(shared: StateStore, put: list[Row]) -> None:
    wanted = {row.path: row for row in put}
    with shared.transaction(durable=False):
        shared.forget_all()
        shared.put(put, dirty=True)

    assert shared.rows(wanted) == {path: row if is_kept(row) else Row(path) for path, row in wanted.items()}
    assert list(shared.all_rows()) == [
        row for _, row in sorted(wanted.items(), key=lambda item: item[0].encode()) if is_kept(row)
    ]
    assert dict(shared.local_sides()) == {path: row.local for path, row in wanted.items() if row.local}


@settings(max_examples=30, deadline=None)
@given(st.sets(paths | st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=30))
def test_paths_are_in_the_order_of_their_bytes(shared: StateStore, names: set[str]) -> None:
    with shared.transaction(durable=False):
        shared.forget_all()
        shared.put((local_only(name) for name in names), dirty=True)
    wanted = sorted(names, key=str.encode)

    assert [row.path for row in shared.dirty(100)] == wanted
    assert list(shared.below("")) == wanted
    assert [path for path, _ in shared.local_sides()] == wanted


def test_signatures_come_raw_as_lstat_gave_them(store: StateStore) -> None:
    signature = Signature(100, 1_700_000_000_000_000_001, 1_700_000_000_000_000_002, (1 << 64) - 3, 0o755)
    store.put([Row("a", local=Local(F1, signature, racy=True)), local_only("b"), Row("c", remote=remote())], dirty=True)

    first, second = store.local_signatures()

    assert first == ("a", FILE, 100, 1_700_000_000_000_000_001, 1_700_000_000_000_000_002, (1 << 64) - 3, 0o755, 1)
    assert second[0] == "b"


def test_a_local_side_without_signature_is_equal_to_no_file(store: StateStore) -> None:
    store.put([Row("a", local=Local(F1))], dirty=True)

    [(_, _, _, _, _, inode, mode, _)] = store.local_signatures()

    assert (inode, mode) == (0, 0)
    assert store.row("a").local == Local(F1)


def test_a_time_beyond_64_bits_comes_back_whole_and_raw_as_something_else(store: StateStore) -> None:
    year_9999 = 253_370_764_800_000_000_000
    entry = replace(F1, mtime_ns=year_9999)
    row = agreed("a", entry)
    store.put([row, agreed("b")], dirty=False)

    assert store.row("a") == row
    assert store.row("b") == agreed("b")
    assert next(store.local_signatures())[3] != year_9999


def test_each_side_has_its_own_digest_though_equal_ones_are_stored_once(store: StateStore) -> None:
    row = Row("a", Ancestor(F2, 1, 2), local(F1), remote(F1))
    other = Row("b", Ancestor(F1), local(F1), remote(F2))
    lone = Row("c", Ancestor(F1), None, remote(F1))
    store.put([row, other, lone], dirty=False)
    assert store.rows("abc") == {"a": row, "b": other, "c": lone}

    store.forget_ancestors()

    assert store.row("a") == replace(row, ancestor=None)
    assert store.row("c") == replace(lone, ancestor=None)


def test_links_directories_and_obstacles_on_every_side(store: StateStore) -> None:
    far = Entry(Kind.LINK, target="somewhere/else")
    put = [
        Row("link", Ancestor(L1), local(L1), remote(far)),
        Row("directory/", Ancestor(D1), local(D1), remote(D1)),
        Row("bad", None, local(Obstacle(Reason.SOCKET, "")), remote(Obstacle(Reason.BAD_META, "not JSON"))),
    ]
    store.put(put, dirty=True)

    assert list(store.rows(row.path for row in put).values()) == put


def test_a_reason_of_another_version_stays_an_obstacle(store: StateStore) -> None:
    store.put([local_only("a", Obstacle(Reason.FIFO, "x"))], dirty=True)
    store._db.run("""UPDATE paths SET more = '{"lo": ["from_the_future", "x"]}', reason = 'from_the_future'""")

    assert store.row("a").local_side == Obstacle(Reason.UNREADABLE, "x")
    assert store.counts().problems == {Reason.UNREADABLE: 1}
