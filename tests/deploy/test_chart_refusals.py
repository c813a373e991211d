"""Values that can't work are refused before anything is applied, with a sentence that says what to set."""

# ruff: noqa: E501 - a table of sentences, each in one piece
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.charts import CHART, load_values, merged, refusal, render

INBOX = {"name": "inbox", "directory": "/data/inbox", "bucket": "inbox"}
PUBLISHED = {"name": "models", "directory": "/data/inbox", "repository": "r", "channel": "stable"}


def given(**values: Any) -> dict[str, Any]:
    """The smallest release on an emptyDir, with these values over it."""
    base = load_values("deployment")
    base["volumes"] = {"inbox": {"emptyDir": {}}}
    return merged(base, values)


# What is set -> what Helm says. Each text is all of it that matters: what is wrong, and what to set to what.
TEMPLATES: dict[str, tuple[dict[str, Any], str]] = {
    "no server": (
        given(nats={"url": ""}),
        "no server is named: set nats.url, for example to nats://nats.nats.svc:4222",
    ),
    "two lists of servers": (
        given(config={"nats": {"servers": ["nats://x:4222"]}}),
        "nats.url and config.nats.servers both name the servers: empty one of them",
    ),
    "a server and an embedded one": (
        given(config={"nats": {"embedded": {"store_dir": "/var/lib/jetsync/nats"}}}),
        "nats.url and config.nats.embedded are two ways to have a server",
    ),
    "an address without a scheme": (
        given(nats={"url": "nats:4222"}),
        "nats:4222 isn't the address of a server: write nats://HOST:4222",
    ),
    "a login that everybody sees": (
        given(nats={"url": "nats://me:secret@nats:4222"}),
        "the address of a server has a login in it, which everybody sees who may read ConfigMaps: set nats.user and nats.password.secret",
    ),
    "WebSocket and others": (given(nats={"url": "ws://a,nats://b"}), "leave one kind in nats.url"),
    "two logins": (
        given(nats={"credentials": {"secret": {"name": "a"}}, "token": {"secret": {"name": "b"}}}),
        "nats.credentials.secret.name, nats.token.secret.name are several ways to log in: leave one",
    ),
    "a login here and one there": (
        given(nats={"nkey": {"secret": {"name": "a"}}}, config={"nats": {"token_file": "/x"}}),
        "nats.nkey.secret.name, config.nats.token_file are several ways to log in",
    ),
    "a secret without a key": (
        given(nats={"credentials": {"secret": {"name": "a", "key": ""}}}),
        "nats.credentials.secret.key is empty: set it to the key in the Secret a",
    ),
    "a password without a user": (given(nats={"password": {"secret": {"name": "a"}}}), "set nats.user"),
    "a user without a password": (given(nats={"user": "a"}), "set nats.password.secret.name"),
    "TLS without certificates": (given(tls={"enabled": True}), "set tls.secretName or tls.caConfigMap.name"),
    "certificates without TLS": (given(tls={"secretName": "a"}), "set tls.enabled to true"),
    "half a certificate": (
        given(tls={"enabled": True, "secretName": "a", "keys": {"key": ""}}),
        "tls.keys.cert and tls.keys.key belong together: set both, or empty both",
    ),
    "nothing to do": (
        {**given(), "config": {}, "volumes": {}},
        "there is nothing to do: set config.mappings, config.publications or config.subscriptions",
    ),
    "two configurations": (
        {"existingConfig": {"configMap": "a", "secret": "b"}},
        "existingConfig names both configMap and secret: leave one of them empty",
    ),
    "values beside somebody else's configuration": (
        {**given(existingConfig={"configMap": "a"}), "volumes": {}},
        "existingConfig is in force, so that config.buckets, config.mappings, nats.url would have no effect",
    ),
    "a rollout of what the chart can't see": (
        {"existingConfig": {"secret": "a"}, "reload": "rollout"},
        "set reload to watch, or set a checksum of your own in podAnnotations",
    ),
    "no HTTP": (given(config={"http": False}), "config.http: false leaves nothing for the probes to ask: leave it out"),
    "HTTP on loopback": (
        given(config={"http": {"listen": "127.0.0.1:9000"}}),
        "config.http.listen is 127.0.0.1:9000, where the kubelet's probes can't reach it: set it to 0.0.0.0:9000",
    ),
    "any port": (given(config={"http": {"listen": "0.0.0.0:0"}}), "config.http.listen has port 0"),
    "a port that only the agent knows": (
        given(config={"http": {"listen": "${LISTEN}"}}),
        "config.http.listen is ${LISTEN}, and the chart needs the port for the probes: set it to 0.0.0.0:9477",
    ),
    "state beside the ConfigMap": (
        given(config={"state_dir": "./state"}),
        "config.state_dir is ./state, below the ConfigMap",
    ),
    "a directory beside the ConfigMap": (
        given(config={"mappings": [{**INBOX, "directory": "./inbox"}]}),
        "config.mappings[0].directory is ./inbox, below the ConfigMap, which can't be written: set it to an absolute path",
    ),
    "a directory on no volume": (
        given(config={"mappings": [INBOX, {**INBOX, "name": "other", "directory": "/data/inboxes", "bucket": "o"}]}),
        "config.mappings[1].directory is /data/inboxes, which is on no volume: set volumes.other, for example to",
    ),
    "a subscription on no volume": (
        given(config={"subscriptions": [{"name": "s", "directory": "/srv", "repository": "r", "channel": "c"}]}),
        "config.subscriptions[0].directory is /srv, which is on no volume: set volumes.s",
    ),
    "a publication on no volume": (
        given(config={"publications": [{**PUBLISHED, "directory": "/srv"}]}),
        "config.publications[0].directory is /srv, which is on no volume: set volumes.models",
    ),
    "a volume of nobody": (
        given(volumes={"indox": {"emptyDir": {}}}),
        "volumes.indox is the name of no mapping, publication or subscription of config: correct it, or set volumes.indox.mountPath",
    ),
    "a volume for what the chart can't see": (
        {"existingConfig": {"configMap": "a"}, "volumes": {"inbox": {"emptyDir": {}}}},
        "volumes.inbox.mountPath is missing, and the chart can't see the directories in existingConfig: set it",
    ),
    "a volume at a relative place": (
        given(volumes={"more": {"mountPath": "data", "emptyDir": {}}}),
        "volumes.more.mountPath is data: set it to an absolute path",
    ),
    "a volume that is nothing": (
        {**given(), "volumes": {"inbox": {}}},
        "volumes.inbox doesn't say what it is: set one of hostPath, persistentVolumeClaim, existingClaim, emptyDir, source",
    ),
    "a volume that is two things": (
        given(volumes={"inbox": {"hostPath": {"path": "/srv"}}}),
        "volumes.inbox is several things at once (hostPath, emptyDir): leave one",
    ),
    "two volumes in one place": (
        given(volumes={"more": {"mountPath": "/data/inbox", "emptyDir": {}}}),
        "volumes.inbox and volumes.more would both be mounted at /data/inbox",
    ),
    "a volume whose place only the agent knows": (
        given(config={"mappings": [{**INBOX, "directory": "/data/${NODE_NAME}"}]}),
        "volumes.inbox would be mounted at /data/${NODE_NAME}, which only the agent can expand: set volumes.inbox.mountPath",
    ),
    "a new directory whose name only the agent knows": (
        given(
            config={"mappings": [{**INBOX, "directory": "/data/${SITE:-paris}"}]},
            volumes={"inbox": {"mountPath": "/data"}},
        ),
        "config.mappings[0].directory is /data/${SITE:-paris}, which has to be made below a new volume, and Kubernetes knows no defaults of variables: write ${NAME} without :-, or set makeDirectories to false",
    ),
    "a claim without a size": (
        given(state={"persistentVolumeClaim": {}}),
        "state.persistentVolumeClaim.size is missing: set it",
    ),
    "a node's directory without a path": (given(state={"hostPath": {}}), "state.hostPath.path is missing"),
    "a read-only volume that is written": (
        given(volumes={"inbox": {"readOnly": True}}),
        "volumes.inbox.readOnly is true, and config.mappings[0] writes to /data/inbox: set readOnly to false, or its mode",
    ),
    "two agents on one directory": (
        given(replicas=2),
        "replicas is 2 with kind Deployment, and two agents must not work on one directory: set replicas to 1, or kind to StatefulSet",
    ),
    "a surge": (
        given(kind="DaemonSet", updateStrategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        "updateStrategy.rollingUpdate.maxSurge would run two agents on one directory",
    ),
    "one claim for all nodes": (
        {**given(kind="DaemonSet"), "volumes": {"inbox": {"persistentVolumeClaim": {"size": "1Gi"}}}},
        "volumes.inbox.persistentVolumeClaim would be one directory for the agents of all nodes: use hostPath, or kind StatefulSet",
    ),
    "an existing claim for all nodes": (
        {**given(kind="DaemonSet"), "volumes": {"inbox": {"existingClaim": "a"}}},
        "volumes.inbox.existingClaim would be one directory for the agents of all pods: use hostPath, or kind Deployment",
    ),
    "an existing claim for all replicas": (
        {**given(kind="StatefulSet", replicas=2), "volumes": {"inbox": {"existingClaim": "a"}}},
        "use persistentVolumeClaim, which gives each replica a claim of its own, or set replicas to 1",
    ),
    "a node's directory for all replicas": (
        {**given(kind="StatefulSet", replicas=2), "volumes": {"inbox": {"hostPath": {"path": "/srv"}}}},
        "volumes.inbox.hostPath would be one directory for all replicas on a node: use persistentVolumeClaim, or kind DaemonSet",
    ),
    "mirrors that delete each other": (
        given(kind="DaemonSet", config={"mappings": [{**INBOX, "mode": "push-mirror"}]}),
        "config.mappings[0] is a push-mirror in every pod, and each would delete what the others send: set its prefix to ${NODE_NAME}/",
    ),
    "mirrors of replicas": (
        given(kind="StatefulSet", replicas=2, config={"mappings": [{**INBOX, "mode": "push-mirror", "prefix": "x/"}]}),
        "set its prefix to ${POD_NAME}/",
    ),
    "many publishers on one channel": (
        given(kind="DaemonSet", config={"publications": [PUBLISHED]}),
        "config.publications[0] would be published by every pod to one channel: set its channel to ${NODE_NAME}",
    ),
    "a budget that keeps nodes from being drained": (
        given(podDisruptionBudget={"enabled": True, "minAvailable": 1}),
        "podDisruptionBudget.minAvailable: 1 with one replica keeps its node from ever being drained: leave minAvailable out",
    ),
    "a short grace period": (
        given(terminationGracePeriodSeconds=5),
        "terminationGracePeriodSeconds is 5, and what is under way may take 8 s",
    ),
    "a monitor without a Service": (
        given(serviceMonitor={"enabled": True}, service={"enabled": False}),
        "serviceMonitor.enabled needs the Service: set service.enabled to true, or use podMonitor.enabled",
    ),
    "two monitors": (
        given(serviceMonitor={"enabled": True}, podMonitor={"enabled": True}),
        "serviceMonitor and podMonitor would scrape every agent twice: enable one of them",
    ),
    "half a digest": (
        given(image={"digest": "sha256:abc"}),
        "image.digest is sha256:abc: write it as sha256: and 64 hex digits",
    ),
    "permissions of nothing": (
        given(volumePermissions={"enabled": True}),
        "volumePermissions.enabled is for hostPath volumes that the agent writes to, and there is none",
    ),
    "permissions for nobody": (
        {
            **given(volumePermissions={"enabled": True}, podSecurityContext={"runAsUser": None}),
            "volumes": {"inbox": {"hostPath": {"path": "/srv"}}},
        },
        "set podSecurityContext.runAsUser and runAsGroup",
    ),
}

# What is set -> where the schema says it is wrong.
SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown kind": (given(kind="Job"), "/kind"),
    "an unknown value": (given(imagee={"tag": "x"}), "imagee"),
    "a misspelled key of the configuration": (given(config={"mappings": [{**INBOX, "mod": "two-way"}]}), "mod"),
    "a duration without a unit": (given(config={"mappings": [{**INBOX, "settle": 5}]}), "/config/mappings/0/settle"),
    "an unknown mode": (given(config={"mappings": [{**INBOX, "mode": "mirror"}]}), "/config/mappings/0/mode"),
    "a mapping without a bucket": (given(config={"mappings": [{"name": "x", "directory": "/x"}]}), "bucket"),
    "a reserved key of metadata": (
        given(config={"buckets": {"b": {"metadata": {"jetsync.x": "y"}}}}),
        "/config/buckets/b",
    ),
    "another version of the file": (given(config={"version": 2}), "/config/version"),
    "an octal number that YAML has eaten": (
        given(config={"mappings": [{**INBOX, "file_mode": 0o640}]}),
        "/config/mappings/0/file_mode",
    ),
    "two logins in the configuration": (
        given(config={"nats": {"token_file": "/a", "nkey_seed_file": "/b"}}),
        "/config/nats",
    ),
    "an unknown reload": (given(reload="restart"), "/reload"),
    "a negative replica": (given(replicas=-1), "/replicas"),
    "a label that is a number": (given(podLabels={"a": 1}), "/podLabels/a"),
    "a probe with a path of its own": (given(livenessProbe={"httpGet": {"path": "/"}}), "httpGet"),
    "an unknown kind of volume": (given(volumes={"inbox": {"hostpath": {"path": "/x"}}}), "hostpath"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_what_does_not_go_together_is_refused_with_what_to_set(case: str):
    values, message = TEMPLATES[case]
    said = refusal(values)

    assert message in said
    assert said.count("\n- ") == 1, "one mistake is told once"


@pytest.mark.parametrize("case", SCHEMA)
def test_what_is_wrong_by_itself_is_refused_by_the_schema_with_its_place(case: str):
    values, place = SCHEMA[case]
    said = refusal(values)

    assert "\n- at '/" in said or "\n- at ''" in said
    assert place in said


def test_all_that_does_not_go_together_is_told_at_once():
    said = refusal(given(replicas=2, nats={"url": ""}, terminationGracePeriodSeconds=5))

    assert said.count("\n- ") == 3


def test_the_values_that_the_refused_ones_start_from_are_fine():
    assert refusal(given()) == ""


def test_values_that_look_alike_but_work_are_taken():
    fine = [
        given(replicas=0),
        given(kind="StatefulSet", replicas=3),
        given(kind="StatefulSet", config={"mappings": [{**INBOX, "mode": "push-mirror"}]}),
        given(podDisruptionBudget={"enabled": True, "minAvailable": 0}),
        given(
            config={"mappings": [{**INBOX, "directory": "/data/inbox/below"}]},
            volumes={"inbox": {"mountPath": "/data/inbox"}},
        ),
        given(config={"mappings": [{**INBOX, "mode": "push-safe"}]}, volumes={"inbox": {"readOnly": True}}),
        given(config={"http": {"listen": "[::]:9477"}}),
        given(nats={"url": "nats://${LOGIN}@nats:4222"}),  # from a Secret, by extraEnv
        given(
            config={"mappings": [{**INBOX, "directory": "${DATA:-/data/inbox}"}]},
            volumes={"inbox": {"mountPath": "/data"}},
        ),
        given(kind="DaemonSet", config={"publications": [{**PUBLISHED, "channel": "${NODE_NAME}"}]}),
    ]

    assert [refusal(values) for values in fine] == [""] * len(fine)


def taken_away(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what, values with null): each map and list by itself, numbers and texts of one section together."""
    plain = {key: None for key, value in values.items() if not isinstance(value, dict | list)}
    if plain:
        yield ", ".join(plain), plain
    for key, value in values.items():
        if isinstance(value, dict | list):
            yield key, {key: None}
        if isinstance(value, dict):
            yield from ((f"{key}.{what}", {key: nulls}) for what, nulls in taken_away(value))


def test_a_value_that_is_taken_away_is_refused_in_words_or_means_nothing():
    """`key: null` takes a default away. No template may stumble over that."""
    stumbled = {}
    more = {"dashboard": {"enabled": False}}  # it is long, and nothing in it depends on values
    everything = merged(load_values("monitoring"), load_values("network-policy"), more)
    for what, nulls in taken_away(yaml.safe_load((CHART / "values.yaml").read_text())):
        said = refusal(merged(everything, nulls))
        if said and "don't go together" not in said and "\n- at '" not in said:
            stumbled[what] = said

    assert stumbled == {}


def test_a_probe_that_is_taken_away_is_not_there():
    container = render(given(startupProbe=None)).container

    assert "startupProbe" not in container
    assert "livenessProbe" in container
