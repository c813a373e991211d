"""How much room is left alone, and what the trash may take of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.directory import Directory, Room
from agent.directory.space import floor_of
from agent.errors import PathError, SpaceError
from tests.directory.conftest import Open
from tests.directory.disk import read, write

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize(
    ("total", "floor"),
    [
        (0, 0),  # a file system that doesn't tell
        (16 * MIB, 16 * MIB // 20),
        (GIB, GIB // 20),
        (4 * GIB, 64 * MIB),
        (20 * GIB, 20 * GIB // 100),
        (10_000 * GIB, GIB),
    ],
)
def test_the_floor_fits_small_and_large_file_systems(total: int, floor: int) -> None:
    assert floor_of(total) == floor


def test_room_is_reserved_for_what_is_under_way(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    space = directory.space
    monkeypatch.setattr(space, "look", lambda: Room(free=1000 * MIB, floor=100 * MIB))
    with space.reserve(600 * MIB, "a") as first:
        with pytest.raises(PathError, match=r"400\.0 MiB don't fit"):
            space.reserve(400 * MIB, "b")
        first.write(500 * MIB)
        with space.reserve(750 * MIB, "b"), pytest.raises(SpaceError):
            space.reserve(100 * MIB, "c")
    with space.reserve(900 * MIB, "all"):
        pass


def test_below_the_floor_nothing_is_written(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    space = directory.space
    reservation = space.reserve(10, "a")
    monkeypatch.setattr(space, "look", lambda: Room(free=99, floor=100))
    with pytest.raises(SpaceError, match="free"):
        reservation.write(1)
    with pytest.raises(SpaceError):
        space.check()
    with pytest.raises(SpaceError):
        space.reserve(1, "b")


def fill_trash(root: Path, directory: Directory, versions: int) -> list[str]:
    for number in range(versions):
        write(root / "file", bytes([number]) * MIB)
        directory.delete("file", read(directory, "file"))
    return [entry.batch for entry in directory.trash.entries()]


@pytest.mark.parametrize(
    ("room", "left"),
    [
        (Room(free=100 * MIB, floor=0), 6),
        (Room(free=2 * MIB, floor=0), 4),  # half of 2 + 6
        (Room(free=0, floor=0), 3),
        (Room(free=10 * MIB, floor=12 * MIB), 4),
        (Room(free=0, floor=100 * MIB), 0),
    ],
)
def test_the_trash_keeps_to_its_share_and_above_the_floor_oldest_first(
    root: Path, directory: Directory, room: Room, left: int
) -> None:
    batches = fill_trash(root, directory, 6)

    gained = directory.trash.trim(room)

    assert [entry.batch for entry in directory.trash.entries()] == batches[6 - left :]
    assert gained == (6 - left) * MIB
    assert directory.trash.trim(Room(free=room.free + gained, floor=room.floor)) == 0


def test_a_quota_makes_the_trash_give_one_batch(root: Path, opener: Open) -> None:
    directory = opener()
    batches = fill_trash(root, directory, 3)
    assert directory.trash.trim(Room(free=100 * MIB, floor=0), now=True) == MIB
    assert [entry.batch for entry in directory.trash.entries()] == batches[1:]
