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
    environment,
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


# -- shapes ----------------------------------------------------------------------------------------------------------


def test_one_pod_template_serves_all_kinds():
    """But for the default of the agent's name, which is in the configuration, and the checksum that tells of it."""
    values = merged(load_values("deployment"), {"volumes": {"inbox": {"persistentVolumeClaim": None, "emptyDir": {}}}})
    values["volumes"]["inbox"].pop("persistentVolumeClaim")
    pods = []
    for kind in ("Deployment", "DaemonSet", "StatefulSet"):
        pod = render(merged(values, {"kind": kind})).pod
        pod["metadata"]["annotations"].pop("checksum/restart")
        pods.append(pod)

    assert pods[0] == pods[1] == pods[2]


def test_a_deployment_has_one_replica_that_ends_before_the_next_begins():
    spec = rendered("deployment").workload["spec"]

    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_claims_of_a_stateful_set_are_templates_with_labels_that_never_change():
    release = rendered("statefulset")
    claims = release.workload["spec"]["volumeClaimTemplates"]

    assert release.all("PersistentVolumeClaim") == []
    assert {claim["spec"]["resources"]["requests"]["storage"] for claim in claims} == {"100Gi", "1Gi"}
    for claim in claims:
        assert set(claim["metadata"]["labels"]) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    (service,) = [found for found in release.all("Service") if found["spec"].get("clusterIP") == "None"]
    assert release.workload["spec"]["serviceName"] == service["metadata"]["name"]


def test_claims_outlive_the_release_unless_told_otherwise():
    keep = {"helm.sh/resource-policy": "keep"}

    assert [found["metadata"].get("annotations") for found in rendered("volumes").all("PersistentVolumeClaim")] == [
        keep
    ] * 2
    assert "annotations" not in rendered("existing-configmap").one("PersistentVolumeClaim")["metadata"]


def test_volumes_become_what_they_are_called():
    pod = rendered("volumes").pod["spec"]
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}

    assert volumes["data-claimed"] == {"persistentVolumeClaim": {"claimName": "demo-jetsync-data-claimed"}}
    assert volumes["data-existing"] == {"persistentVolumeClaim": {"claimName": "application-data"}}
    assert volumes["data-scratch"] == {"emptyDir": {}}
    assert volumes["data-node"] == {"hostPath": {"path": "/var/log/app", "type": "Directory"}}
    assert volumes["data-shared"] == {"nfs": {"server": "files.example.com", "path": "/export"}}
    assert volumes["state"] == {"persistentVolumeClaim": {"claimName": "demo-jetsync-state"}}
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["data-node"]["readOnly"] is True
    assert mounts["data-scratch"]["mountPath"] == "/data/scratch"  # and the mapping is deep inside
    assert mounts["state"]["mountPath"] == "/var/lib/jetsync"


def test_mappings_with_names_that_are_no_names_of_volumes_get_different_ones():
    values = merged(
        load_values("deployment"),
        {
            "config": {
                "mappings": [
                    {"name": name, "directory": f"/d/{name}", "bucket": name.replace(".", "")}
                    for name in ("a.b", "a_b", "A-b", "x" * 120)
                ]
            },
            "volumes": {
                "a.b": {"emptyDir": {}},
                "a_b": {"emptyDir": {}},
                "A-b": {"emptyDir": {}},
                "x" * 120: {"emptyDir": {}},
            },
        },
    )
    values["volumes"].pop("inbox")
    names = [volume["name"] for volume in render(values).pod["spec"]["volumes"] if volume["name"].startswith("data")]

    assert len(set(names)) == 4
    assert all(LABEL.fullmatch(name) for name in names)


def test_probes_ask_the_event_loop_whether_it_lives_and_the_agent_whether_it_is_ready():
    container = rendered("deployment").container
    port = {port["name"]: port["containerPort"] for port in container["ports"]}["http"]

    assert port == rendered("deployment").config().http.port  # type: ignore[union-attr]
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}


def test_the_grace_period_is_longer_than_what_is_under_way_may_take():
    from agent.sync.mapping import DRAIN_SECONDS

    assert rendered("deployment").pod["spec"]["terminationGracePeriodSeconds"] > 3 * DRAIN_SECONDS
    (told,) = re.findall(r"may end for (\d+) s; less than (\d+) is refused", (CHART / "values.yaml").read_text())
    assert float(told[0]) == DRAIN_SECONDS
    assert f"is {int(told[1]) - 1}," in refusal(
        merged(load_values("deployment"), {"terminationGracePeriodSeconds": int(told[1]) - 1})
    )
    assert float(told[1]) > DRAIN_SECONDS + 5  # and for the rest


def test_resources_ask_for_memory_cpu_and_disk_and_limit_memory_only():
    resources = rendered("deployment").container["resources"]

    assert set(resources["requests"]) == {"cpu", "memory", "ephemeral-storage"}
    assert set(resources["limits"]) == {"memory"}  # a CPU limit throttles; emptyDirs count as ephemeral storage


def test_the_image_is_named_by_tag_or_by_digest():
    base = load_values("deployment")

    assert rendered("deployment").container["image"] == "jetsync:0.1.0"
    assert (
        render(merged(base, {"image": {"tag": "x", "registry": "r.example.com/"}})).container["image"]
        == "r.example.com/jetsync:x"
    )
    extras = rendered("extras")
    assert extras.container["image"].startswith("registry.example.com/platform/jetsync@sha256:")
    assert extras.pod["spec"]["imagePullSecrets"] == [{"name": "everywhere"}, {"name": "here"}]


def test_what_kubernetes_has_and_the_chart_does_not_name_is_passed_on():
    release = rendered("extras")
    pod, values = release.pod["spec"], load_values("extras")

    for key in (
        "nodeSelector",
        "tolerations",
        "affinity",
        "priorityClassName",
        "runtimeClassName",
        "dnsPolicy",
        "dnsConfig",
        "hostAliases",
    ):
        assert pod[key] == values[key], key
    assert pod["initContainers"] == values["initContainers"]
    assert pod["containers"][1:] == values["extraContainers"]
    assert release.container["env"][-2:] == values["extraEnv"]
    assert release.container["envFrom"] == values["extraEnvFrom"]
    assert release.container["lifecycle"] == values["lifecycle"]
    assert values["extraVolumes"][0] in pod["volumes"]
    assert values["extraVolumeMounts"][0] in release.container["volumeMounts"]
    assert release.workload["metadata"]["annotations"] == values["annotations"]
    assert release.pod["metadata"]["labels"]["tier"] == "sync"
    assert release.pod["metadata"]["annotations"]["example.com/note"] == "pod"
    assert release.one("ConfigMap", "sync-extra")["data"] == {"namespace": NAMESPACE}
    assert release.one("Secret", "extra")["stringData"] == {"release": RELEASE}
    assert release.container["startupProbe"]["failureThreshold"] == 120


def test_a_spread_constraint_without_a_selector_gets_that_of_the_pods():
    (constraint,) = rendered("statefulset").pod["spec"]["topologySpreadConstraints"]

    assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == RELEASE
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"


def test_the_budget_lets_nodes_be_drained():
    assert rendered("network-policy").one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert rendered("statefulset").one("PodDisruptionBudget")["spec"]["minAvailable"] == 2


def test_the_network_policy_lets_out_to_dns_and_to_the_servers_and_in_for_metrics():
    policy = rendered("network-policy").one("NetworkPolicy")["spec"]
    values = load_values("network-policy")["networkPolicy"]
    dns, nats, extra = policy["egress"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in nats["ports"]] == [4222, 4443]
    assert (nats["to"], dns["to"], extra) == (values["natsTo"], values["dnsTo"], values["extraEgress"][0])
    metrics, more = policy["ingress"]
    assert metrics == {"ports": [{"port": "http", "protocol": "TCP"}], "from": values["metricsFrom"]}
    assert more == values["extraIngress"][0]


@pytest.mark.parametrize(
    ("url", "port"), [("ws://nats.example.com", 80), ("wss://nats.example.com", 443), ("${URL}", 4222)]
)
def test_the_network_policy_knows_the_ports_that_addresses_leave_out(url: str, port: int):
    policy = render(merged(load_values("network-policy"), {"nats": {"url": url}})).one("NetworkPolicy")["spec"]

    assert [found["port"] for found in policy["egress"][1]["ports"]] == [port]


def test_helm_test_asks_the_service_whether_the_agent_is_ready():
    from agent.config.load import loads

    release = rendered("deployment")
    pod, config = release.one("Pod"), release.one("ConfigMap", "demo-jetsync-test")
    service = release.one("Service")
    (container,) = pod["spec"]["containers"]

    for found in (pod, config):
        assert found["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container["args"] == ["healthcheck", "--ready"]
    assert environment(container)["JETSYNC_CONFIG"] == "/etc/jetsync/config.yaml"
    http = loads(config["data"]["config.yaml"], base=Path("/"), environ={}).http
    assert http is not None
    assert (http.host, http.port) == (
        f"{service['metadata']['name']}.{NAMESPACE}.svc",
        service["spec"]["ports"][0]["port"],
    )


def test_the_subchart_of_another_chart_takes_the_globals_of_others():
    assert refusal(merged(load_values("deployment"), {"global": {"theirs": {"x": 1}}})) == ""


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
