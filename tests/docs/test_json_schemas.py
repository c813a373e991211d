"""The published schemas of `--json` say what the code says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.core.entries import Reason
from agent.core.plan import Verb
from agent.sync.verify import DAMAGED, FAILED, OK, REPAIRED, VerifyReport
from tests.support.agent import SCHEMAS


def schema(command: str) -> dict[str, Any]:
    page: dict[str, Any] = json.loads((SCHEMAS / f"{command}.schema.json").read_text())
    return page


def mapping(command: str) -> dict[str, Any]:
    properties: dict[str, Any] = schema(command)["$defs"]["mapping"]["properties"]
    return properties


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.schema.json")), ids=lambda path: path.name)
def test_each_schema_is_a_valid_schema(path: Path):
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize("command", ["sync", "plan", "status", "conflicts", "resolve", "verify", "trash"])
def test_every_command_that_the_operations_page_names_has_its_schema(command: str):
    assert schema(command)["title"].startswith(f"jetsync {command}")


def test_the_actions_of_resolve_are_verbs_of_the_planner():
    action = schema("resolve")["properties"]["actions"]["items"]["properties"]["action"]

    assert {verb.value for verb in Verb} >= set(action["enum"])


def test_the_states_of_verify_are_those_of_the_code():
    properties = schema("verify")["properties"]["mappings"]["items"]["properties"]

    assert properties["state"]["enum"] == [OK, DAMAGED, REPAIRED, FAILED]
    assert set(properties) == {*VerifyReport("x").as_json(), "exit_code"}


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_problems_and_skips_are_the_closed_lists_of_the_code(command: str):
    properties = mapping(command)

    problems = properties["problems"]["items"]["properties"]["reason"]["enum"]
    assert problems == [reason.value for reason in Reason if not reason.skipped]
    assert properties["skipped"]["propertyNames"]["enum"] == [reason.value for reason in Reason if reason.skipped]


def test_actions_of_a_plan_are_the_verbs_of_the_planner():
    action = mapping("plan")["actions"]["items"]["properties"]["action"]

    assert set(action["enum"]) == {verb.value for verb in Verb}
