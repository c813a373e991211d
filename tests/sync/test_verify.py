"""verify: what is damaged is found on both sides, mended from the whole one, and nothing else is called damaged."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.model import Mapping, Nats
from agent.core.entries import Mode, Obstacle, Reason, Row
from agent.directory import signature_of
from agent.errors import BadMetaError, ObjectNotFoundError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, ObjectInfo, orphans
from agent.objectstore.commit import commit
from agent.objectstore.subjects import chunk_subject, meta_subject, new_nuid
from agent.observe.metrics import Metrics
from agent.state import JournalEntry
from agent.sync import sweep
from agent.sync import verify as module
from agent.sync.mapping import MappingSync
from agent.sync.remotes import Remotes
from agent.sync.verify import VerifyReport, verify

CHUNK = 128 << 10
LARGE = os.urandom(3 * CHUNK + 17)


class Home:
    """A running mapping on a bucket of its own."""

    def __init__(self, sync: MappingSync, bucket: Bucket, root: Path) -> None:
        self.sync = sync
        self.bucket = bucket
        self.root = root
        self.read = 0

    @property
    def session(self) -> Any:
        session = self.sync._session
        assert session is not None
        return session

    @property
    def db(self) -> Any:
        return self.session._db

    def write(self, path: str, content: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def file(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    async def settle(self) -> None:
        report = await self.sync.converge()
        assert report.errors == []

    async def row(self, path: str) -> Row:
        row: Row = await self.db(lambda store: store.row(path))
        return row

    async def damage_file(self, path: str, content: bytes) -> None:
        """Other bytes behind the stat that the row has (no test can set a ctime back)."""
        (self.root / path).write_bytes(content)
        row = await self.row(path)
        assert row.local is not None
        local = replace(row.local, signature=signature_of((self.root / path).stat()), racy=False)
        await self.db(lambda store: store.put([replace(row, local=local)], dirty=False))

    async def chunk(self, nuid: str, data: bytes) -> None:
        await self.bucket.connection.request(chunk_subject(self.bucket.name, nuid), data)

    async def damage_object(self, name: str, chunks: list[bytes]) -> None:
        """Other chunks under the nuid that the meta names."""
        info = await self.bucket.info(name)
        await self.bucket.purge_chunks(info.nuid)
        for chunk in chunks:
            await self.chunk(info.nuid, chunk)

    async def verify(self, *, repair: bool = False, grace: float = module.GRACE_SECONDS, **more: Any) -> VerifyReport:
        session = self.session

        def progress(size: int) -> None:
            self.read += size

        return await verify(
            config=self.sync.config,
            directory=session.directory,
            bucket=self.bucket,
            db=self.db,
            scope=session.scope,
            batches=session.batches,
            call=session.steps.call,
            repair=repair,
            grace=grace,
            progress=progress,
            **more,
        )


MakeHome = Callable[..., Any]


@pytest.fixture
async def make_home(nats_url: str, bucket_name: str, tmp_path: Path) -> AsyncIterator[MakeHome]:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await Connection.open(Nats(servers=(nats_url,)), name="test"))
        bucket = await Buckets(connection).create(bucket_name, BucketSpec())

        async def make(mode: Mode = Mode.TWO_WAY, **options: Any) -> Home:
            root = tmp_path / mode.value
            root.mkdir()
            config = Mapping(
                name="files", directory=root, bucket=bucket_name, mode=mode, **{"settle": "10ms", **options}
            )
            remotes = Remotes({})
            remotes.attach(connection)
            metrics = Metrics().mapping("files", bucket=bucket_name, mode=mode)
            sync = MappingSync(
                config=config,
                agent_name="a",
                state_path=tmp_path / f"{mode.value}.db",
                remotes=remotes,
                metrics=metrics,
            )
            task = asyncio.create_task(sync.run())

            async def end() -> None:
                await sync.drain()
                await asyncio.wait_for(task, 20)
                await remotes.close()

            stack.push_async_callback(end)
            return Home(sync, bucket, root)

        yield make


@pytest.fixture
async def home(make_home: MakeHome) -> Home:
    home: Home = await make_home()
    for path, content in {"small": b"small", "d/large": LARGE, "empty": b""}.items():
        home.write(path, content)
    await home.settle()
    return home


def paths(found: list[module.Damage]) -> list[str]:
    return [damage.path for damage in found]


async def test_a_whole_mapping_is_read_to_its_last_byte_and_found_so(home: Home):
    report = await home.verify()

    assert (report.state, report.exit_code) == ("ok", 0)
    assert (report.checked_files, report.checked_objects) == (3, 3)
    assert report.bytes_local == report.bytes_remote == len(LARGE) + 5
    assert home.read == 2 * (len(LARGE) + 5)
    assert report.as_json()["orphans"] == {"nuids": 0, "chunks": 0, "bytes": 0, "young": 0}
    assert report.errors == []


async def test_a_damaged_file_is_reported_and_left_alone(home: Home):
    await home.damage_file("small", b"SMALL")

    report = await home.verify()

    assert (report.state, report.exit_code) == ("damaged", 3)
    assert paths(report.damaged_files) == ["small"]
    assert report.damaged_objects == []
    assert home.file("small") == b"SMALL"


async def test_a_damaged_file_is_fetched_again_and_its_bytes_are_in_the_trash(home: Home):
    damaged = bytes([LARGE[0] ^ 1]) + LARGE[1:]
    before = (home.root / "d/large").stat()
    await home.damage_file("d/large", damaged)

    report = await home.verify(repair=True)

    assert (report.state, report.exit_code) == ("repaired", 0)
    assert (paths(report.damaged_files), report.repaired) == (["d/large"], ["d/large"])
    assert home.file("d/large") == LARGE
    assert (home.root / "d/large").stat().st_mtime_ns == before.st_mtime_ns
    trashed = [path for path in (home.root / ".jetsync/trash").rglob("large") if path.is_file()]
    assert [path.read_bytes() for path in trashed] == [damaged]
    assert (await home.verify()).state == "ok"


@pytest.mark.parametrize(
    ("what", "chunks"),
    [
        ("missing", []),
        ("cut short", [LARGE[:CHUNK], LARGE[CHUNK : 2 * CHUNK]]),
        ("other bytes", [b"x" * CHUNK, b"x" * CHUNK, b"x" * CHUNK, b"x" * 17]),
        ("too many", [LARGE[i * CHUNK : (i + 1) * CHUNK] for i in range(4)] + [b"more"]),
    ],
)
async def test_a_damaged_object_is_found_and_uploaded_again(home: Home, what: str, chunks: list[bytes]):
    old = await home.bucket.info("d/large")
    await home.damage_object("d/large", chunks)

    assert paths((await home.verify()).damaged_objects) == ["d/large"], what
    assert (await home.bucket.info("d/large")).revision == old.revision

    report = await home.verify(repair=True)
    assert (report.state, report.repaired) == ("repaired", ["d/large"])
    assert await home.bucket.get_bytes("d/large") == LARGE
    assert (await home.verify()).state == "ok"


async def test_an_object_of_one_chunk_is_damaged_too_when_it_has_two(home: Home):
    info = await home.bucket.info("small")
    await home.bucket.purge_chunks(info.nuid)
    await home.chunk(info.nuid, b"other")
    await home.chunk(info.nuid, b"small")

    assert paths((await home.verify()).damaged_objects) == ["small"]


async def test_where_both_sides_are_damaged_nothing_is_touched(home: Home):
    await home.damage_file("small", b"SMALL")
    await home.damage_object("small", [b"sMALL"])
    before = await home.bucket.info("small")

    report = await home.verify(repair=True)

    assert report.state == "damaged"
    assert (paths(report.damaged_files), paths(report.damaged_objects)) == (["small"], ["small"])
    assert home.file("small") == b"SMALL"
    assert await home.bucket.info("small") == before


@pytest.mark.parametrize("mode", [Mode.PUSH_SAFE, Mode.PUSH_MIRROR])
async def test_a_push_mode_mends_objects_and_only_reports_files(make_home: MakeHome, mode: Mode):
    home: Home = await make_home(mode)
    home.write("file", b"file")
    home.write("object", b"object")
    await home.settle()
    await home.damage_file("file", b"FILE")
    await home.damage_object("object", [b"OBJECT"])

    report = await home.verify(repair=True)

    assert (report.state, report.repaired) == ("damaged", ["object"])
    assert (home.file("file"), await home.bucket.get_bytes("file")) == (b"FILE", b"file")
    assert await home.bucket.get_bytes("object") == b"object"


@pytest.mark.parametrize("mode", [Mode.PULL_SAFE, Mode.PULL_MIRROR])
async def test_a_pull_mode_mends_files_and_only_reports_objects(make_home: MakeHome, mode: Mode):
    home: Home = await make_home(mode)
    await home.bucket.put("file", b"file")
    await home.bucket.put("object", b"object")
    await home.settle()
    await home.damage_file("file", b"FILE")
    await home.damage_object("object", [b"OBJECT"])

    report = await home.verify(repair=True)

    assert (report.state, report.repaired) == ("damaged", ["file"])
    assert home.file("file") == b"file"
    with pytest.raises(Exception, match="digest"):
        await home.bucket.get_bytes("object")


async def test_a_change_is_no_damage(home: Home):
    home.write("small", b"changed, and not seen yet")
    await home.bucket.put("d/large", b"replaced by somebody")

    report = await home.verify(repair=True)

    assert (report.damaged_files, report.damaged_objects, report.repaired) == ([], [], [])
    assert report.errors == []
    await home.settle()
    assert await home.bucket.get_bytes("small") == b"changed, and not seen yet"
    assert home.file("d/large") == b"replaced by somebody"


async def test_files_that_change_all_the_time_are_never_called_damaged(home: Home):
    stop = asyncio.Event()

    async def scribble() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            home.write("small", b"%05d" % number)
            await asyncio.sleep(0.003)

    task = asyncio.create_task(scribble())
    reports = [await home.verify(repair=True) for _ in range(3)]
    stop.set()
    await task

    assert [report.damaged_files + report.damaged_objects for report in reports] == [[], [], []]
    assert [report.repaired for report in reports] == [[], [], []]


async def test_a_path_with_an_action_under_way_is_looked_at_in_the_end(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PAUSE", 0.05)
    await home.damage_file("small", b"SMALL")
    busy = home.session.batches.busy
    busy.add("small")
    task = asyncio.create_task(home.verify(repair=True))
    await asyncio.sleep(0.1)
    assert home.file("small") == b"SMALL"
    busy.discard("small")

    assert (await task).repaired == ["small"]
    assert home.file("small") == b"small"


async def test_a_path_that_stays_busy_is_told_as_not_verified(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    home.session.batches.busy.add("small")
    report = await home.verify()
    home.session.batches.busy.discard("small")

    assert report.state == "failed"
    assert report.errors == ["small: not verified: an action on it is under way"]


async def test_damage_that_a_download_has_met_is_mended_by_a_repair(home: Home):
    """The row says MISSING_CHUNKS: verify reads the meta for what was promised."""
    row = await home.row("small")
    assert row.remote is not None
    await home.damage_object("small", [])
    damaged = replace(row, remote=replace(row.remote, side=Obstacle(Reason.MISSING_CHUNKS, "gone")), ancestor=None)
    await home.db(lambda store: store.put([damaged], dirty=True))

    assert (await home.verify(repair=True)).repaired == ["small"]
    assert await home.bucket.get_bytes("small") == b"small"
    await home.settle()
    assert (await home.row("small")).ancestor is not None


async def test_a_paused_mapping_repairs_nothing_and_tells_the_damage(home: Home):
    await home.damage_file("small", b"SMALL")
    await home.sync.pause(paused=True)

    report = await home.verify(repair=True)

    assert (report.state, paths(report.damaged_files), report.repaired) == ("damaged", ["small"], [])
    assert [error.partition(":")[0] for error in report.errors] == ["small"]
    assert home.file("small") == b"SMALL"


# -- orphan chunks ----------------------------------------------------------------------------------------------------


async def orphan(home: Home, content: bytes = b"orphan") -> str:
    """Chunks whose meta never came."""
    nuid = new_nuid()
    for at in range(0, len(content), CHUNK):
        await home.chunk(nuid, content[at : at + CHUNK])
    return nuid


async def test_orphan_chunks_are_reported_and_purged_only_after_their_grace_time(home: Home):
    nuid = await orphan(home, content=LARGE)

    young = await home.verify(repair=True)
    assert young.as_json()["orphans"] == {"nuids": 1, "chunks": 4, "bytes": 4 * CHUNK - CHUNK + 17, "young": 1}
    assert (young.state, young.purged) == ("ok", 0)
    assert await home.bucket.chunk_count(nuid) == 4

    told = await home.verify(grace=-60)
    assert (told.orphan_nuids, told.orphans_young, told.purged) == (1, 0, 0)
    assert await home.bucket.chunk_count(nuid) == 4

    purged = await home.verify(repair=True, grace=-60)
    assert (purged.state, purged.purged) == ("ok", 4)
    assert await home.bucket.chunk_count(nuid) == 0
    assert (await home.verify(grace=-60)).orphan_nuids == 0
    assert await home.bucket.get_bytes("d/large") == LARGE


async def test_our_own_journalled_chunks_are_no_orphans(home: Home):
    ours, of_another_mapping, under_way = [await orphan(home) for _ in range(3)]
    entry = JournalEntry(ours, home.bucket.name, "a", "upload", 0, 1 << 62, 1 << 62)
    await home.db(lambda store: store.journal_add([entry]))
    home.session.batches.nuids.add(under_way)

    async def journalled() -> set[str]:
        return {of_another_mapping}

    report = await home.verify(repair=True, grace=-60, journalled=journalled)

    assert (report.orphan_nuids, report.purged) == (0, 0)
    assert [await home.bucket.chunk_count(nuid) for nuid in (ours, of_another_mapping, under_way)] == [1, 1, 1]


async def test_chunks_of_objects_outside_the_mapping_are_no_orphans(make_home: MakeHome):
    home: Home = await make_home(prefix="mine/", exclude=("*.tmp",))
    outside = [await home.bucket.put(name, b"x") for name in ("theirs", "mine/a.tmp", "mine/../up", "mine/.jetsync/x")]
    await home.settle()

    report = await home.verify(repair=True, grace=-60)

    assert (report.orphan_nuids, report.purged) == (0, 0)
    assert [await home.bucket.chunk_count(info.nuid) for info in outside] == [1] * 4


async def test_chunks_that_a_broken_meta_names_are_no_orphans(home: Home):
    """Another client may read what we don't: nats-py writes headers that Go and we refuse."""
    info = await home.bucket.put("odd", b"content")
    odd = {"name": "odd", "nuid": info.nuid, "size": 7, "chunks": 1, "headers": {"A": "b"}}
    payload = json.dumps(odd).encode()
    await home.bucket.connection.request(meta_subject(home.bucket.name, "odd"), payload, headers={"Nats-Rollup": "sub"})
    with pytest.raises(BadMetaError):
        await home.bucket.info("odd")
    await home.settle()

    report = await home.verify(repair=True, grace=-60)

    assert (report.orphan_nuids, report.purged) == (0, 0)
    assert await home.bucket.chunk_count(info.nuid) == 1


async def test_a_meta_that_comes_between_the_scan_and_the_purge_keeps_its_chunks(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    nuid = await orphan(home, content=b"late")
    measure = orphans.measure

    async def late(bucket: Bucket, found: str, count: int) -> Any:
        orphan = await measure(bucket, found, count)
        digest = hashlib.sha256(b"late").digest()
        await commit(bucket, ObjectInfo(bucket.name, "late", found, 4, 1, digest))
        return orphan

    monkeypatch.setattr(sweep, "measure", late)
    report = await home.verify(repair=True, grace=-60)

    assert (report.orphan_nuids, report.purged) == (1, 0)
    assert await home.bucket.get_bytes("late") == b"late"
    assert await home.bucket.chunk_count(nuid) == 1


async def test_a_chunk_that_arrives_after_the_scan_survives_the_purge(home: Home, monkeypatch: pytest.MonkeyPatch):
    nuid = await orphan(home)
    purge = orphans.purge

    async def late(bucket: Bucket, found: Any) -> int:
        await home.chunk(found.nuid, b"late")
        return await purge(bucket, found)

    monkeypatch.setattr(sweep, "purge", late)
    report = await home.verify(repair=True, grace=-60)

    assert report.purged == 1
    assert await home.bucket.chunk_count(nuid) == 1


async def test_a_sealed_bucket_is_verified_and_nothing_is_purged(home: Home):
    nuid = await orphan(home)
    await home.bucket.seal()

    report = await home.verify(repair=True, grace=-60)

    assert (report.orphan_nuids, report.purged) == (1, 0)
    assert await home.bucket.chunk_count(nuid) == 1


async def test_objects_that_went_away_during_the_look_are_no_damage(home: Home):
    await home.bucket.delete("small")
    with pytest.raises(ObjectNotFoundError):
        await home.bucket.get_bytes("small")

    report = await home.verify(repair=True)

    assert (report.damaged_objects, report.damaged_files, report.errors) == ([], [], [])
