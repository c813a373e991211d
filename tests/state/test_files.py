"""The file: who may read it, what happens to a corrupt one, and to one of another version or another program."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import StateError
from agent.state import StateStore
from agent.state.schema import VERSION, Schema, packaged, statements
from tests.support.rows import agreed, local_only

DAMAGE = b"\xa5" * 4096


def fill(path: Path, *, rows: int = 2000) -> None:
    store = StateStore.open(path)
    store.put((agreed(f"f{i:05}") for i in range(rows)), dirty=True)
    store.close()


def damage_all_but_the_first_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(16 * 4096)
        for _ in range(16, path.stat().st_size // 4096):
            file.write(DAMAGE)


def test_state_is_for_the_agents_user_alone(path: Path) -> None:
    store = StateStore.open(path)
    store.put([agreed("a")], dirty=True)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in [path.parent, *path.parent.iterdir()]}
    store.close()

    assert modes == {"state": 0o700, "inbox.db": 0o600, "inbox.db-wal": 0o600, "inbox.db-shm": 0o600}


def test_a_directory_that_exists_keeps_its_mode(path: Path) -> None:
    path.parent.mkdir(mode=0o750)
    StateStore.open(path).close()

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_a_file_that_is_no_database_is_moved_aside_and_the_store_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, whatever its name says" * 100)

    store = StateStore.open(path)

    [aside] = path.parent.glob("*.corrupt-*")
    assert aside.name in store.recovered
    assert aside.read_bytes().startswith(b"this is not")
    store.put([agreed("a")], dirty=True)
    store.close()
    again = StateStore.open(path)
    assert (again.recovered, again.counts().rows) == ("", 1)
    again.close()


def test_damage_is_found_after_a_crash_before_anything_is_believed(path: Path) -> None:
    fill(path)
    damage_all_but_the_first_pages(path)
    path.with_name(path.name + "-wal").write_bytes(b"what a crash leaves")

    store = StateStore.open(path)

    assert "corrupt" in store.recovered
    assert list(store.all_rows()) == []
    assert list(path.parent.glob("*.corrupt-*Z"))
    store.close()


def test_damage_where_the_numbers_are_is_found_at_the_start(path: Path) -> None:
    fill(path, rows=1)
    store = StateStore.open(path)
    page = store._db.one("SELECT rootpage FROM sqlite_master WHERE name = 'kv'")[0]
    store.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(DAMAGE)

    store = StateStore.open(path)

    assert "corrupt" in store.recovered
    assert store.counts().rows == 0
    store.close()


def test_damage_that_is_met_later_is_an_error_and_the_next_start_begins_anew(path: Path) -> None:
    fill(path)
    damage_all_but_the_first_pages(path)
    store = StateStore.open(path)

    with pytest.raises(StateError, match="corrupt"):
        list(store.all_rows())
    store.close()

    store = StateStore.open(path)
    assert list(store.all_rows()) == []
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1
    store.close()


def test_two_corrupt_files_in_one_second_are_both_kept(path: Path) -> None:
    path.parent.mkdir()
    for _ in range(2):
        path.write_bytes(b"no database" * 1000)
        StateStore.open(path).close()

    assert len(list(path.parent.glob("*.corrupt-*"))) == 2


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    store = StateStore.open(path)

    assert store.recovered == ""
    store.close()


def test_a_newer_schema_is_refused_with_a_remedy(path: Path) -> None:
    fill(path, rows=1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")

    with pytest.raises(StateError, match=rf"version {VERSION + 1}.*newer jetsync"):
        StateStore.open(path)
    assert list(path.parent.glob("*.corrupt-*")) == []


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = path.read_bytes()

    with pytest.raises(StateError, match="not one of jetsync"):
        StateStore.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    assert path.stat().st_size == len(before)


def test_a_path_that_can_not_be_a_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()

    with pytest.raises(StateError, match="state_dir"):
        StateStore.open(tmp_path / "file" / "inbox.db")
    with pytest.raises(StateError, match="state_dir"):
        StateStore.open(tmp_path / "directory")


def test_a_full_disk_takes_the_transaction_back_and_is_transient(store: StateStore) -> None:
    store.put([local_only("a")], dirty=True)
    pages = store._db.one("PRAGMA page_count")[0]
    store._db.one(f"PRAGMA max_page_count = {pages + 2}")
    before = store.counts()

    with pytest.raises(StateError, match="no space") as caught, store.transaction():
        store.put((local_only(f"f{i}" * 50) for i in range(5000)), dirty=True)

    assert caught.value.transient
    assert store.counts() == before
    store._db.one("PRAGMA max_page_count = 1000000")
    store.put([local_only("b")], dirty=True)
    assert list(store.below("")) == ["a", "b"]


def test_a_copy_has_everything_and_is_apart(store: StateStore, tmp_path: Path) -> None:
    store.put([agreed("a")], dirty=True)
    store.copy_to(tmp_path / "private" / "copy.db")
    copy = StateStore.open(tmp_path / "private" / "copy.db")
    copy.put([agreed("b")], dirty=True)

    assert copy.row("a") == agreed("a")
    assert (copy.counts().rows, store.counts().rows) == (2, 1)
    assert stat.S_IMODE(copy.path.stat().st_mode) == 0o600
    copy.close()


# ---- versions ----

OLD = Schema(1, packaged().latest + "\nCREATE TABLE old (x);\nINSERT INTO old VALUES (1), (2);")
NEW = Schema(
    3,
    packaged().latest + "\nCREATE TABLE new (x, y);",
    {
        2: "ALTER TABLE old ADD COLUMN y; -- a comment; with a semicolon\nUPDATE old SET y = x * 10;",
        3: "ALTER TABLE old RENAME TO new;",
    },
)


def test_an_older_store_is_brought_up_step_by_step(path: Path) -> None:
    store = StateStore.open(path, schema=OLD)
    store.put([agreed("a")], dirty=True)
    store.close()

    store = StateStore.open(path, schema=NEW)

    assert store._db.all("SELECT x, y FROM new") == [(1, 10), (2, 20)]
    assert store._db.one("PRAGMA user_version") == (3,)
    assert store.row("a") == agreed("a")
    store.close()
    StateStore.open(path, schema=NEW).close()


def test_a_new_store_is_made_in_the_latest_version_at_once(path: Path) -> None:
    store = StateStore.open(path, schema=NEW)

    assert store._db.all("SELECT * FROM new") == []
    store.close()


def test_a_migration_that_fails_leaves_the_old_version_whole(path: Path) -> None:
    store = StateStore.open(path, schema=OLD)
    store.close()
    broken = Schema(3, NEW.latest, {2: NEW.migrations[2], 3: "ALTER TABLE nobody RENAME TO new;"})

    with pytest.raises(StateError, match="nobody"):
        StateStore.open(path, schema=broken)

    store = StateStore.open(path, schema=NEW)
    assert store._db.all("SELECT x, y FROM new") == [(1, 10), (2, 20)]
    store.close()


def test_a_version_that_no_migration_leads_away_from_is_refused(path: Path) -> None:
    StateStore.open(path, schema=OLD).close()

    with pytest.raises(StateError, match="no way"):
        StateStore.open(path, schema=Schema(3, NEW.latest, {3: NEW.migrations[3]}))


def test_the_packaged_schema_can_be_reached_from_every_version() -> None:
    schema = packaged()

    assert schema.version == VERSION
    assert sorted(schema.migrations) == list(range(2, VERSION + 1))
    assert len(list(statements(schema.latest))) > 5
