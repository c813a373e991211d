"""The alerts and the dashboard ask for what the agent exports, and say what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agent.core.entries import Mode
from agent.observe.metrics import Metrics

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
ALERTS_TEST = ROOT / "deploy" / "prometheus" / "alerts_test.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"

# Labels that a scrape adds, and the one metric that is Prometheus' own.
SCRAPED = {"job", "instance"}
OWN = {"up"}

SELECTOR = re.compile(r"\b(up|jetsync_\w+|process_\w+|python_\w+)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!=|!~|=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def exported() -> dict[str, list[dict[str, str]]]:
    """Name of a series -> the label sets that it has, of an agent with one of everything."""
    metrics = Metrics("1")
    metrics.mapping("m", bucket="b", mode=Mode.TWO_WAY)
    metrics.config_in_force("0123")
    for kind in ("publication", "subscription"):
        metrics.snapshots(kind, kind)
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    found["jetsync_snapshot_info"] = [{"kind": "publication", "name": "p", "snapshot": "id"}]  # there with the first
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions() -> dict[str, str]:
    """What is asked for, by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel.get("targets", []):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable {variable['name']}"] = variable["query"]["query"]
    return found


EXPRESSIONS = expressions()


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_name_and_label_is_one_that_the_agent_exports(where: str):
    known = exported()
    expression = EXPRESSIONS[where]
    used = SELECTOR.findall(expression)

    assert used, expression
    for name, matchers in used:
        if name in OWN:
            continue
        assert name in known, f"{where}: {name} isn't exported"
        fitting = known[name]
        for label, operator, value in MATCHER.findall(matchers):
            if label in SCRAPED or value.startswith("$"):
                assert label in SCRAPED or label in fitting[0], f"{where}: {name} has no label {label}"
                continue
            assert operator in ("=", "=~"), f"{where}: only what is wanted is named"
            pattern = re.compile(value if operator == "=~" else re.escape(value))
            for part in value.split("|"):
                assert any(labels.get(label) == part for labels in fitting), f"{where}: no {name} has {label}={part!r}"
            fitting = [labels for labels in fitting if pattern.fullmatch(labels.get(label, ""))]
    labels = SCRAPED | {"le"} | {label for name, _ in used for found in known.get(name, []) for label in found}
    for group in GROUPING.findall(expression):
        assert {label.strip() for label in group.split(",") if label.strip()} <= labels, where


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_where_to_read_on(rule: dict[str, Any]):
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert f"\n### {rule['alert']}\n" in (ROOT / page).read_text()
    assert anchor == rule["alert"].lower()


def test_every_alert_has_a_test_in_which_it_fires():
    fired = {
        case["alertname"]
        for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }

    assert fired == {rule["alert"] for rule in rules()}


def test_every_alert_has_a_paragraph_and_every_paragraph_an_alert():
    told = re.findall(r"^### (Jetsync\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)

    assert sorted(told) == sorted(rule["alert"] for rule in rules())


def test_the_dashboard_is_bound_to_no_data_source_and_every_panel_has_an_id_of_its_own():
    dashboard = json.loads(DASHBOARD.read_text())
    sources = re.findall(r'"uid": "([^"]*)"', DASHBOARD.read_text())
    ids = [panel["id"] for panel in panels()]

    assert dashboard["uid"] == "jetsync"
    assert set(sources) == {"jetsync", "${datasource}"}
    assert len(ids) == len(set(ids))
    assert "id" not in dashboard, "it is new where it is imported"


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not here (Debian: package prometheus)")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_alerts_and_their_tests_pass(promtool: str):
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    run(promtool, "test", "rules", ALERTS_TEST)


def test_promtool_accepts_every_expression_of_the_dashboard(promtool: str, tmp_path: Path):
    made = [
        {"record": f"test:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (where, expression) in enumerate(EXPRESSIONS.items())
        if where.startswith("panel")
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    run(promtool, "check", "rules", path)
