"""Large transfers that are broken off within one process, and what they find when they go on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.config.model import Nats
from agent.core.entries import Entry, Kind, Local, Remote, Row
from agent.directory import Directory, DirectoryOptions, Partial
from agent.errors import DigestError, ObjectNotFoundError, StaleError, StoreUnavailableError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, ObjectInfo, new_nuid
from agent.objectstore.get import Reader
from agent.sync.limits import Limits
from agent.sync.transfer import Transfer

CONTENT = os.urandom(12 << 20)
CHUNK = 256 << 10


@dataclass
class Scene:
    root: Path
    bucket: Bucket
    directory: Directory
    limits: Limits
    transfer: Transfer

    def row(self, info: ObjectInfo) -> Row:
        entry = Entry(Kind.FILE, info.digest, info.size)
        return Row("large", remote=Remote(entry, info.revision, info.nuid, info.chunks))

    async def download(self, info: ObjectInfo) -> None:
        row = self.row(info)
        assert isinstance(row.remote_side, Entry)
        await self.transfer.download(row, row.remote_side, self.bucket, info, keep_as=None)

    def staged(self) -> list[Path]:
        return sorted((self.root / ".jetsync/staging").iterdir())


@pytest.fixture
async def scene(nats_url: str, bucket_name: str, tmp_path: Path) -> AsyncIterator[Scene]:
    (tmp_path / "files").mkdir()
    with Directory.open(tmp_path / "files", options=DirectoryOptions()) as directory:
        async with await Connection.open(Nats(servers=(nats_url,)), name="test") as connection:
            bucket = await Buckets(connection).create(bucket_name, BucketSpec())
            limits = Limits(transfers=4, upload=0, download=0)
            transfer = Transfer(directory=directory, bucket=bucket, limits=limits)
            yield Scene(tmp_path / "files", bucket, directory, limits, transfer)


@pytest.fixture
async def broken_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> ObjectInfo:
    """A download that was broken off when more than a third had come; what others wrote lies in between."""
    info = await scene.bucket.put("large", CONTENT, chunk_size=CHUNK)
    note = Partial.note

    def lose(partial: Partial, *, chunks: int, seq: int) -> None:
        note(partial, chunks=chunks, seq=seq)
        if partial.size > len(CONTENT) // 3:
            raise StoreUnavailableError("the connection was lost")

    with monkeypatch.context() as patch, pytest.raises(StoreUnavailableError):
        patch.setattr(Partial, "note", lose)
        await scene.download(info)
    return info


def count_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each reader has brought."""
    counts: list[int] = []
    groups = Reader.groups

    async def counted(reader: Reader) -> AsyncIterator[list[bytes]]:
        counts.append(0)
        async for group in groups(reader):
            counts[-1] += sum(map(len, group))
            yield group

    monkeypatch.setattr(Reader, "groups", counted)
    return counts


async def test_a_download_goes_on_after_a_disconnect(
    scene: Scene, broken_off: ObjectInfo, monkeypatch: pytest.MonkeyPatch
):
    counts = count_bytes(monkeypatch)
    await scene.download(broken_off)

    assert (scene.root / "large").read_bytes() == CONTENT
    (fetched,) = counts
    assert fetched <= len(CONTENT) * 2 // 3
    assert scene.staged() == []


async def test_a_partial_that_is_not_what_was_received_is_begun_anew_once(
    scene: Scene, broken_off: ObjectInfo, monkeypatch: pytest.MonkeyPatch
):
    data = scene.staged()[0]
    damaged = bytearray(data.read_bytes())
    damaged[1000] ^= 1
    data.write_bytes(damaged)
    counts = count_bytes(monkeypatch)

    await scene.download(broken_off)

    assert (scene.root / "large").read_bytes() == CONTENT
    assert counts[1:] == [len(CONTENT)]
    assert scene.staged() == []


async def test_an_object_that_is_damaged_itself_is_told_after_the_second_try(scene: Scene, broken_off: ObjectInfo):
    wrong = bytes(32)
    lying = ObjectInfo(
        bucket=scene.bucket.name, name="large", nuid=broken_off.nuid, size=broken_off.size, chunks=broken_off.chunks,
        digest=wrong, revision=broken_off.revision,
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(DigestError):
            await scene.download(lying)
    assert not (scene.root / "large").exists()
    assert [path for path in scene.staged() if path.suffix != ".mark"] != []  # of the other digest, which is wanted


async def test_another_version_of_the_object_is_fetched_whole(scene: Scene, broken_off: ObjectInfo):
    newer = await scene.bucket.put("large", CONTENT[::-1], chunk_size=CHUNK)
    await scene.download(newer)
    assert (scene.root / "large").read_bytes() == CONTENT[::-1]


async def test_a_cancelled_upload_leaves_nothing(scene: Scene):
    (scene.root / "large").write_bytes(CONTENT)
    await asyncio.sleep(0.1)
    local = await asyncio.to_thread(scene.directory.read, "large")
    assert isinstance(local, Local)
    nuid = new_nuid()

    async def upload() -> ObjectInfo:
        return await scene.transfer.upload("large", local, "large", {}, expected_revision=0, nuid=nuid)

    scene.limits.upload.rate = 8 << 20
    first = asyncio.create_task(upload())
    for _ in range(1000):
        if await scene.bucket.chunk_count(nuid) >= 8:
            break
        await asyncio.sleep(0.02)
    first.cancel()
    await asyncio.wait([first])

    assert await scene.bucket.chunk_count(nuid) == 0


async def test_a_file_whose_content_changed_while_its_times_did_not_is_not_published(scene: Scene):
    (scene.root / "large").write_bytes(CONTENT)
    local = await asyncio.to_thread(scene.directory.read, "large")
    assert isinstance(local, Local)
    assert isinstance(local.side, Entry)
    believed = replace(local, side=replace(local.side, digest=bytes(32)))
    nuid = new_nuid()

    with pytest.raises(StaleError):
        await scene.transfer.upload("large", believed, "large", {}, expected_revision=0, nuid=nuid)

    assert await scene.bucket.chunk_count(nuid) == 0
    with pytest.raises(ObjectNotFoundError):
        await scene.bucket.info("large")


async def test_a_file_that_is_written_while_it_is_sent_is_not_published(scene: Scene):
    (scene.root / "large").write_bytes(CONTENT)
    local = await asyncio.to_thread(scene.directory.read, "large")
    assert isinstance(local, Local)
    scene.limits.upload.rate = 4 << 20
    nuid = new_nuid()
    upload = asyncio.create_task(scene.transfer.upload("large", local, "large", {}, expected_revision=0, nuid=nuid))
    for _ in range(1000):
        if await scene.bucket.chunk_count(nuid):
            break
        await asyncio.sleep(0.02)
    os.truncate(scene.root / "large", len(CONTENT) - 1)

    with pytest.raises(StaleError):
        await upload

    assert await scene.bucket.chunk_count(nuid) == 0
