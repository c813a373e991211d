"""A publication of a running agent: it publishes when its tree has changed and come to rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.config.model import Bucket as DeclaredBucket
from agent.config.model import Publication as PublicationConfig
from agent.core.manifest import Manifest
from agent.errors import StaleError
from agent.objectstore import Buckets, BucketSpec, Connection
from agent.observe.status import State
from agent.snapshots.publication import Publication
from agent.snapshots.repository import Repository
from agent.snapshots.tree import DirectoryTree
from agent.sync.remotes import Remotes
from tests.support.publisher import write


@asynccontextmanager
async def running(
    connection: Connection, repository: str, tmp_path: Path, **options: Any
) -> AsyncIterator[Publication]:
    remotes = Remotes({repository: DeclaredBucket()})
    remotes.attach(connection)
    config = PublicationConfig(name="models", repository=repository, channel="stable", **options)
    publication = Publication(config=config, state_path=tmp_path / "models.db", remotes=remotes)
    task = asyncio.create_task(publication.run(), name="publication")
    try:
        yield publication
        assert await publication.drain()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await remotes.close()


async def snapshots(connection: Connection, repository: str, number: int) -> list[str]:
    """The ids of the snapshots, as soon as there are so many."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ids = [one.id for one in await Repository(await Buckets(connection).bind(repository)).snapshots() if one.sealed]
        if len(ids) >= number:
            return ids
        await asyncio.sleep(0.1)
    raise AssertionError(f"{number} snapshots didn't come")


async def test_a_changed_directory_is_published_once_it_is_at_rest(
    connection: Connection, bucket_name: str, tmp_path: Path
):
    tree = tmp_path / "tree"
    write(tree, {"a": b"1"})
    await Buckets(connection).create(bucket_name)
    async with running(connection, bucket_name, tmp_path, directory=tree, trigger="on-change") as publication:
        await snapshots(connection, bucket_name, 1)
        for number in range(8):
            write(tree, {"a": b"change %d" % number, f"b{number}": b"x"})
            await asyncio.sleep(0.1)
        ids = await snapshots(connection, bucket_name, 2)
        await asyncio.sleep(2.5)

        repository = await Repository.open(connection, bucket_name)
        assert [one.id for one in await repository.snapshots()] == ids
        bucket = await repository.snapshot_bucket(ids[-1])
        assert await bucket.get_bytes("a") == b"change 7" and await bucket.get_bytes("b7") == b"x"
        assert publication.published == 2
        status = publication.status()
        assert (status.state, status.snapshot, status.last_error) == (State.IDLE, ids[-1], None)


async def test_a_changed_bucket_is_published(connection: Connection, bucket_name: str, tmp_path: Path):
    await Buckets(connection).create(bucket_name)
    source = (await Buckets(connection).ensure(f"{bucket_name}-src", BucketSpec(), may_create=True)).bucket
    await source.put_bytes("in/a", b"1")
    async with running(
        connection, bucket_name, tmp_path, bucket=source.name, prefix="in/", trigger="on-change"
    ) as publication:
        await snapshots(connection, bucket_name, 1)
        await source.put_bytes("in/a", b"2")
        ids = await snapshots(connection, bucket_name, 2)

        bucket = await (await Repository.open(connection, bucket_name)).snapshot_bucket(ids[-1])
        assert await bucket.get_bytes("a") == b"2"
        assert publication.last is not None


async def test_a_manual_one_publishes_when_it_is_asked_and_creates_a_declared_repository(
    connection: Connection, bucket_name: str, tmp_path: Path
):
    write(tmp_path / "tree", {"a": b"1"})
    async with running(connection, bucket_name, tmp_path, directory=tmp_path / "tree") as publication:
        report = await publication.converge()
        again = await publication.converge()

    assert (report.state, report.uploads, report.changed) == ("converged", 1, True)
    assert (again.id, again.uploads, again.changed) == (report.id, 0, False)
    assert (publication.published, publication.nothing_new, publication.failed) == (1, 1, 0)


async def test_what_fails_is_told_and_tried_again(connection: Connection, bucket_name: str, tmp_path: Path):
    await Buckets(connection).create(bucket_name)
    async with running(
        connection, bucket_name, tmp_path, directory=tmp_path / "tree", trigger="on-change"
    ) as publication:
        report = await publication.converge()
        assert report.exit_code == 1 and "doesn't exist" in report.errors[0]
        status = publication.status()
        assert status.last_error is not None and status.last_error.reason == "root"

        write(tmp_path / "tree", {"a": b"1"})
        publication.poke()
        await snapshots(connection, bucket_name, 1)


async def test_a_tree_that_never_rests_is_told_once_whichever_file_it_is(
    connection: Connection, bucket_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tree = tmp_path / "tree"
    write(tree, {"a": b"1"})
    await Buckets(connection).create(bucket_name)
    names = iter(range(100))
    told: list[str] = []

    async def changing(_tree: DirectoryTree) -> Manifest:
        raise StaleError(f"f{next(names)}: the file changed")

    monkeypatch.setattr(DirectoryTree, "read", changing)
    async with running(connection, bucket_name, tmp_path, directory=tree) as publication:
        monkeypatch.setattr(publication._standing.log, "warning", lambda event, **_: told.append(event), raising=False)
        first = (await publication.converge()).errors
        second = (await publication.converge()).errors
    assert first != second and told == ["not_published"]
