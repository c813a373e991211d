"""The published schemas of `--json` say what the code says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from agent.core.entries import Reason
from agent.core.plan import Verb
from tests.support.agent import SCHEMAS


def schema(command: str) -> dict[str, Any]:
    page: dict[str, Any] = json.loads((SCHEMAS / f"{command}.schema.json").read_text())
    return page


def mapping(command: str) -> dict[str, Any]:
    properties: dict[str, Any] = schema(command)["$defs"]["mapping"]["properties"]
    return properties


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_each_schema_is_a_valid_schema(command: str):
    jsonschema.Draft202012Validator.check_schema(schema(command))


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_problems_and_skips_are_the_closed_lists_of_the_code(command: str):
    properties = mapping(command)

    problems = properties["problems"]["items"]["properties"]["reason"]["enum"]
    assert problems == [reason.value for reason in Reason if not reason.skipped]
    assert properties["skipped"]["propertyNames"]["enum"] == [reason.value for reason in Reason if reason.skipped]


def test_actions_of_a_plan_are_the_verbs_of_the_planner():
    action = mapping("plan")["actions"]["items"]["properties"]["action"]

    assert set(action["enum"]) == {verb.value for verb in Verb}
