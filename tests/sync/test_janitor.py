"""Chunks that no meta names are purged, sooner or later; chunks that a meta may name never are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from agent.config.model import Mapping, Nats
from agent.core.entries import Entry, Kind, Remote, Row
from agent.directory import Directory, DirectoryOptions
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, ObjectInfo
from agent.objectstore.subjects import meta_subject
from agent.state import JournalEntry, StateStore
from agent.sync import janitor as module
from agent.sync.db import Db
from agent.sync.janitor import Janitor


@dataclass
class Scene:
    bucket: Bucket
    db: Db
    janitor: Janitor
    active: set[str]

    async def journal(self, info: ObjectInfo, kind: Literal["upload", "old"], *, expected: int = 0) -> None:
        now = time.time_ns()
        entry = JournalEntry(info.nuid, self.bucket.name, info.name, kind, expected, now, now)
        await self.db(lambda store: store.journal_add([entry]))

    async def entries(self) -> list[str]:
        return [entry.nuid for entry in await self.db(lambda store: store.journal_all())]

    async def follow(self, *known: ObjectInfo) -> None:
        """All metas have been read, and these are the live ones."""
        last = (await self.bucket.status()).last_seq

        def write(store: StateStore) -> None:
            store.cursor = last
            for info in known:
                side = Entry(Kind.FILE, info.digest, info.size)
                store.put([Row(info.name, remote=Remote(side, info.revision, info.nuid, info.chunks))], dirty=False)

        await self.db(write)

    async def chunks(self, info: ObjectInfo) -> int:
        return await self.bucket.chunk_count(info.nuid)

    async def lose_meta(self, name: str) -> None:
        """As if the meta had never been accepted, but its chunks had."""
        subject = meta_subject(self.bucket.name, name)
        await self.bucket.connection.api(f"STREAM.PURGE.{self.bucket.stream}", {"filter": subject})


@pytest.fixture
async def scene(nats_url: str, bucket_name: str, tmp_path: Path) -> AsyncIterator[Scene]:
    (tmp_path / "files").mkdir()
    db = await Db.open(tmp_path / "state.db", "test")
    directory = Directory.open(tmp_path / "files", options=DirectoryOptions())
    async with await Connection.open(Nats(servers=(nats_url,)), name="test") as connection:
        bucket = await Buckets(connection).create(bucket_name, BucketSpec())
        config = Mapping(name="files", directory=tmp_path / "files", bucket=bucket_name)
        active: set[str] = set()
        janitor = Janitor(config=config, bucket=bucket, directory=directory, db=db, active=active)
        yield Scene(bucket, db, janitor, active)
    directory.close()
    await db.close()


async def test_chunks_of_a_refused_upload_are_purged(scene: Scene):
    winner = await scene.bucket.put("name", b"theirs")
    orphan = await scene.bucket.put("elsewhere", b"ours")
    await scene.lose_meta("elsewhere")
    await scene.journal(orphan, "old")
    await scene.follow(winner)

    await scene.janitor.tidy()

    assert await scene.chunks(orphan) == 0
    assert await scene.entries() == []


async def test_nothing_is_purged_before_the_metas_have_been_followed_to_their_end(scene: Scene):
    info = await scene.bucket.put("name", b"1")
    await scene.journal(info, "old")

    await scene.janitor.tidy()
    assert await scene.chunks(info) == 1
    assert await scene.entries() == [info.nuid]

    await scene.follow(info)
    await scene.janitor.tidy()
    assert await scene.chunks(info) == 1


@pytest.mark.parametrize("followed", [False, True])
async def test_an_upload_that_succeeded_and_was_renamed_by_another_client_keeps_its_chunks(
    scene: Scene, followed: bool
):
    stored = await scene.bucket.put("name", b"ours", expected_revision=0)
    moved = await scene.bucket.rename("name", "new name")
    await scene.journal(stored, "upload", expected=0)
    if followed:
        await scene.follow(moved)

    await scene.janitor.tidy()

    assert await scene.bucket.get_bytes(moved) == b"ours"
    assert (await scene.entries() == []) is followed


async def test_an_upload_in_doubt_is_left_alone_for_its_time_and_purged_then(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    info = await scene.bucket.put("name", b"ours", expected_revision=0)
    await scene.lose_meta("name")
    await scene.journal(info, "upload", expected=0)
    await scene.follow()

    await scene.janitor.tidy()
    assert await scene.chunks(info) == 1

    monkeypatch.setattr(module, "ORPHAN_SECONDS", -1)
    scene.active.add(info.nuid)
    await scene.janitor.tidy()
    assert await scene.chunks(info) == 1

    scene.active.clear()
    await scene.janitor.tidy()
    assert await scene.chunks(info) == 0
    assert await scene.entries() == []


async def test_an_upload_that_is_visible_is_forgotten_and_keeps_its_chunks(scene: Scene):
    info = await scene.bucket.put("name", b"ours", expected_revision=0)
    await scene.journal(info, "upload", expected=0)

    await scene.janitor.tidy()

    assert await scene.chunks(info) == 1
    assert await scene.entries() == []


@pytest.mark.parametrize("row", [True, False])
async def test_a_version_that_was_to_be_replaced_and_was_not_keeps_its_chunks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, row: bool
):
    info = await scene.bucket.put("name", b"still here")
    await scene.journal(info, "old")
    await scene.follow(*([info] if row else []))  # the filters may have dropped its row

    await scene.janitor.tidy()
    assert await scene.entries() == [info.nuid], "whoever was to replace it may still be at it"

    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0)
    await scene.janitor.tidy()
    assert await scene.entries() == []
    assert await scene.bucket.get_bytes("name") == b"still here"
