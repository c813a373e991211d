"""Chunks that no meta names are purged, sooner or later; chunks that a meta may name never are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from agent.config.model import Mapping, Nats
from agent.core.entries import Entry, Kind, Local, Remote, Row, Signature
from agent.directory import Directory, DirectoryOptions
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, ObjectInfo
from agent.objectstore.subjects import meta_subject
from agent.state import JournalEntry, StateStore
from agent.sync import janitor as module
from agent.sync.db import Db
from agent.sync.janitor import Janitor
from agent.sync.resume import source_of


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


async def test_an_upload_that_may_go_on_is_waited_for_while_its_file_is_as_it_was(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0)
    monkeypatch.setattr(module, "DEAD_SESSION_SECONDS", 0)
    info = await scene.bucket.put("large", b"its beginning")
    await scene.lose_meta("large")
    entry = Entry(Kind.FILE, b"d" * 32, 20 << 20)
    row = Row("large", local=Local(entry, Signature(size=entry.size, mtime_ns=1, ctime_ns=2, inode=3)))
    now = time.time_ns()
    journalled = JournalEntry(info.nuid, scene.bucket.name, "large", "upload", 0, now, now, source_of(row))
    await scene.db(lambda store: store.journal_add([journalled]))
    await scene.db(lambda store: store.put([row], dirty=True))
    await scene.follow()

    await scene.janitor.tidy()
    await scene.janitor.tidy()
    assert await scene.chunks(info) == 1

    await scene.db(lambda store: store.put([Row("large")], dirty=True))  # the file is gone
    await scene.janitor.tidy()
    assert await scene.chunks(info) == 0
    assert await scene.entries() == []


async def test_partials_are_kept_while_they_are_wanted(scene: Scene, tmp_path: Path):
    digest = b"d" * 32
    with Directory.open(tmp_path / "files", options=DirectoryOptions()) as directory:
        for path in ("wanted", "not wanted"):
            partial = directory.stage_partial(path, key="", digest=digest)
            assert partial is not None
            partial.keep()
        remote = Remote(Entry(Kind.FILE, digest, 20 << 20), 1, "N", 40)
        await scene.db(lambda store: store.put([Row("wanted", remote=remote)], dirty=True))

        await scene.janitor.tidy()

        assert [kept.path for kept in directory.partials.kept()] == ["wanted"]
