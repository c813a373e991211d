"""The chart renders, for every values file, into objects that Kubernetes takes and that fit together."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.charts import (
    CHART,
    NAMESPACE,
    RELEASE,
    ROOT,
    VALUES_FILES,
    Object,
    Release,
    documents,
    load_values,
    merged,
    refusal,
    render,
    require_helm,
)
from tests.support.kubernetes import refusals, versions

FEATURES = [path.name.removesuffix("-values.yaml") for path in VALUES_FILES]
every_feature = pytest.mark.parametrize("feature", FEATURES)

# Where Kubernetes limits a name to 63 characters of a label.
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def rendered(feature: str) -> Release:
    return render(load_values(feature))


# -- what Helm and Kubernetes say ------------------------------------------------------------------------------------


@every_feature
def test_kubernetes_takes_every_object_in_all_its_versions(feature: str):
    objects = rendered(feature).objects

    for version in versions():
        for found in objects:
            assert refusals(found, version) == [], f"{found['kind']} in {version}"


@pytest.mark.parametrize("kind", ["Deployment", "ServiceMonitor", "PodMonitor", "PrometheusRule"])
def test_a_field_that_kubernetes_does_not_know_would_be_found(kind: str):
    feature = {"PodMonitor": "pod-monitor"}.get(kind, "monitoring")
    found = rendered(feature).one(kind)

    assert refusals(found, "1.28") == []
    found["spec"]["unheard"] = True
    assert refusals(found, "1.28") != []


@every_feature
def test_helm_lint_has_nothing_to_say(feature: str):
    require_helm()
    from helm_python.chart import lint

    report = lint(CHART, load_values(feature), strict=True)

    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] >= 2] == []


@pytest.mark.skipif(shutil.which("helm") is None, reason="the helm command isn't here")
@every_feature
def test_the_helm_command_makes_the_same_of_it(feature: str):
    values = CHART / "ci" / f"{feature}-values.yaml"
    by_command = helm("template", RELEASE, str(CHART), "--kube-version", "1.28", "-n", NAMESPACE, "-f", str(values))
    helm("lint", str(CHART), "--strict", "--kube-version", "1.28", "-f", str(values))

    def in_order(objects: list[Object]) -> list[str]:
        return sorted(yaml.safe_dump(found) for found in objects)

    assert in_order(documents(by_command)) == in_order(rendered(feature).objects)


def helm(*arguments: str) -> str:
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_upgrade_renders_what_an_install_does():
    for feature in ("deployment", "statefulset"):
        assert render(load_values(feature), upgrade=True) == rendered(feature)


def test_the_package_has_what_the_templates_read_and_nothing_else(tmp_path: Path):
    require_helm()
    from helm_python.chart import Chart, package

    archive = package(CHART, destination=tmp_path)
    with tarfile.open(archive) as file:
        names = {name.removeprefix("jetsync/") for name in file.getnames()}

    assert {"files/alerts.yaml", "files/dashboard.json", "values.schema.json", "README.md"} <= names
    assert [name for name in names if name.startswith("ci/") or ".in." in name] == []
    values = load_values("monitoring")
    texts = Chart.load(archive).render(values, name=RELEASE, namespace=NAMESPACE)
    packed = [found for name in sorted(texts) if name.endswith("yaml") for found in documents(texts[name])]
    assert packed == rendered("monitoring").objects


def test_every_ci_file_is_one_feature_that_says_what_it_is_about():
    for path in VALUES_FILES:
        assert path.read_text().startswith("# "), path.name


@pytest.mark.parametrize("page", ["docs/kubernetes.md", "charts/jetsync/README.md"])
def test_the_values_that_a_page_shows_make_a_release(page: str):
    (block,) = re.findall(r"```yaml\n(# values.yaml\n.*?)```", (ROOT / page).read_text(), re.DOTALL)
    release = render(yaml.safe_load(block))

    assert release.workload["metadata"]["name"] == "demo-jetsync"
    assert release.config().mappings[0].name == "inbox"


def test_the_refusal_that_the_page_shows_is_what_helm_says():
    (block,) = re.findall(r"```\n(These values.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)
    values = {**load_values("deployment"), "nats": {}, "volumes": {}}

    assert block.strip() in refusal(values)


def test_the_chart_asks_the_cluster_for_nothing():
    """Its objects follow from its values alone: `helm template` renders what `helm install` applies."""
    for path in (CHART / "templates").rglob("*.*"):
        assert re.search(r"\.Capabilities|\blookup\b", path.read_text()) is None, path.name


def test_versions_of_chart_and_program_are_the_same():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])

    assert project is not None
    assert chart["appVersion"] == project[1]
    assert [image["image"] for image in images] == [f"jetsync:{project[1]}"]
    for name in ("links", "changes"):
        assert yaml.safe_load(chart["annotations"][f"artifacthub.io/{name}"])


# -- objects that fit together ---------------------------------------------------------------------------------------


@every_feature
def test_every_object_has_the_common_labels_and_a_namespace(feature: str):
    values = load_values(feature)
    for found in rendered(feature).objects:
        if found["metadata"]["name"].endswith("extra"):
            continue  # the user's own
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        namespace = values.get("namespaceOverride", NAMESPACE)
        elsewhere = (values.get("serviceMonitor") or {}).get("namespace")
        assert found["metadata"]["namespace"] in (
            {namespace, elsewhere} if found["kind"] == "ServiceMonitor" else {namespace}
        )


@every_feature
def test_every_selector_finds_the_pods_of_the_workload_and_not_the_one_of_the_test(feature: str):
    release = rendered(feature)
    pods = release.pod["metadata"]["labels"]
    tests = [found["metadata"]["labels"] for found in release.all("Pod")]
    selectors = [selector for found in release.objects for selector in selectors_of(found)]

    assert selectors
    for selector in selectors:
        assert selector.items() <= pods.items()
        assert not any(selector.items() <= labels.items() for labels in tests)


def selectors_of(found: Object) -> Iterator[dict[str, str]]:
    spec = found.get("spec", {})
    match found["kind"]:
        case "Deployment" | "DaemonSet" | "StatefulSet" | "PodDisruptionBudget" | "PodMonitor":
            yield spec["selector"]["matchLabels"]
        case "Service":
            yield spec["selector"]
        case "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]
    for constraint in spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", []):
        yield constraint["labelSelector"]["matchLabels"]


@every_feature
def test_every_mount_has_its_volume_and_every_volume_is_mounted(feature: str):
    spec = rendered(feature).workload["spec"]
    pod = spec["template"]["spec"]
    volumes = [volume["name"] for volume in pod["volumes"]]
    volumes += [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
    mounted = {
        mount["name"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]
        for mount in container.get("volumeMounts", [])
    }

    assert len(volumes) == len(set(volumes))
    assert mounted == set(volumes)
    assert all(LABEL.fullmatch(name) for name in volumes)


@every_feature
def test_nothing_is_mounted_by_sub_path_since_that_is_never_updated(feature: str):
    for mount in rendered(feature).container["volumeMounts"]:
        assert "subPath" not in mount


@every_feature
def test_claims_and_config_maps_that_the_pod_names_are_made_or_somebody_elses(feature: str):
    release = rendered(feature)
    values = release.values
    made = {(found["kind"], found["metadata"]["name"]) for found in release.objects}
    theirs = {("ConfigMap", "scripts"), ("ConfigMap", values["existingConfig"]["configMap"])}
    theirs |= {("PersistentVolumeClaim", (volume or {}).get("existingClaim")) for volume in values["volumes"].values()}
    for volume in release.pod["spec"]["volumes"]:
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in made | theirs
        if "persistentVolumeClaim" in volume:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in made | theirs
    account = release.pod["spec"]["serviceAccountName"]
    assert account == "default" or ("ServiceAccount", account) in made


@every_feature
def test_what_helm_prints_in_the_end_names_the_workload(feature: str):
    release = rendered(feature)
    workload = release.workload

    assert f"{workload['kind'].lower()}/{workload['metadata']['name']}" in release.notes
    assert "<no value>" not in release.notes


def test_names_stay_within_what_a_label_may_be():
    release = render(merged(load_values("statefulset"), {"fullnameOverride": "x" * 52}))

    for found in release.objects:
        assert LABEL.fullmatch(found["metadata"]["name"]), found["metadata"]["name"]


def everything(values: Any) -> Iterator[str]:
    """All texts in it."""
    if isinstance(values, dict):
        for value in values.values():
            yield from everything(value)
    elif isinstance(values, list):
        for value in values:
            yield from everything(value)
    else:
        yield str(values)


@every_feature
def test_no_template_left_a_value_empty_by_mistake(feature: str):
    assert not any("<no value>" in text or "%!" in text for text in everything(rendered(feature).objects))
