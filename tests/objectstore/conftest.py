"""Fixtures for the object store's tests.

connection   to a server of each version that is here: the test runs once for each
buckets      Buckets of it
bucket       a fresh bucket, as declared ones are made
stock        the stock client (nats-py) on the same server
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Endpoint
from tests.support.server import NatsServer
from tests.support.stock import Stock


@pytest.fixture
async def connection(any_server: NatsServer) -> AsyncIterator[Connection]:
    async with await Connection.open(Endpoint([any_server.url]), name="test") as connection:
        yield connection


@pytest.fixture
def buckets(connection: Connection) -> Buckets:
    return Buckets(connection)


@pytest.fixture
async def bucket(buckets: Buckets, bucket_name: str) -> Bucket:
    return (await buckets.ensure(bucket_name, BucketSpec(), may_create=True)).bucket


@pytest.fixture
def stock(any_server: NatsServer) -> Iterator[Stock]:
    with Stock(any_server.url) as stock:
        yield stock
