"""What the chart has from elsewhere is fresh, and its table of values has every value."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.charts import merged

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "jetsync"
VALUES = [CHART / "values.yaml", *sorted((CHART / "ci").glob("*-values.yaml"))]


def leaves(values: dict[str, Any], *above: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, *above, key)
        else:
            yield ".".join((*above, key))


def test_schema_table_alerts_and_dashboard_of_the_chart_are_what_they_are_made_from():
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "chart.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr


def test_every_value_has_a_line_in_the_table_of_its_own_or_of_what_it_belongs_to():
    table = [line.split("`")[1] for line in (CHART / "README.md").read_text().splitlines() if line.startswith("| `")]
    missing = [
        leaf
        for leaf in leaves(yaml.safe_load((CHART / "values.yaml").read_text()))
        if not any(leaf == key or leaf.startswith(f"{key}.") for key in table if key != "config")
    ]

    assert missing == ["config.version"]


def test_the_schema_knows_exactly_the_values_that_there_are():
    schema = yaml.safe_load((CHART / "values.schema.in.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert set(schema["properties"]) == set(values)
    for key, value in values.items():
        known = schema["properties"][key].get("properties")
        if known is not None and isinstance(value, dict) and key != "resources":
            assert set(value) <= set(known), key


def test_the_schema_is_one_that_helm_can_read():
    """It is in draft 7, and its patterns are for Go, which has nothing that looks ahead or behind."""
    text = (CHART / "values.schema.json").read_text()

    jsonschema.Draft7Validator.check_schema(json.loads(text))
    assert "(?" not in text


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_the_schema_takes_the_defaults_and_every_feature(path: Path):
    validator = jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    values = merged(defaults, yaml.safe_load(path.read_text()))

    # Helm looks at them when defaults are filled in and a null has taken its key away.
    errors = [error for error in validator.iter_errors(values) if error.instance is not None]
    assert [f"{list(error.absolute_path)}: {error.message}" for error in errors] == []
