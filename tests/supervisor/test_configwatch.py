"""A changed configuration file is noticed, however it is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.load import digest
from agent.supervisor.configwatch import ConfigWatch

PATIENCE = 20.0  # ends a broken test; says nothing about how fast something has to be
NEVER = 3600.0  # between two looks without a hint


def write(path: Path) -> None:
    path.write_text("new")


def write_slowly(path: Path) -> None:
    with path.open("w") as file:
        for _ in range(3):
            file.write("new ")
            file.flush()


def rename_into_place(path: Path) -> None:
    fresh = path.with_name(".config.yaml.swp")
    fresh.write_text("new")
    fresh.rename(path)


def move_away_and_write(path: Path) -> None:
    path.rename(path.with_name("config.yaml~"))
    path.write_text("new")


@pytest.mark.parametrize("change", [write, write_slowly, rename_into_place, move_away_and_write])
async def test_an_editor_saves_the_file(tmp_path: Path, change: Callable[[Path], None]):
    path = tmp_path / "config.yaml"
    path.write_text("old")
    async with ConfigWatch(path, digest(path), look_seconds=NEVER) as watch:
        change(path)
        async with asyncio.timeout(PATIENCE):
            await watch.next()


def config_map(folder: Path, version: int) -> None:
    """As the kubelet does it: a directory per version, and one link that is swapped."""
    (folder / f"..v{version}").mkdir()
    (folder / f"..v{version}" / "config.yaml").write_text(f"version {version}")
    (folder / "..data_tmp").symlink_to(f"..v{version}")
    (folder / "..data_tmp").rename(folder / "..data")


async def test_a_config_map_is_swapped(tmp_path: Path):
    config_map(tmp_path, 1)
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    async with ConfigWatch(path, digest(path), look_seconds=NEVER) as watch:
        for version in (2, 3):
            config_map(tmp_path, version)
            async with asyncio.timeout(PATIENCE):
                await watch.next()


async def test_a_link_to_another_directory_is_looked_at_from_time_to_time(tmp_path: Path):
    real = tmp_path / "elsewhere" / "real.yaml"
    real.parent.mkdir()
    real.write_text("old")
    path = tmp_path / "config.yaml"
    path.symlink_to(real)
    async with ConfigWatch(path, digest(path), look_seconds=0.1) as watch:
        real.write_text("new")
        async with asyncio.timeout(PATIENCE):
            await watch.next()


async def test_the_same_content_is_no_news_and_neither_is_another_file(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("old")
    async with ConfigWatch(path, digest(path), look_seconds=0.05) as watch:
        waiting = asyncio.create_task(watch.next())
        rename_into_place_with(path, "old")
        path.touch()
        (tmp_path / "other.yaml").write_text("new")
        await asyncio.sleep(0.6)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def rename_into_place_with(path: Path, text: str) -> None:
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.rename(path)


async def test_what_changes_all_the_time_is_waited_for(tmp_path: Path):
    path = tmp_path / "config.yaml"
    contents = iter(["a", "b", "c", "d", "d", "d"])
    watch = ConfigWatch(path, "old", digest_of=lambda _: next(contents), look_seconds=NEVER)
    path.write_text("old")
    async with watch, asyncio.timeout(PATIENCE):
        await watch.next()

    assert list(contents) == ["d"]


async def test_a_file_that_is_gone_for_a_moment_is_no_news_and_one_that_stays_away_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("agent.supervisor.configwatch.MISSING_SECONDS", 0.6)
    path = tmp_path / "config.yaml"
    path.write_text("old")
    async with ConfigWatch(path, digest(path), look_seconds=0.05) as watch:
        waiting = asyncio.create_task(watch.next())
        path.unlink()
        await asyncio.sleep(0.1)
        path.write_text("new")
        async with asyncio.timeout(PATIENCE):
            await waiting
        path.unlink()
        async with asyncio.timeout(PATIENCE):
            await watch.next()


async def test_who_asks_needs_no_change(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("old")
    async with ConfigWatch(path, digest(path), look_seconds=NEVER) as watch:
        watch.ask()
        async with asyncio.timeout(PATIENCE):
            await watch.next()
        waiting = asyncio.create_task(watch.next())
        await asyncio.sleep(0.1)
        watch.ask()
        async with asyncio.timeout(PATIENCE):
            await waiting


async def test_a_directory_that_is_not_there_does_not_end_the_watch(tmp_path: Path):
    path = tmp_path / "later" / "config.yaml"
    async with ConfigWatch(path, "", look_seconds=0.05) as watch:
        path.parent.mkdir()
        path.write_text("new")
        async with asyncio.timeout(PATIENCE):
            await watch.next()
