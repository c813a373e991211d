"""The chart's pod and the examples, run as a kubelet would, with the image built for real and a real nats-server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.agent import Agent, eventually, write_tree
from tests.support.charts import EXAMPLES, merged, render
from tests.support.engine import Engine
from tests.support.kubelet import Container, Pod
from tests.support.server import NatsServer, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("image")]

# A claim of the chart is named after the release; the chart's pod has the data there.
CLAIM = "claims/demo-jetsync-data-inbox"
CONFIG = "configmap/demo-jetsync"
QUICK = {
    "startupProbe": {"periodSeconds": 1},
    "readinessProbe": {"periodSeconds": 1},
    "livenessProbe": {"periodSeconds": 1},
}
# Tells what it reads, and ends on SIGTERM.
APPLICATION = "trap exit TERM; echo $(cat {}); sleep 600 & wait"


class Site:
    """A release of the chart on one node. `values` may be changed between pods."""

    def __init__(self, engine: Engine, image: str, node: Path, url: str, bucket: str) -> None:
        self.engine, self.image, self.node = engine, image, node
        self.port = free_port()
        self.pods: list[Pod] = []
        self.values: dict[str, Any] = {
            "nats": {"url": url},
            "config": {
                "http": {"listen": f"0.0.0.0:{self.port}"},
                "buckets": {bucket: {}},
                "mappings": [{"name": "inbox", "directory": "/data/inbox", "bucket": bucket}],
            },
            "volumes": {"inbox": {"persistentVolumeClaim": {"size": "1Gi"}}},
            **QUICK,
        }

    def config_map(self, **changes: Any) -> dict[str, bytes]:
        """The chart's ConfigMap, with `config` changed."""
        release = render(merged(self.values, {"config": changes}))
        return {"config.yaml": release.config_text.encode()}

    def pod(self, change: Callable[[dict[str, Any]], None] = lambda spec: None) -> Pod:
        manifest = render(self.values).workload
        change(manifest["spec"]["template"]["spec"])
        pod = Pod(self.engine, self.image, self.node, manifest, {CONFIG: self.config_map()})
        self.pods.append(pod)
        return pod

    @property
    def data(self) -> Path:
        path = self.node / CLAIM
        path.mkdir(parents=True, exist_ok=True)
        return path

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all label values that aren't given."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.fixture
def site(engine: Engine, image: str, tmp_path: Path, fresh_server: NatsServer, bucket_name: str) -> Iterator[Site]:
    site = Site(engine, image, tmp_path / "node", fresh_server.url, bucket_name)
    yield site
    for pod in site.pods:
        pod.remove()


@pytest.fixture
def peer(tmp_path: Path, fresh_server: NatsServer, bucket_name: str) -> Agent:
    """An agent outside, on the same bucket."""
    return Agent(
        tmp_path / "peer", fresh_server.url, [{"name": "files", "directory": "./files", "bucket": bucket_name}]
    )


def ready(pod: Pod) -> None:
    eventually(lambda: pod.ready, timeout=60)


def stored(server: NatsServer, bucket: str) -> int:
    """Bytes of a bucket; 0 while there is none."""
    stream = server.streams().get(f"OBJ_{bucket}")
    return int(stream["state"]["bytes"]) if stream else 0


def told(container: Container, text: str) -> None:
    def check() -> bool:
        assert container.log == text
        return True

    eventually(check)


def test_the_pod_has_the_rights_that_the_chart_gives_it_and_no_others(site: Site):
    with site.pod() as pod:
        ready(pod)
        status = dict(
            line.split(":\t", 1) for line in pod["jetsync"].exec("cat", "/proc/1/status").splitlines() if ":\t" in line
        )
        assert (status["Uid"].split(), status["Gid"].split()) == (["65532"] * 4, ["65532"] * 4)
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (0, 0)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        nowhere = 'for d in / /etc /usr /opt/jetsync /etc/jetsync; do touch "$d/x" 2>/dev/null && echo "$d"; done; true'
        assert pod["jetsync"].exec("sh", "-c", nowhere) == ""
        files = "/sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
        assert pod["jetsync"].exec("sh", "-c", f"cat {files} 2>/dev/null; true").split() == [str(512 << 20)]


def test_files_travel_and_a_killed_container_is_ready_again_without_a_transfer(site: Site, peer: Agent):
    write_tree(site.data, {f"d/{number}": b"bytes" for number in range(50)})
    with site.pod() as pod:
        ready(pod)
        peer.sync()
        assert len(list(peer.directory().rglob("d/*"))) == 50

        pod["jetsync"].signal("KILL")
        eventually(lambda: pod["jetsync"].restarts == 1)
        ready(pod)
        assert pod["jetsync"].exits == [137]
        assert site.metric("jetsync_transfers_total") == 0
        write_tree(site.data, {"after": b"1"})
        eventually(lambda: peer.sync() and (peer.directory() / "after").exists())
    assert pod["jetsync"].exits == [137, 143]


def test_a_new_pod_with_the_volume_and_without_the_state_is_ready_without_a_transfer(site: Site):
    write_tree(site.data, {f"d/{number}": b"bytes" for number in range(50)})
    with site.pod() as pod:
        ready(pod)
        assert site.metric("jetsync_transfers_total") == 50
    pod.volumes.remove()

    with site.pod() as pod:
        ready(pod)
        assert site.metric("jetsync_transfers_total") == 0


@pytest.mark.parametrize("policy", ["once", "connected"])
def test_a_server_that_goes_away_leaves_the_pod_alive_and_ready_as_its_policy_says(
    site: Site, fresh_server: NatsServer, policy: str
):
    site.values["config"]["http"]["ready"] = policy
    with site.pod() as pod:
        ready(pod)
        fresh_server.stop()
        eventually(lambda: site.metric("jetsync_nats_connected") == 0)
        asked = len(pod["jetsync"].answers("livenessProbe"))
        eventually(lambda: len(pod["jetsync"].answers("livenessProbe")) > asked + 5)
        assert pod.ready == (policy == "once")
        assert all(good for _, good in pod["jetsync"].answers("livenessProbe"))

        fresh_server.start()
        eventually(lambda: site.metric("jetsync_nats_connected") == 1)
        ready(pod)
        assert pod["jetsync"].restarts == 0


def test_without_a_server_a_pod_with_ready_local_starts_on_what_it_has(site: Site, fresh_server: NatsServer):
    site.values["config"]["http"]["ready"] = "local"
    site.values["state"] = {"persistentVolumeClaim": {"size": "1Gi"}}
    write_tree(site.data, {"a": b"1"})
    with site.pod() as pod:
        ready(pod)
    fresh_server.stop()

    with site.pod() as pod:
        ready(pod)
        assert site.metric("jetsync_nats_connected") == 0


def test_a_changed_configmap_is_taken_over_and_a_wrong_one_is_not(site: Site):
    with site.pod() as pod:
        ready(pod)
        pod.volumes.update(CONFIG, site.config_map(log={"level": "debug"}))
        eventually(lambda: '"reloaded"' in pod["jetsync"].log)

        pod.volumes.update(CONFIG, {"config.yaml": site.config_map()["config.yaml"] + b"unheard: 1\n"})
        eventually(lambda: site.metric("jetsync_config_last_reload_successful") == 0)
        assert pod.ready

        pod.volumes.update(CONFIG, site.config_map())
        eventually(lambda: site.metric("jetsync_config_last_reload_successful") == 1)
        assert pod["jetsync"].restarts == 0


def test_a_pod_in_the_middle_of_a_transfer_ends_within_its_grace(
    site: Site, fresh_server: NatsServer, bucket_name: str
):
    (site.data / "large").write_bytes(b"\0" * (64 << 20))
    site.values["config"]["mappings"][0]["limits"] = {"upload": "1MiB"}
    with site.pod() as pod:
        eventually(lambda: stored(fresh_server, bucket_name) > 1 << 20)
    assert pod["jetsync"].exits == [143]
    assert pod["jetsync"].stopped_after is not None and pod["jetsync"].stopped_after < pod.grace


def test_an_agent_that_hangs_is_restarted_by_its_liveness_probe(site: Site):
    site.values["livenessProbe"] = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}
    site.values["terminationGracePeriodSeconds"] = 15
    with site.pod() as pod:
        ready(pod)
        pod["jetsync"].exec("sh", "-c", 'kill -STOP "$(cat /proc/1/task/1/children)"')
        eventually(lambda: pod["jetsync"].restarts == 1, timeout=60)
        ready(pod)
        assert pod["jetsync"].exits == [137]


def test_openshift_gives_any_user_with_group_0(site: Site):
    site.values["podSecurityContext"] = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    write_tree(site.data, {"a": b"1"})

    def admit(spec: dict[str, Any]) -> None:
        """As the restricted security context constraint does."""
        spec["securityContext"] |= {"fsGroup": 1_000_650_000}
        for container in spec["containers"]:
            container["securityContext"] |= {"runAsUser": 1_000_650_000}

    with site.pod(admit) as pod:
        ready(pod)
        groups = "groups=0(root),1000650000"
        assert pod["jetsync"].exec("id").strip() == f"uid=1000650000 gid=0(root) {groups}"
        assert site.metric("jetsync_transfers_total", operation="upload") == 1


def test_a_daemonset_gives_the_nodes_directory_to_its_user_when_it_is_told_to(site: Site, peer: Agent):
    site.values["kind"] = "DaemonSet"
    site.values["volumes"] = {"inbox": {"hostPath": {"path": "/srv/inbox", "type": "DirectoryOrCreate"}}}
    site.values["state"] = {"hostPath": {"path": "/srv/state", "type": "DirectoryOrCreate"}}
    site.values["volumePermissions"] = {"enabled": True}
    write_tree(peer.directory(), {"a": b"1"})
    peer.sync()

    with site.pod() as pod:
        ready(pod)
        assert (site.node / "host/srv/inbox/a").read_bytes() == b"1"
        assert (site.node / "host/srv/inbox/a").stat().st_uid == 65532
        assert pod["volume-permissions"].exits == [0]


def test_what_a_subscriptions_command_leaves_behind_is_reaped(site: Site, peer: Agent, bucket_name: str):
    peer.config["mappings"] = []
    peer.config["publications"] = [
        {"name": "models", "directory": "./tree", "repository": bucket_name, "channel": "stable"}
    ]
    peer.write()
    write_tree(peer.home / "tree", {"a": b"1"})
    peer.cli("snapshot", "publish", "models", exit=0)
    site.values["config"]["mappings"] = []
    site.values["config"]["subscriptions"] = [
        {
            "name": "inbox",
            "directory": "/data/inbox",
            "repository": bucket_name,
            "channel": "stable",
            "after": ["for n in 1 2 3 4 5; do sleep 0.2 & done"],
        }
    ]
    with site.pod() as pod:
        ready(pod)
        processes = "cat /proc/[0-9]*/stat | grep -v ' (cat) \\| (sh) \\| (grep) '"
        eventually(lambda: len(pod["jetsync"].exec("sh", "-c", processes).splitlines()) == 2)  # the init, the agent


def example(
    name: str, server: NatsServer, port: int, **names: str
) -> tuple[dict[str, Any], dict[str, dict[str, bytes]]]:
    """An example's workload and its ConfigMaps, for this server and port; names: texts that are replaced."""
    objects = list(yaml.safe_load_all((EXAMPLES / name).read_text()))
    maps = {}
    for found in objects:
        if found["kind"] == "ConfigMap":
            config = yaml.safe_load(found["data"]["config.yaml"])
            config["nats"] = {"servers": [server.url]}
            if config.get("http"):
                config["http"]["listen"] = f"127.0.0.1:{port}"
            text = yaml.safe_dump(config)
            for old, new in names.items():
                text = text.replace(old, new)
            maps[f"configmap/{found['metadata']['name']}"] = {"config.yaml": text.encode()}
    (workload,) = [found for found in objects if "template" in found.get("spec", {})]
    return json.loads(json.dumps(workload).replace("9477", str(port))), maps


def test_an_init_container_lets_an_edge_pod_start_while_the_link_is_down(
    engine: Engine, image: str, tmp_path: Path, fresh_server: NatsServer, peer: Agent
):
    manifest, objects = example("init-container-edge.yaml", fresh_server, free_port())
    objects["secret/jetsync-creds"] = {"sys.creds": b""}
    (application,) = manifest["spec"]["template"]["spec"]["containers"]
    application["command"] = ["sh", "-c", APPLICATION.format("/data/content/a")]
    (agent,) = [c for c in manifest["spec"]["template"]["spec"]["initContainers"] if c["name"] == "jetsync"]
    agent["args"] = ["sync", "--timeout", "2s", "--offline-ok"]
    peer.config["mappings"][0]["bucket"] = "content"
    peer.config["buckets"] = {"content": {}}
    peer.write()
    write_tree(peer.directory(), {"a": b"1"})
    peer.sync()

    pods = []
    try:
        for _ in range(2):
            pod = Pod(engine, image, tmp_path / "node", manifest, objects)
            pods.append(pod)
            with pod:
                told(pod[application["name"]], "1\n")
            assert pod["jetsync"].exits == [0]
            fresh_server.stop()
    finally:
        for pod in pods:
            pod.remove()


def test_a_native_sidecar_holds_the_application_back_until_the_first_snapshot_is_there(
    engine: Engine, image: str, tmp_path: Path, fresh_server: NatsServer, peer: Agent
):
    manifest, objects = example("native-sidecar.yaml", fresh_server, free_port())
    objects["secret/jetsync-creds"] = {"sys.creds": b""}
    spec = manifest["spec"]["template"]["spec"]
    (agent,) = [c for c in spec["initContainers"] if c["name"] == "jetsync"]
    agent["startupProbe"]["periodSeconds"] = 1
    (application,) = spec["containers"]
    application["command"] = ["sh", "-c", APPLICATION.format("$MODELS/a")]
    peer.config |= {"mappings": [], "buckets": {"artifacts": {}}}
    peer.config["publications"] = [
        {"name": "models", "directory": "./tree", "repository": "artifacts", "channel": "stable"}
    ]
    peer.write()
    write_tree(peer.home / "tree", {"a": b"1"})
    peer.cli("snapshot", "publish", "models", exit=0)

    pod = Pod(engine, image, tmp_path / "node", manifest, objects)
    try:
        with pod:
            assert pod["jetsync"].ready
            told(pod[application["name"]], "1\n")
            write_tree(peer.home / "tree", {"a": b"2"})
            second = peer.cli("snapshot", "publish", "models", "--json", exit=0).json["id"]
            models = application["env"][0]["value"]
            eventually(lambda: pod[application["name"]].exec("readlink", models).strip().endswith(second))
            assert pod[application["name"]].exec("cat", f"{models}/a") == "2"
    finally:
        pod.remove()
