"""Another configuration while something is asked of the old one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.load import from_dict
from agent.config.model import Config
from agent.config.reload import compare
from agent.observe.metrics import Metrics
from agent.observe.readiness import Readiness, check, ready
from agent.supervisor import once
from agent.supervisor.wiring import Supervisor
from tests.support.server import free_port

PATIENCE = 30.0  # ends a broken test; says nothing about how fast something has to be


def config_of(folder: Path, **items: Any) -> Config:
    for name in ("files", "tree", "live"):
        (folder / name).mkdir(exist_ok=True)
    nowhere = f"nats://127.0.0.1:{_port(folder)}"
    return from_dict(
        {"version": 1, "state_dir": "./state", "nats": {"servers": [nowhere]}, "buckets": {"b": {}}, **items},
        base=folder,
    )


def _port(folder: Path) -> int:
    known = folder / "port"
    if not known.exists():
        known.write_text(str(free_port()))
    return int(known.read_text())


ITEMS: dict[str, Any] = {
    "mappings": [{"name": "files", "directory": "./files", "bucket": "b"}],
    "publications": [{"name": "pub", "directory": "./tree", "repository": "r", "channel": "c", "trigger": "on-change"}],
    "subscriptions": [{"name": "sub", "directory": "./live", "repository": "r", "channel": "c"}],
}


async def test_who_waits_for_what_goes_is_answered(tmp_path: Path):
    before, after = config_of(tmp_path, **ITEMS), config_of(tmp_path)
    async with asyncio.timeout(PATIENCE), Supervisor(before) as supervisor:
        supervisor.start_mappings(before.mappings)
        supervisor.items.start([*before.publications, *before.subscriptions], follow=True)
        questions = [
            asyncio.create_task(once.sync(supervisor, names=[name], timeout=3600, offline_ok=False))
            for name in ("files", "pub", "sub")
        ]
        await asyncio.sleep(0.3)
        await supervisor.reconfigure(compare(before, after))
        answers = await asyncio.gather(*questions)
        assert supervisor.items.status() == ()
        assert (await supervisor.status()).mappings == ()

    for answer in answers:
        (report,) = answer["mappings"] + answer["snapshots"]
        assert report["state"] == "failed"
        assert "was stopped meanwhile" in report["errors"][0]


async def test_what_is_changed_is_another_one_and_what_is_not_is_the_same(tmp_path: Path):
    changed = {
        **ITEMS,
        "mappings": [*ITEMS["mappings"], {"name": "more", "directory": "./more", "bucket": "b", "prefix": "m/"}],
    }
    changed["mappings"] = [{**entry, "prefix": entry.get("prefix", "p/")} for entry in changed["mappings"]]
    kept = {"name": "kept", "directory": "./tree", "bucket": "c"}
    before = config_of(tmp_path, **{**ITEMS, "publications": [], "mappings": [*ITEMS["mappings"], kept]})
    after = config_of(tmp_path, **{**changed, "publications": [], "mappings": [*changed["mappings"], kept]})
    async with asyncio.timeout(PATIENCE), Supervisor(before) as supervisor:
        supervisor.start_mappings(before.mappings)
        old = dict(zip(("files", "kept"), supervisor.mappings(["files", "kept"]), strict=True))
        await supervisor.reconfigure(compare(before, after))
        files, kept_one, more = supervisor.mappings(["files", "kept", "more"])

        assert files is not old["files"] and files.config.prefix == "p/"
        assert files.record is not old["files"].record, "another prefix is another place"
        assert kept_one is old["kept"]
        assert more.config.name == "more"
        again = compare(
            after,
            config_of(
                tmp_path,
                **{
                    **changed,
                    "publications": [],
                    "mappings": [{**entry, "settle": "1s"} for entry in changed["mappings"]],
                },
            ),
        )
        await supervisor.reconfigure(again)
        (later,) = supervisor.mappings(["files"])
        assert later.record is files.record
        assert supervisor.readiness().started


async def test_a_mapping_that_is_changed_is_told_of_until_its_successor_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Something else that takes long to end doesn't make a mapping that had converged look as if it never had."""
    mapping = {"name": "files", "directory": "./files", "bucket": "b"}
    before = config_of(tmp_path, mappings=[mapping])
    after = config_of(tmp_path, mappings=[{**mapping, "settle": "1s"}])
    metrics = Metrics()
    async with asyncio.timeout(PATIENCE), Supervisor(before, metrics=metrics) as supervisor:
        supervisor.start_mappings(before.mappings)
        (old,) = supervisor.mappings(["files"])
        ending = supervisor._tasks["mapping files"]
        await old.converged_before()
        old.record.converged_at = time.time()
        old.record.metrics.show(replace(await old.status(), conflicts=3))
        stop = supervisor.items.stop

        async def slow(*args: Any, **options: Any) -> None:
            await stop(*args, **options)
            await asyncio.wait([ending])
            await asyncio.sleep(0.1)
            await supervisor.gauges.show()
            seen.append((supervisor.readiness(), metrics.render().decode()))

        seen: list[tuple[Readiness, str]] = []
        monkeypatch.setattr(supervisor.items, "stop", slow)
        await supervisor.reconfigure(compare(before, after))
        ((readiness, series),) = seen
        monkeypatch.undo()

    assert ready(check(readiness, "once"))
    assert 'jetsync_mapping_conflicts{mapping="files"} 3.0' in series
