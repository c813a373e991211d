"""What the chart hands to the Prometheus operator and Grafana is what deploy/ has, and finds what the agent serves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.charts import ROOT, load_values, merged, render

ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]


def rules(feature: str, **values: Any) -> list[dict[str, Any]]:
    (group,) = render(merged(load_values(feature), values)).one("PrometheusRule")["spec"]["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def without_url(rule: dict[str, Any]) -> dict[str, Any]:
    return {**rule, "annotations": {**rule["annotations"], "runbook_url": ""}}


def test_the_rule_has_the_alerts_of_deploy():
    made = rules("pod-monitor", nameOverride="")

    assert made == ALERTS


def test_alerts_get_a_runbook_that_can_be_opened_more_labels_and_more_rules_and_can_be_left_out():
    made = rules("monitoring")
    names = [rule["alert"] for rule in ALERTS if rule["alert"] != "JetsyncDiskWillFill"]

    assert [rule["alert"] for rule in made] == [*names, "JetsyncMany"]
    for rule in made[:-1]:
        assert rule["annotations"]["runbook_url"].startswith("https://example.com/jetsync/docs/operations.md#jetsync")
        assert rule["labels"]["team"] == "platform"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_under_another_name_the_alerts_ask_for_the_job_that_the_agents_then_have():
    release = render(load_values("pod-monitor"))
    (down,) = [rule for rule in rules("pod-monitor") if rule["alert"] == "JetsyncDown"]
    label = release.one("PodMonitor")["spec"]["jobLabel"]

    assert release.pod["metadata"]["labels"][label] == "mirror"
    assert 'job="mirror"' in down["expr"]
    assert "jetsync" not in down["expr"]


def test_the_service_monitor_scrapes_the_port_of_the_service_under_the_job_of_the_alerts():
    release = render(load_values("monitoring"))
    monitor, service = release.one("ServiceMonitor"), release.one("Service")
    (endpoint,) = monitor["spec"]["endpoints"]
    given = load_values("monitoring")["serviceMonitor"]

    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "jetsync"
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert endpoint["path"] == "/metrics"
    for key in ("interval", "scrapeTimeout", "honorLabels", "relabelings", "metricRelabelings"):
        assert endpoint[key] == given[key]
    assert monitor["metadata"]["namespace"] == "monitoring"
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_the_headless_service_of_a_stateful_set_is_not_scraped_a_second_time():
    release = render(merged(load_values("statefulset"), {"serviceMonitor": {"enabled": True}}))
    selector = release.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    found = [service for service in release.all("Service") if selector.items() <= service["metadata"]["labels"].items()]

    assert len(release.all("Service")) == 2
    assert len(found) == 1


def test_the_pod_monitor_scrapes_the_port_of_the_container():
    release = render(load_values("pod-monitor"))
    (endpoint,) = release.one("PodMonitor")["spec"]["podMetricsEndpoints"]

    assert endpoint["port"] in [port["name"] for port in release.container["ports"]]
    assert release.all("Service") == []


def test_the_dashboard_is_that_of_deploy_where_the_sidecar_looks_for_it():
    found = render(load_values("monitoring")).one("ConfigMap", "demo-jetsync-dashboard")

    assert json.loads(found["data"]["jetsync.json"]) == json.loads(
        (ROOT / "deploy" / "grafana" / "dashboard.json").read_text()
    )
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"]["grafana_folder"] == "NATS"


def test_nothing_of_it_is_there_unless_asked_for():
    kinds = {found["kind"] for found in render(load_values("deployment")).objects}

    assert kinds == {"ConfigMap", "Deployment", "PersistentVolumeClaim", "Pod", "Service", "ServiceAccount"}


@pytest.mark.parametrize("feature", ["monitoring", "pod-monitor"])
def test_promtool_accepts_the_rule(feature: str, tmp_path: Path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: package prometheus)")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(render(load_values(feature)).one("PrometheusRule")["spec"]))

    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_of_the_alerts_hold_for_the_rule_of_the_chart(tmp_path: Path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: package prometheus)")
    values = merged(load_values("pod-monitor"), {"nameOverride": ""})
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(render(values).one("PrometheusRule")["spec"]))
    tests = (ROOT / "deploy" / "prometheus" / "alerts_test.yaml").read_text()
    assert re.search(r"^rule_files: \[alerts.yaml\]$|^  - alerts.yaml$", tests, re.MULTILINE)
    (tmp_path / "alerts_test.yaml").write_text(tests)

    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "alerts_test.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
