"""A store in trouble: full, refusing, silent, changed behind our back. Nothing hangs, nothing is lost."""

from __future__ import annotations

import random

from tests.e2e.conftest import MakeAgent
from tests.support.agent import digests, write_tree
from tests.support.stock import Stock

MIB = 1024 * 1024


def test_old_chunks_make_room_at_once_when_the_bucket_is_full(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    stock.create(bucket_name, max_bytes=2 * MIB)
    agent, chance = make_agent(buckets={}), random.Random(1)
    for _ in range(4):
        write_tree(agent.directory(), {"file": chance.randbytes(800_000)})
        assert agent.sync()["uploads"] == 1

    assert stock.digests(bucket_name) == digests(agent.directory())
    assert len(stock.orphans(bucket_name)) <= 1
