"""Reading everything once per interval: damage that the stat doesn't show."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.entries import Local, Obstacle, Reason
from agent.directory import Directory, signature_of
from agent.sync import rehash
from agent.sync.db import Db
from agent.sync.looks import survey
from agent.sync.rehash import DAMAGED, Rehash, store_found


class Disk:
    """A directory and the rows of its files."""

    def __init__(self, root: Path, db: Db) -> None:
        self.root = root
        self.db = db
        self.directory = Directory.open(root)
        self.found: dict[str, Local] = {}
        self.changed: list[str] = []

    async def know(self, *paths: str) -> None:
        """The rows say what is there now."""
        for path in paths:
            local = self.directory.read(path)
            assert local is not None
            await self.set(path, replace(local, racy=False))

    async def set(self, path: str, local: Local) -> None:
        await self.db(lambda store: store.put([replace(store.row(path), local=local)], dirty=False))

    async def damage(self, path: str, content: bytes) -> None:
        """Other bytes behind the same stat: the row is given the stat that the write made."""
        (self.root / path).write_bytes(content)
        row = await self.db(lambda store: store.row(path))
        assert row.local is not None
        await self.set(path, replace(row.local, signature=signature_of((self.root / path).stat())))

    async def run(self, interval: float = 0.01) -> Rehash:
        """Rehash for as long as it takes to go through everything at least once."""
        passed = asyncio.Event()

        async def note(path: str, known: Local, found: Local, again: bool) -> bool:
            self.found[path] = found
            await self.db(lambda store: store_found(store, path, known, found))
            return True

        worker = Rehash(
            interval=interval, directory=self.directory, db=self.db, found=note, changed=self.changed.extend
        )
        task = asyncio.create_task(worker.run())
        last = await self.db(lambda store: [path for path, _ in store.local_files("", 1000)][-1])
        async with asyncio.timeout(20):
            while not passed.is_set():
                await asyncio.sleep(0.01)
                if await self.db(lambda store: store.kv_get(rehash.KEY)) == last or task.done():
                    passed.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return worker


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    (tmp_path / "root").mkdir()
    db = await Db.open(tmp_path / "state.db", "m")
    disk = Disk(tmp_path / "root", db)
    for path in ("a", "b", "c"):
        (disk.root / path).write_bytes(path.encode() * 100)
    await disk.know("a", "b", "c")
    yield disk
    disk.directory.close()
    await db.close()


async def test_damage_that_the_stat_does_not_show_becomes_an_obstacle(disk: Disk):
    await disk.damage("b", b"x" * 100)
    await disk.run()

    assert disk.found.keys() == {"b"}
    row = await disk.db(lambda store: store.row("b"))
    assert row.local_side == DAMAGED
    assert disk.changed == []
    assert [row.path for row in await disk.db(lambda store: store.dirty(10))] == ["b"]


async def test_a_damaged_file_stays_an_obstacle_until_its_stat_changes(disk: Disk):
    await disk.damage("b", b"x" * 100)
    await disk.run()
    row = await disk.db(lambda store: store.row("b"))

    assert survey(disk.directory, [row], large_too=True, stop=lambda: False).changed == {}
    os.utime(disk.root / "b", ns=(0, 10**18))
    changed = survey(disk.directory, [row], large_too=True, stop=lambda: False).changed
    assert changed["b"] is not None
    assert not isinstance(changed["b"].side, Obstacle)


async def test_an_ordinary_change_is_left_to_a_look(disk: Disk):
    (disk.root / "a").write_bytes(b"new")
    (disk.root / "b").unlink()
    await disk.run()

    assert set(disk.changed) == {"a", "b"}
    assert disk.found == {}


async def test_the_position_is_kept_and_the_next_run_goes_on_there(disk: Disk):
    await disk.damage("a", b"x" * 100)
    await disk.db(lambda store: store.kv_set(rehash.KEY, "b"))
    await disk.run(interval=1.0)

    assert disk.found == {}  # "a" has its turn after the end


async def test_a_row_that_has_moved_on_is_not_written(disk: Disk):
    row = await disk.db(lambda store: store.row("a"))
    assert row.local is not None
    known = replace(row.local, racy=True)

    assert not await disk.db(lambda store: store_found(store, "a", known, Local(DAMAGED)))
    assert (await disk.db(lambda store: store.row("a"))).local == row.local


async def test_an_unreadable_file_is_unreadable(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(rehash, "_read", fail)
    await disk.run()

    sides = [local.side for local in disk.found.values()]
    assert {side.reason for side in sides if isinstance(side, Obstacle)} == {Reason.UNREADABLE}


async def test_zero_means_never(disk: Disk):
    await disk.damage("a", b"x" * 100)
    await disk.run(interval=0.0)

    assert disk.found == {}
