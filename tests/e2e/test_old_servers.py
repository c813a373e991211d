"""What servers of before 2.10 do wrong, and what an agent makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.agent import Agent, digests, eventually, mapping
from tests.support.stock import Stock

NAMES = [f"n{number}" for number in range(12)]


@pytest.fixture
def old_server(make_server, server_binaries):
    if "2.9" not in server_binaries:
        pytest.skip("no nats-server 2.9 here; `make servers` brings it")
    return make_server(binary=server_binaries["2.9"])


def put_all(stock: Stock, bucket: str, word: str) -> None:
    async def put() -> None:
        store = stock.store(bucket)
        await asyncio.gather(*(store.put(name, f"{word} {name}".encode()) for name in NAMES))

    stock.store(bucket)  # outside the loop, once
    stock.wait(put())


def test_a_change_that_the_server_tells_its_followers_nothing_of_arrives_all_the_same(tmp_path: Path, old_server):
    """2.9 skips messages of a consumer when several names are overwritten at once; a listing has them."""
    with Stock(old_server.url) as stock:
        stock.create("b")
        put_all(stock, "b", "first")
        agent = Agent(tmp_path / "a", old_server.url, [mapping("b")])
        with agent.run():
            for burst in range(5):
                put_all(stock, "b", f"burst {burst}")
            eventually(lambda: digests(agent.directory()) == stock.digests("b"))


def test_what_was_skipped_while_an_agent_was_away_arrives_when_it_starts(tmp_path: Path, old_server):
    with Stock(old_server.url) as stock:
        stock.create("b")
        put_all(stock, "b", "first")
        agent = Agent(tmp_path / "a", old_server.url, [mapping("b")])
        with agent.run() as running:
            for burst in range(5):
                put_all(stock, "b", f"burst {burst}")
            running.kill()
        agent.sync()
        assert digests(agent.directory()) == stock.digests("b")
