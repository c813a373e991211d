"""The status as JSON and back."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.core.entries import Reason
from agent.observe.reasons import ErrorReason
from agent.observe.status import (
    PROBLEMS_SHOWN,
    AgentStatus,
    ConfigStatus,
    Halt,
    LastError,
    MappingStatus,
    NatsStatus,
    Pending,
    Problem,
    State,
    Tree,
    seconds,
    timestamp,
)

ROOT = Path(__file__).parents[2]
NOW = 1_790_000_000.25

BUSY = MappingStatus(
    name="inbox",
    directory="/srv/inbox",
    bucket="inbox",
    prefix="in/",
    mode="two-way",
    state=State.HALTED,
    since=NOW,
    sentence="halted: 12 files would be deleted",
    converged=True,
    local=Tree(objects=3, bytes=300),
    remote=Tree(objects=15, bytes=1500),
    pending=Pending(objects=12, bytes=1200, since=NOW - 60),
    conflicts=1,
    diverged=2,
    problems={"unreadable": 1},
    problem_paths=(Problem("a\udcff", "unreadable", "chmod it"),),
    skipped={"socket": 4},
    halt=Halt("max_delete", "12 of 15 files", "jetsync approve inbox", since=NOW),
    last_success=NOW - 3600,
    last_error=LastError("unavailable", "no answer", "wait", at=NOW - 1),
    watch="poll",
    watch_detail="fs.inotify.max_user_watches is reached",
)
FRESH = MappingStatus(name="fresh", directory="/srv/fresh", bucket="fresh", mode="push-safe")
STATUS = AgentStatus(
    name="edge-1",
    version="0.1.0",
    pid=42,
    started=NOW - 7200,
    config="/etc/jetsync/config.yaml",
    nats=NatsStatus(True, "nats://edge:secret@hub:4222", "2.12.1", 0.004, 2),
    mappings=(BUSY, FRESH),
    loaded=ConfigStatus(NOW, "0123", "config.yaml:1:1: no", ("name",)),
)


def test_the_status_survives_json() -> None:
    assert AgentStatus.from_json(json.loads(json.dumps(STATUS.to_json()))) == STATUS


def test_the_json_has_a_version_times_as_text_and_null_where_there_is_nothing() -> None:
    value = STATUS.to_json()
    assert value["version"] == 1
    assert value["agent"] == {
        "name": "edge-1",
        "version": "0.1.0",
        "pid": 42,
        "started": "2026-09-21T12:13:20.250Z",
        "config": "/etc/jetsync/config.yaml",
    }
    busy, fresh = value["mappings"]
    assert busy["since"] == "2026-09-21T14:13:20.250Z"
    assert busy["halt"]["reason"] == "max_delete"
    assert busy["problem_paths"] == [{"path": "a\udcff", "reason": "unreadable", "remedy": "chmod it"}]
    assert fresh["state"] == "starting"
    assert (fresh["halt"], fresh["last_success"], fresh["last_error"]) == (None, None, None)
    assert fresh["pending"] == {"objects": 0, "bytes": 0, "since": None}
    assert set(fresh) == {each.name for each in fields(MappingStatus)}


def schema() -> dict[str, Any]:
    page: dict[str, Any] = json.loads((ROOT / "docs/json/status.schema.json").read_text())
    return page


def test_the_json_is_as_the_published_schema_says() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(json.loads(json.dumps(STATUS.to_json())), schema())


def test_the_schema_names_every_key_and_the_closed_lists_of_the_code() -> None:
    parts = schema()["$defs"]
    mapping = parts["mapping"]["properties"]
    for part, kind in ("mapping", MappingStatus), ("tree", Tree), ("halt", Halt), ("error", LastError):
        assert set(parts[part]["properties"]) == {each.name for each in fields(kind)}
    assert set(schema()["properties"]["nats"]["properties"]) == {each.name for each in fields(NatsStatus)}
    assert mapping["state"]["enum"] == list(State)
    assert mapping["problems"]["propertyNames"]["enum"] == [reason for reason in Reason if not reason.skipped]
    assert mapping["skipped"]["propertyNames"]["enum"] == [reason for reason in Reason if reason.skipped]
    assert parts["error"]["properties"]["reason"]["enum"] == list(ErrorReason)
    assert mapping["problem_paths"]["maxItems"] == PROBLEMS_SHOWN


def test_the_server_is_shown_without_secrets() -> None:
    assert STATUS.nats.server == "nats://***@hub:4222"
    assert "secret" not in json.dumps(STATUS.to_json())


def test_what_a_newer_agent_adds_is_read_past() -> None:
    value = STATUS.to_json()
    value["snapshots"] = []
    value["agent"]["mood"] = "good"
    value["mappings"][0]["speed"] = 7
    value["mappings"][0]["halt"]["colour"] = "red"
    assert AgentStatus.from_json(value) == STATUS


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"version": 2},
        {"version": 1},
        {"version": 1, "agent": {}, "nats": {}, "mappings": []},
        {"version": 1, "agent": 7},
    ],
)
def test_what_is_no_status_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="status"):
        AgentStatus.from_json(value)


def test_times_are_rfc_3339_in_utc_and_none_stays_none() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert seconds("1970-01-01T00:00:01.500Z") == 1.5
    assert timestamp(None) is None
    assert seconds(None) is None
