"""What the chart's values make of the pods: kinds, volumes, probes, resources, and all that is only passed on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.charts import CHART, NAMESPACE, RELEASE, Release, environment, load_values, merged, refusal, render

# Where Kubernetes limits a name to 63 characters of a label.
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def rendered(feature: str) -> Release:
    return render(load_values(feature))


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


def test_directories_below_a_new_volume_are_made_since_the_agent_makes_none():
    values = load_values("volumes")
    nodes = {"name": "nodes", "directory": "/data/scratch/${NODE_NAME}/in", "bucket": "nodes", "mode": "pull-mirror"}
    values["config"]["mappings"].append(nodes)
    (made,) = render(values).pod["spec"]["initContainers"]

    assert made["command"] == ["mkdir", "-p"]
    assert made["args"] == ["/data/scratch/deep/inside", "/data/scratch/$(NODE_NAME)/in"]  # as the kubelet expands it
    assert "NODE_NAME" in environment(made)
    assert {"name": "data-scratch", "mountPath": "/data/scratch"} in made["volumeMounts"]
    assert "initContainers" not in render(merged(values, {"makeDirectories": False})).pod["spec"]


def test_directories_that_are_volumes_or_below_one_that_has_content_are_nobodys_to_make():
    base = load_values("credentials")
    base["config"]["mappings"][0]["directory"] = "/data/inbox/below"
    base["volumes"]["inbox"]["mountPath"] = "/data/inbox"

    assert "initContainers" not in render(base).pod["spec"]
    assert "initContainers" not in rendered("deployment").pod["spec"]


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
