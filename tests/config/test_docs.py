"""docs/configuration.md and config.example.yaml name every key of the model, with its default."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config.load import load
from agent.config.model import Config, Section
from agent.config.validate import sections_of

ROOT = Path(__file__).parents[2]


def sections() -> dict[str, type[Section]]:
    """ "mappings[].limits" -> Limits, for all sections."""
    return {"": Config} | _below("", Config)


def _below(name: str, model: type[Section]) -> dict[str, type[Section]]:
    found: dict[str, type[Section]] = {}
    for key, (inner, many) in sections_of(model).items():
        suffix = ("NAME" if key == "buckets" else "[]") if many else ""
        full = ".".join(part for part in (name, key) if part) + (f".{suffix}" if suffix == "NAME" else suffix)
        found[full] = inner
        found |= _below(full, inner)
    return found


def default_of(model: type[Section], key: str) -> str:
    info = model.model_fields[key]
    if info.is_required():
        return "required"
    if info.default_factory is not None:
        return "host name"
    value: Any = info.default
    if value is None:
        return "none"
    if isinstance(value, Section):
        return "`{}`"
    if isinstance(value, (tuple, list)):
        return "`[]`"
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def documented() -> dict[str, dict[str, str]]:
    """Section -> key -> default, from the tables of docs/configuration.md."""
    found: dict[str, dict[str, str]] = {}
    name = None
    for line in (ROOT / "docs" / "configuration.md").read_text().splitlines():
        heading = re.match(r"#+ .*?(?:`([^`]+)`)?$", line)
        if line.startswith("#") and heading:
            name = heading[1]
            if line == "## The top level":
                name = ""
        row = re.match(r"\| `([a-z_]+)` \| [^|]+ \| ([^|]+) \| .+ \|$", line)
        if row and name is not None:
            found.setdefault(name, {})[row[1]] = row[2].strip()
    return found


def test_every_section_has_its_table():
    assert set(documented()) == set(sections())


@pytest.mark.parametrize("name", sorted(sections()))
def test_every_key_has_its_row_with_its_default(name: str):
    model = sections()[name]

    assert documented()[name] == {key: default_of(model, key) for key in model.model_fields}


def test_the_example_is_valid():
    load(ROOT / "config.example.yaml", environ={})


def test_the_example_has_every_key_set_or_in_a_comment():
    text = (ROOT / "config.example.yaml").read_text()
    missing = [
        f"{name}.{key}"
        for name, model in sections().items()
        for key in model.model_fields
        if not re.search(rf"(^|[\s{{#]){key}:", text, re.MULTILINE)
    ]

    assert missing == []


def test_the_example_shows_the_defaults_of_a_mapping():
    values = yaml.safe_load((ROOT / "config.example.yaml").read_text())
    config = load(ROOT / "config.example.yaml", environ={})
    (first,) = [mapping for mapping in config.mappings if mapping.name == "inbox"]
    set_there = set(values["mappings"][0]) - {"name", "directory", "bucket", "prefix", "exclude"}
    bare = type(first).model_validate({"name": "inbox", "directory": str(first.directory), "bucket": "inbox"})

    assert {key: getattr(first, key) for key in set_there} == {key: getattr(bare, key) for key in set_there}
    assert len(set_there) > 15
