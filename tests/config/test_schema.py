"""config.schema.json is fresh, is a schema, and says what the loader says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from agent.config.load import from_dict, load
from agent.config.schema import json_schema, render
from agent.config.show import values
from agent.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    return Draft7Validator(json_schema())


def test_the_file_in_the_repository_is_the_schema_of_the_model():
    """`jetsync config schema > config.schema.json` makes it fresh."""
    assert (ROOT / "config.schema.json").read_text() == render()


def test_it_is_a_schema():
    Draft7Validator.check_schema(json_schema())


def test_every_key_is_described():
    def undescribed(section: dict[str, Any]) -> Iterator[str]:
        yield from (key for key, value in section["properties"].items() if not value.get("description"))

    made = json_schema()
    sections = [made, *(section for section in made["definitions"].values() if "properties" in section)]

    assert [key for section in sections for key in undescribed(section)] == []


def test_the_example_is_valid_and_names_the_schema(schema: Draft7Validator):
    text = EXAMPLE.read_text()

    assert text.splitlines()[0] == "# yaml-language-server: $schema=config.schema.json"
    assert [error.message for error in schema.iter_errors(yaml.safe_load(text))] == []


def test_the_effective_configuration_is_valid(schema: Draft7Validator):
    shown = values(load(EXAMPLE, environ={}))

    assert [error.message for error in schema.iter_errors(shown)] == []


BASE: dict[str, Any] = {
    "version": 1,
    "nats": {"servers": ["nats://h"]},
    "buckets": {"b": {}},
    "mappings": [{"name": "m", "directory": "m", "bucket": "b"}],
    "publications": [{"name": "p", "directory": "p", "repository": "r", "channel": "c"}],
    "subscriptions": [{"name": "s", "directory": "s", "repository": "r", "channel": "c"}],
}
REMOVE = object()

# (way to a value, a value): the loader decides whether it is good.
VALUES: list[tuple[str, Any]] = [
    ("version", 1),
    ("version", 2),
    ("version", "1"),
    ("version", REMOVE),
    ("unknown", 1),
    ("name", "x"),
    ("name", ""),
    ("name", 5),
    ("name", None),
    ("state_dir", "s"),
    ("state_dir", ["s"]),
    ("http", False),
    ("http", True),
    ("http", None),
    ("http", {"listen": "0.0.0.0:0"}),
    ("http", {"listen": "[::1]:80"}),
    ("http", {"listen": ":80"}),
    ("http", {"listen": 80}),
    ("http", {"ready": "later"}),
    ("log", {"level": "debug"}),
    ("log", {"level": "loud"}),
    ("nats", {}),
    ("nats", None),
    ("nats", REMOVE),
    ("nats", {"servers": []}),
    ("nats", {"servers": ["http://h"]}),
    ("nats", {"servers": "nats://h"}),
    ("nats", {"servers": ["wss://h:443/x"], "domain": "hub"}),
    ("nats", {"servers": ["nats://h"], "domain": "a.b"}),
    ("nats", {"servers": ["nats://h"], "embedded": {"store_dir": "n"}}),
    ("nats", {"servers": ["nats://h"], "embedded": None}),
    ("nats", {"servers": [], "embedded": {"store_dir": "n", "port": 0}}),
    ("nats", {"embedded": {"store_dir": "n", "port": 70000}}),
    ("nats", {"embedded": {"port": 0}}),
    ("nats", {"embedded": {"store_dir": "n"}, "token_file": "t"}),
    ("nats", {"servers": ["nats://h"], "user": "u"}),
    ("nats", {"servers": ["nats://h"], "password_file": "u"}),
    ("nats", {"servers": ["nats://h"], "user": "u", "password_file": "p"}),
    ("nats", {"servers": ["nats://h"], "user": "u", "password_file": None}),
    ("nats", {"servers": ["nats://h"], "user": "u", "password_file": "p", "token_file": "t"}),
    ("nats", {"servers": ["nats://h"], "credentials_file": "c", "nkey_seed_file": "n"}),
    ("nats", {"servers": ["nats://h"], "credentials_file": "c", "nkey_seed_file": None}),
    ("nats", {"servers": ["nats://h"], "tls": {"cert_file": "c"}}),
    ("nats", {"servers": ["nats://h"], "tls": {"cert_file": "c", "key_file": "k"}}),
    ("buckets", None),
    ("buckets", []),
    ("buckets.b", None),
    ("buckets.b", []),
    ("buckets.bad name", {}),
    ("buckets.b.storage", "tape"),
    ("buckets.b.replicas", 3),
    ("buckets.b.replicas", 0),
    ("buckets.b.replicas", True),
    ("buckets.b.max_bytes", 5),
    ("buckets.b.max_bytes", "5GiB"),
    ("buckets.b.max_bytes", "5G"),
    ("buckets.b.max_bytes", -5),
    ("buckets.b.max_bytes", None),
    ("buckets.b.ttl", 0),
    ("buckets.b.ttl", 5),
    ("buckets.b.ttl", "1h30m"),
    ("buckets.b.ttl", "1h 30m"),
    ("buckets.b.compression", "yes"),
    ("buckets.b.compression", True),
    ("buckets.b.description", ""),
    ("buckets.b.metadata", {"a": "b"}),
    ("buckets.b.metadata", {"a": 1}),
    ("buckets.b.metadata", {"_nats.a": "b"}),
    ("buckets.b.metadata", {"": "b"}),
    ("buckets.b.placement", {"cluster": "c", "tags": ["a"]}),
    ("buckets.b.placement", {"tags": "a"}),
    ("buckets.c", {"mirror": {}}),
    ("buckets.c", {"mirror": {"bucket": "o"}}),
    ("mappings", None),
    ("mappings", {}),
    ("mappings", [None]),
    ("mappings.0.name", REMOVE),
    ("mappings.0.name", "a b"),
    ("mappings.0.bucket", "a.b"),
    ("mappings.0.prefix", ""),
    ("mappings.0.prefix", "a/b/"),
    ("mappings.0.prefix", "a"),
    ("mappings.0.prefix", "/a/"),
    ("mappings.0.prefix", "a//"),
    ("mappings.0.mode", "push-safe"),
    ("mappings.0.mode", "push"),
    ("mappings.0.conflicts", "newer"),
    ("mappings.0.conflicts", "older"),
    ("mappings.0.exclude", ["*.tmp", "!a"]),
    ("mappings.0.exclude", ["#a"]),
    ("mappings.0.exclude", "*.tmp"),
    ("mappings.0.file_mode", "0640"),
    ("mappings.0.file_mode", "640"),
    ("mappings.0.file_mode", "rw"),
    ("mappings.0.file_mode", 640),
    ("mappings.0.watch", False),
    ("mappings.0.watch", True),
    ("mappings.0.watch", "poll"),
    ("mappings.0.watch", "off"),
    ("mappings.0.max_delete", "50%"),
    ("mappings.0.max_delete", 100),
    ("mappings.0.max_delete", "100"),
    ("mappings.0.max_delete", 0.5),
    ("mappings.0.transfers", 0),
    ("mappings.0.transfers", 2000),
    ("mappings.0.limits", {"upload": "1MiB"}),
    ("mappings.0.limits", {"upload": "1MiB/s"}),
    ("mappings.0.limits", None),
    ("mappings.0.nonsense", 1),
    ("publications.0.directory", REMOVE),
    ("publications.0.bucket", "b"),
    ("publications.0.prefix", "a/"),
    ("publications.0.prefix", ""),
    ("publications.0.trigger", "on-change"),
    ("publications.0.trigger", "sometimes"),
    ("publications.0.keep", 0),
    ("publications.0.channel", "a/b"),
    ("subscriptions.0.channel", REMOVE),
    ("subscriptions.0.snapshot", "20240102T030405Z-0123456789ab"),
    ("subscriptions.0.trusted_publishers", ["x"]),
    ("subscriptions.0.before", "x"),
    ("subscriptions.0.before", ["x"]),
    ("subscriptions.0.before", [["x", ""], "y"]),
    ("subscriptions.0.after", [[]]),
    ("subscriptions.0.webhook", "https://h"),
    ("subscriptions.0.webhook", "h"),
]


def changed(path: str, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(BASE)
    *parents, last = path.split(".")
    place: Any = made
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is REMOVE:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(("path", "value"), VALUES)
def test_the_schema_and_the_loader_agree(schema: Draft7Validator, path: str, value: Any):
    made = changed(path, value)
    problems: tuple[object, ...] = ()
    try:
        from_dict(made, base=Path("/base"))
    except ConfigError as error:
        problems = error.problems
    errors = [error.message for error in schema.iter_errors(made)]

    assert bool(errors) == bool(problems), (problems, errors)


def test_the_list_above_has_both_good_and_bad_values(schema: Draft7Validator):
    good = [path for path, value in VALUES if schema.is_valid(changed(path, value))]

    assert len(VALUES) / 4 < len(good) < len(VALUES) * 3 / 4


@pytest.mark.parametrize(
    "path",
    [
        "version",
        "http.listen",
        "log.level",
        "buckets.b.replicas",
        "buckets.b.compression",
        "buckets.b.ttl",
        "buckets.b.max_bytes",
        "mappings.0.name",
        "mappings.0.mode",
        "mappings.0.watch",
        "mappings.0.max_delete",
        "mappings.0.file_mode",
        "mappings.0.directory",
        "subscriptions.0.webhook",
    ],
)
def test_a_variable_may_stand_for_any_single_value(schema: Draft7Validator, path: str):
    made = changed("http", {})
    made["log"] = {}
    *parents, last = path.split(".")
    place: Any = made
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[last] = "${VALUE:-x}"

    assert schema.is_valid(made)
    place[last] = "$${VALUE}"
    assert schema.is_valid(made) == (last == "directory")
