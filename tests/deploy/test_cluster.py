"""What a real API server and its controllers make of the chart and the examples: installed, upgraded, removed by Helm.

There are no nodes, so nothing runs; tests/deploy has containers for that. `make cluster` builds what is needed, which
takes some minutes; without it these tests are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.agent import eventually
from tests.support.charts import CHART, EXAMPLES, VALUES_FILES, documents, load_values, merged, require_helm
from tests.support.cluster import ControlPlane, Object, RefusedError, missing

FEATURES = [path.name.removesuffix("-values.yaml") for path in VALUES_FILES]
# What the restricted standard refuses, as its comments say; `extras` has a container of its own without any context.
PRIVILEGED = {"daemonset", "volumes", "extras"}
MANIFESTS = sorted(EXAMPLES.glob("*.yaml"))

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.skipif(bool(missing()), reason=f"{', '.join(missing())} not here: `make cluster`"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    require_helm()
    with ControlPlane(tmp_path_factory.mktemp("cluster")) as cluster:
        for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"):
            cluster.create(definition(kind))
        for name in ("elsewhere", "monitoring"):
            cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1}
        cluster.create({**priority, "metadata": {"name": "important"}})
        runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "runsc"}
        cluster.create({**runtime, "metadata": {"name": "gvisor"}})
        labels = {"kubernetes.io/os": "linux"}
        cluster.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": labels}})
        yield cluster


def definition(kind: str) -> Object:
    """A CRD under that name that takes anything."""
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def settled(cluster: ControlPlane, namespace: str, kind: str = "deployments") -> Object:
    """The only workload of a kind, when its controller has looked at its last change."""

    def looked_at() -> Object | None:
        (found,) = cluster.items("apps/v1", namespace, kind)
        return found if found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"] else None

    found = eventually(looked_at)
    assert found is not None
    return found


# -- the chart -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", FEATURES)
def test_helm_installs_every_feature_and_its_pods_are_let_in(cluster: ControlPlane, feature: str):
    namespace = cluster.namespace("privileged" if feature in PRIVILEGED else "restricted")
    values = load_values(feature)
    with cluster.helm(namespace) as helm:
        helm.install(CHART, "demo", values)

    where = values.get("namespaceOverride", namespace)
    pods = eventually(lambda: cluster.items("v1", where, "pods"))
    assert {pod["metadata"]["labels"]["app.kubernetes.io/instance"] for pod in pods} == {"demo"}
    if values.get("kind") == "StatefulSet":
        claims = eventually(lambda: len(cluster.items("v1", namespace, "persistentvolumeclaims")) == 6)
        assert claims


def test_a_namespace_with_restricted_pod_security_refuses_what_says_that_it_needs_more(cluster: ControlPlane):
    namespace = cluster.namespace("restricted")
    with cluster.helm(namespace) as helm:
        helm.install(CHART, "demo", load_values("daemonset"))

    told = eventually(lambda: [event["message"] for event in cluster.items("v1", namespace, "events")])
    assert "violates PodSecurity" in told[0]
    for reason in ("hostPath", "hostNetwork", "runAsUser=0"):
        assert reason in told[0]
    assert cluster.items("v1", namespace, "pods") == []


def test_a_watched_configuration_reaches_the_config_map_and_makes_no_new_pods(cluster: ControlPlane):
    namespace = cluster.namespace()
    values = load_values("deployment")
    with cluster.helm(namespace) as helm:
        helm.install(CHART, "demo", values)
        settled(cluster, namespace)
        helm.upgrade(CHART, "demo", merged(values, {"config": {"log": {"level": "debug"}}}))
        settled(cluster, namespace)
        (config,) = [
            found
            for found in cluster.items("v1", namespace, "configmaps")
            if found["metadata"]["name"] == "demo-jetsync"
        ]
        assert "level: debug" in config["data"]["config.yaml"]
        assert len(cluster.items("apps/v1", namespace, "replicasets")) == 1

        helm.upgrade(CHART, "demo", merged(values, {"config": {"name": "other"}}))
        settled(cluster, namespace)
        eventually(lambda: len(cluster.items("apps/v1", namespace, "replicasets")) == 2)


@pytest.mark.parametrize(("feature", "kind"), [("deployment", "deployments"), ("statefulset", "statefulsets")])
def test_a_new_version_of_the_chart_is_taken_and_makes_no_new_pods(
    cluster: ControlPlane, tmp_path: Path, feature: str, kind: str
):
    namespace = cluster.namespace()
    newer = shutil.copytree(CHART, tmp_path / "jetsync")
    chart = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump({**chart, "version": "0.2.0"}))
    with cluster.helm(namespace) as helm:
        helm.install(CHART, "demo", load_values(feature))
        before = settled(cluster, namespace, kind)
        helm.upgrade(newer, "demo", load_values(feature))
        after = settled(cluster, namespace, kind)
        helm.rollback("demo", version=1)

    assert after["metadata"]["labels"]["helm.sh/chart"] == "jetsync-0.2.0"
    assert after["spec"]["template"] == before["spec"]["template"]


def test_claims_outlive_the_release_and_come_back_into_one_of_the_same_name(cluster: ControlPlane):
    namespace = cluster.namespace()
    with cluster.helm(namespace) as helm:
        helm.install(CHART, "demo", load_values("deployment"))
        (claim,) = cluster.items("v1", namespace, "persistentvolumeclaims")
        helm.uninstall("demo")
        eventually(lambda: cluster.items("apps/v1", namespace, "deployments") == [])
        helm.install(CHART, "demo", load_values("deployment"))

    (again,) = cluster.items("v1", namespace, "persistentvolumeclaims")
    assert again["metadata"]["uid"] == claim["metadata"]["uid"]


def test_helm_test_makes_a_pod_that_is_let_in_and_ends_when_it_has_ended_well(cluster: ControlPlane):
    namespace = cluster.namespace("restricted")
    with cluster.helm(namespace) as helm, ThreadPoolExecutor(1) as pool:
        helm.install(CHART, "demo", load_values("deployment"))
        tested = pool.submit(helm.test, "demo", timeout=30)

        def test_pod() -> Object:
            pods = {pod["metadata"]["name"]: pod for pod in cluster.items("v1", namespace, "pods")}
            assert "demo-jetsync-test" in pods
            return pods["demo-jetsync-test"]

        pod = eventually(test_pod)
        maps = [found["metadata"]["name"] for found in cluster.items("v1", namespace, "configmaps")]
        assert pod["spec"]["volumes"][0]["configMap"]["name"] in maps
        # What the API server adds by itself is for all pods; no token is among it.
        assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["config"]
        cluster.succeed({"apiVersion": "v1", "kind": "Pod", **pod})
        assert tested.result() is not None


def test_another_kind_takes_the_place_of_the_workload(cluster: ControlPlane):
    namespace = cluster.namespace()
    values: dict[str, Any] = {**load_values("deployment"), "volumes": {"inbox": {"emptyDir": {}}}}
    with cluster.helm(namespace) as helm:
        helm.install(CHART, "demo", values)
        helm.upgrade(CHART, "demo", {**values, "kind": "StatefulSet"})

    settled(cluster, namespace, "statefulsets")
    eventually(lambda: cluster.items("apps/v1", namespace, "deployments") == [])


@pytest.mark.parametrize(
    ("feature", "change"),
    [
        ("deployment", {"nameOverride": "other", "fullnameOverride": "demo-jetsync"}),
        ("statefulset", {"volumes": {"Library_1.0": {"persistentVolumeClaim": {"size": "200Gi"}}}}),
    ],
)
def test_what_kubernetes_keeps_as_it_is_makes_an_upgrade_fail(
    cluster: ControlPlane, feature: str, change: dict[str, Any]
):
    from helm_python.errors import HelmError

    namespace = cluster.namespace()
    values = load_values(feature)
    with cluster.helm(namespace) as helm:
        helm.install(CHART, "demo", values)
        with pytest.raises(HelmError, match=r"immutable|[Ff]orbidden"):
            helm.upgrade(CHART, "demo", merged(values, change))


# -- the examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_example_is_let_in_as_it_is(cluster: ControlPlane, path: Path):
    namespace = cluster.namespace("privileged" if path.stem == "daemonset-mirror" else "restricted")
    for found in documents(path.read_text()):
        created = cluster.create(found, namespace)
        if found["kind"] == "CronJob":  # as its controller will make it, at night
            job = {"apiVersion": "batch/v1", "kind": "Job", "spec": created["spec"]["jobTemplate"]["spec"]}
            cluster.create({**job, "metadata": {"name": f"now-{found['metadata']['name']}"}}, namespace)

    pods = eventually(lambda: cluster.items("v1", namespace, "pods"))
    if path.stem == "native-sidecar":
        assert pods[0]["spec"]["initContainers"][0]["restartPolicy"] == "Always"


def test_a_pod_without_a_security_context_would_not_be_let_in(cluster: ControlPlane):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}

    with pytest.raises(RefusedError, match="violates PodSecurity"):
        cluster.create({**pod, "spec": {"containers": [{"name": "c", "image": "i"}]}}, cluster.namespace())
