"""What the end-to-end tests start from: a bucket of one's own, the stock client, and one or two agents on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent, mapping
from tests.support.server import NatsServer
from tests.support.stock import Stock

MakeAgent = Callable[..., Agent]


@pytest.fixture(scope="session")
def stock(nats_server: NatsServer) -> Iterator[Stock]:
    with Stock(nats_server.url) as stock:
        yield stock


@pytest.fixture
def bucket(stock: Stock, bucket_name: str) -> str:
    """A bucket that exists already, made by the stock client."""
    stock.create(bucket_name)
    return bucket_name


@pytest.fixture
def make_agent(tmp_path: Path, nats_url: str, bucket_name: str) -> MakeAgent:
    """make_agent("a", mode="pull-safe", ...): an agent with one mapping "files" on this test's bucket.

    Options are those of the mapping; `nats`, `buckets` and `top` (a dict of top-level keys) those of the agent.
    """

    def make(
        name: str = "a",
        *,
        nats: str | dict[str, Any] | None = None,
        buckets: dict[str, Any] | None = None,
        top: dict[str, Any] | None = None,
        **options: Any,
    ) -> Agent:
        entry = mapping(options.pop("bucket", bucket_name), **options)
        return Agent(tmp_path / name, nats or nats_url, [entry], buckets=buckets, **(top or {}))

    return make


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    return make_agent("a")


@pytest.fixture
def pair(make_agent: MakeAgent) -> tuple[Agent, Agent]:
    """Two two-way agents on one bucket."""
    return make_agent("a"), make_agent("b")
