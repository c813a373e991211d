"""The configuration that the chart makes is one that the agent takes, with what the chart's other values say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.charts import NAMESPACE, VALUES_FILES, Release, environment, load_values, merged, render

MADE = [
    name
    for name in (path.name.removesuffix("-values.yaml") for path in VALUES_FILES)
    if not load_values(name).get("existingConfig")
]


def rendered(feature: str, **values: Any) -> Release:
    return render(merged(load_values(feature), values))


@pytest.mark.parametrize("feature", MADE)
def test_the_agents_own_loader_takes_it(feature: str):
    config = rendered(feature).config(NATS_URL="nats://127.0.0.1:4222", CLUSTER="c1")

    assert config.mappings or config.subscriptions
    assert str(config.state_dir) == "/var/lib/jetsync"


@pytest.mark.parametrize("feature", MADE)
def test_every_directory_is_on_a_volume_that_is_not_the_root_file_system(feature: str):
    release = rendered(feature)
    config = release.config(NATS_URL="nats://127.0.0.1:4222", CLUSTER="c1")
    mounts = [Path(mount["mountPath"]) for mount in release.container["volumeMounts"]]
    needed = [config.state_dir, *(mapping.directory for mapping in config.mappings)]
    needed += [subscription.directory for subscription in config.subscriptions]

    for directory in needed:
        assert any(directory.is_relative_to(mount) for mount in mounts), directory


@pytest.mark.parametrize("feature", MADE)
def test_every_key_password_and_certificate_is_a_file_of_the_secrets_volume(feature: str):
    release = rendered(feature)
    config = release.config(NATS_URL="nats://127.0.0.1:4222", CLUSTER="c1")
    files = {f"/var/run/secrets/jetsync/{item['path']}" for item in projected(release)}

    assert {str(path) for path in config.nats.secret_files.values()} == files


def projected(release: Release) -> list[dict[str, str]]:
    """Files of the secrets volume: {from, key, path}."""
    return [
        {"from": source[kind]["name"], **item}
        for volume in release.pod["spec"]["volumes"]
        if volume["name"] == "secrets"
        for source in volume["projected"]["sources"]
        for kind in source
        for item in source[kind]["items"]
    ]


def test_values_come_through_yaml_and_helm_as_they_are():
    given = load_values("values-of-all-kinds")["config"]
    config = yaml.safe_load(rendered("values-of-all-kinds").config_text)

    for key, value in given.items():
        assert config[key] == value, key
    loaded = rendered("values-of-all-kinds").config()
    assert loaded.buckets["inbox"].max_bytes == 10 * 1024**3
    assert loaded.mappings[0].prefix == f"{NAMESPACE}/"
    assert loaded.mappings[0].file_mode == 0o640


def test_credentials_and_certificates_are_named_as_their_secrets_have_them():
    release = rendered("credentials")
    nats = release.config().nats

    assert list(nats.servers) == ["tls://nats.nats.svc:4222"]
    assert str(nats.credentials_file) == "/var/run/secrets/jetsync/credentials"
    assert {(item["from"], item["key"], item["path"]) for item in projected(release)} == {
        ("jetsync-creds", "agent.creds", "credentials"),
        ("jetsync-tls", "ca.crt", "ca.crt"),
        ("jetsync-tls", "tls.crt", "tls.crt"),
        ("jetsync-tls", "tls.key", "tls.key"),
    }


def test_an_authority_may_come_from_a_config_map_without_a_client_certificate():
    release = rendered("nkey")
    tls = release.config().nats.tls

    assert tls is not None
    assert (str(tls.ca_file), tls.cert_file) == ("/var/run/secrets/jetsync/ca.crt", None)
    assert {(item["from"], item["key"]) for item in projected(release)} == {
        ("jetsync-nkey", "seed.nk"),
        ("trust-bundle", "bundle.pem"),
    }


def test_a_password_belongs_to_its_user_and_a_token_stands_alone():
    assert rendered("password").config().nats.user == "edge"
    assert str(rendered("password").config().nats.password_file) == "/var/run/secrets/jetsync/password"
    token = rendered("token").config().nats
    assert str(token.token_file) == "/var/run/secrets/jetsync/token"
    assert token.domain == "hub"  # what stands in config.nats stays


def test_secrets_are_readable_for_the_agents_group_only():
    release = rendered("credentials")
    (volume,) = [volume for volume in release.pod["spec"]["volumes"] if volume["name"] == "secrets"]
    (secret,) = [volume for volume in rendered("existing-secret").pod["spec"]["volumes"] if volume["name"] == "config"]

    assert volume["projected"]["defaultMode"] == 0o440
    assert secret["secret"]["defaultMode"] == 0o440
    assert release.pod["spec"]["securityContext"]["fsGroup"] == 65532


def test_several_servers_stand_with_commas():
    assert [str(server) for server in rendered("statefulset").config().nats.servers] == [
        "nats://nats-0.nats:4222",
        "nats://nats-1.nats:4222",
    ]


def test_the_agent_has_a_name_that_stays_when_its_pod_goes():
    assert rendered("deployment").config().name == "demo-jetsync"
    assert rendered("daemonset").config().name == "node-1"
    assert rendered("statefulset").config().name == "demo-jetsync-0"
    assert rendered("rollout").config().name == "mirror"


@pytest.mark.parametrize("ready", ["once", "connected", "local"])
def test_readiness_is_what_the_configuration_says(ready: str):
    http = rendered("deployment", config={"http": {"ready": ready}}).config().http

    assert http is not None
    assert http.ready == ready


@pytest.mark.parametrize(
    ("feature", "volume", "file", "port"),
    [
        ("existing-configmap", {"configMap": {"name": "jetsync-config"}}, "agent.yaml", 9500),
        ("existing-secret", {"secret": {"secretName": "jetsync-config", "defaultMode": 0o440}}, "config.yaml", 9477),
    ],
)
def test_the_configuration_may_be_somebody_elses(feature: str, volume: dict[str, Any], file: str, port: int):
    release = rendered(feature)

    assert {"name": "config", **volume} in release.pod["spec"]["volumes"]
    assert [found["metadata"]["name"] for found in release.all("ConfigMap")] == ["demo-jetsync-test"]
    assert environment(release.container)["JETSYNC_CONFIG"] == f"/etc/jetsync/{file}"
    assert release.container["ports"][0]["containerPort"] == port


def test_the_credentials_of_the_chart_are_there_for_somebody_elses_configuration_too():
    release = rendered("existing-configmap")

    assert [item["path"] for item in projected(release)] == ["credentials"]
    assert {"name": "state", "mountPath": "/state"} in release.container["volumeMounts"]


# -- reload ----------------------------------------------------------------------------------------------------------


def pod_annotations(feature: str, **values: Any) -> dict[str, str]:
    found: dict[str, str] = rendered(feature, **values).pod["metadata"]["annotations"]
    return found


def test_a_watched_configuration_makes_no_new_pods():
    changed = pod_annotations("deployment", config={"log": {"level": "debug"}}, nats={"url": "nats://other:4222"})

    assert changed == pod_annotations("deployment")


@pytest.mark.parametrize("config", [{"name": "other"}, {"state_dir": "/state"}, {"nats": {"domain": "hub"}}])
def test_but_what_a_running_agent_does_not_take_over_does(config: dict[str, Any]):
    assert pod_annotations("deployment", config=config) != pod_annotations("deployment")


def test_those_are_the_keys_that_need_a_restart():
    """The chart's list is the agent's: a key that moves there has to move here."""
    from agent.config.reload import RESTART

    assert set(RESTART) == {"name", "state_dir", "nats"}  # of nats: domain and embedded


def test_with_rollout_every_change_makes_new_pods():
    assert pod_annotations("rollout", config={"log": {"level": "info"}}) != pod_annotations("rollout")
    assert pod_annotations("rollout", nats={"url": "nats://other:4222"}) != pod_annotations("rollout")
    assert pod_annotations("rollout", service={"port": 80}) == pod_annotations("rollout")


def test_a_new_version_of_the_chart_alone_makes_no_new_pods():
    labels = rendered("deployment").pod["metadata"]["labels"]

    assert set(labels) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
