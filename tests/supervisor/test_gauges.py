"""Gauges: true for who scrapes, and asked for rarely while nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.observe.status import State
from agent.supervisor import gauges
from agent.supervisor.gauges import Gauges
from agent.supervisor.wiring import Supervisor
from agent.sync.mapping import MappingSync
from tests.objectstore.waiting import until
from tests.supervisor.test_reconfigure import PATIENCE, config_of


@asynccontextmanager
async def idle_mapping(tmp_path: Path) -> AsyncIterator[tuple[Supervisor, MappingSync]]:
    """One that has no server, and says that it is idle."""
    config = config_of(tmp_path, mappings=[{"name": "files", "directory": "./files", "bucket": "b"}])
    async with asyncio.timeout(PATIENCE), Supervisor(config) as supervisor:
        supervisor.start_mappings(config.mappings)
        (mapping,) = supervisor.mappings(["files"])
        await until(lambda: mapping.record.failures > 0)
        mapping.record.set_state(State.IDLE)
        yield supervisor, mapping


async def test_an_idle_mapping_is_asked_again_when_something_has_happened_when_somebody_scrapes_and_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = 0
    async with idle_mapping(tmp_path) as (supervisor, mapping):
        own = Gauges(lambda: [mapping], supervisor.items)
        show = mapping.show_metrics

        async def counted() -> None:
            nonlocal asked
            asked += 1
            await show()

        monkeypatch.setattr(mapping, "show_metrics", counted)
        await own.show(everything=False)
        await own.show(everything=False)
        assert asked == 1, "nothing has happened"
        mapping.record.converged_at = time.time()
        await own.show(everything=False)
        assert asked == 2
        await own.show()
        assert asked == 3
        monkeypatch.setattr(gauges, "IDLE_MAPPING", 0.0)
        await own.show(everything=False)
        assert asked == 4
        mapping.record.set_state(State.SYNCING)
        await own.show(everything=False)
        await own.show(everything=False)
        assert asked == 6


async def test_who_scrapes_has_a_round_of_his_own_but_is_not_kept_waiting_by_a_busy_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gauges, "IDLE_ROUND", 3600.0)
    monkeypatch.setattr(gauges, "ROUND", 3600.0)
    busy = asyncio.Event()
    rounds = 0
    async with idle_mapping(tmp_path) as (supervisor, mapping):
        own = Gauges(lambda: [mapping], supervisor.items)

        async def slow() -> None:
            nonlocal rounds
            rounds += 1
            if busy.is_set():
                await asyncio.sleep(3600)

        monkeypatch.setattr(mapping, "show_metrics", slow)
        running = asyncio.create_task(own.run())
        await own.fresh()
        await own.fresh()
        assert rounds >= 2
        busy.set()
        monkeypatch.setattr(gauges, "SCRAPE", 0.1)
        await own.fresh()
        await own.fresh()
        running.cancel()
        await asyncio.wait([running])
