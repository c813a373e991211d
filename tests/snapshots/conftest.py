"""Fixtures for the tests of snapshots.

connection       to the session's server
make_publisher   makes publications of one directory (or another) into one repository, each with a state of its own
publisher        one of them, with a few files in its directory
maker            makes snapshots by hand, wrong ones too
make_subscriber  makes subscribers, each with a directory and a state of its own
subscriber       one of them
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.objectstore import Buckets, BucketSpec, Connection, Endpoint
from agent.sync.db import Db
from tests.support.publisher import Publisher, write
from tests.support.server import NatsServer
from tests.support.snapshots import Maker, Subscriber


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with await Connection.open(Endpoint([nats_server.url]), name="test") as connection:
        yield connection


@pytest.fixture
async def make_publisher(connection: Connection, bucket_name: str, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    opened: list[Db] = []

    async def make(name: str = "one", *, directory: Path | None = None, **options: Any) -> Publisher:
        await Buckets(connection).ensure(bucket_name, BucketSpec(), may_create=True)
        directory = directory or tmp_path / "tree"
        directory.mkdir(exist_ok=True)
        db = await Db.open(tmp_path / f"{name}.db", name)
        opened.append(db)
        return Publisher(connection, bucket_name, directory, db, options)

    yield make
    for db in opened:
        await db.close()


@pytest.fixture
async def publisher(make_publisher: Callable[..., Any]) -> Publisher:
    made: Publisher = await make_publisher()
    write(made.directory, {"a": b"one", "deep/b": b"two", "deep/c": b"one", "empty": b""})
    return made


@pytest.fixture
def maker(connection: Connection, bucket_name: str) -> Maker:
    return Maker(connection, bucket_name)


@pytest.fixture
def make_subscriber(connection: Connection, bucket_name: str, tmp_path: Path) -> Callable[..., Subscriber]:
    def make(name: str = "live", **options: Any) -> Subscriber:
        return Subscriber(connection, bucket_name, tmp_path / name, tmp_path / f"{name}.db", options)

    return make


@pytest.fixture
def subscriber(make_subscriber: Callable[..., Subscriber]) -> Subscriber:
    return make_subscriber()
