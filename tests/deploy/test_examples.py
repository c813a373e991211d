"""The manifests below charts/examples: Kubernetes takes them, the agent takes their configurations and command lines,
and their commands do on a real server what their comments say."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest
import typer
import yaml

from agent.cli import app
from agent.config.load import loads
from agent.config.model import Config
from tests.support.agent import Result, eventually, jetsync
from tests.support.charts import EXAMPLES, documents, environment
from tests.support.kubernetes import refusals, versions
from tests.support.manifests import Node, pod, pods
from tests.support.server import NatsServer
from tests.support.stock import Stock

MANIFESTS = sorted(EXAMPLES.glob("*.yaml"))
CI = EXAMPLES / "publish-from-ci"

every_manifest = pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """("snapshot publish", {"name": ...}): what the command line makes of these. Fails as the command would."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("jetsync", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        _, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command.name, rest, parent=context)
    names = context.command_path.split()[1:]
    return " ".join(names), dict(context.params)


# -- what they say ---------------------------------------------------------------------------------------------------


@every_manifest
def test_kubernetes_takes_every_object_in_all_its_versions(path: Path):
    for version in versions():
        for found in documents(path.read_text()):
            assert refusals(found, version) == [], f"{found['kind']} in {version}"


@every_manifest
def test_every_selector_finds_its_pods(path: Path):
    for found in documents(path.read_text()):
        if "selector" in found.get("spec", {}):
            labels = found["spec"]["template"]["metadata"]["labels"]
            assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()


@every_manifest
def test_the_agents_own_loader_takes_the_configuration(path: Path):
    for found in pods(path):
        for container in found.agents:
            config = loads(found.config_text, base=Path("/etc/jetsync"), environ=environment(container))
            mounts = {Path(mount["mountPath"]): mount for mount in container["volumeMounts"]}
            for directory, written in directories(config):
                over = [mount for mount in mounts if directory.is_relative_to(mount)]
                assert over, f"{directory} is on no volume"
                assert not (written and mounts[max(over)].get("readOnly")), f"{directory} can't be written"
            for secret in secrets(config):
                if not (secret.name == "seed.nk" and "prune" in container["args"]):  # pruning signs nothing
                    assert secret.parent in mounts, secret


def directories(config: Config) -> Iterator[tuple[Path, bool]]:
    """What has to be on a volume, and whether the agent writes to it."""
    yield config.state_dir, True
    for mapping in config.mappings:
        yield mapping.directory, "push" not in str(mapping.mode)
    for subscription in config.subscriptions:
        yield subscription.directory, True


def secrets(config: Config) -> Iterator[Path]:
    yield from config.nats.secret_files.values()
    yield from (publication.sign_with for publication in config.publications if publication.sign_with)


@every_manifest
def test_every_command_line_is_one_that_the_program_takes_and_names_what_is_configured(path: Path):
    for found in pods(path):
        config = loads(found.config_text, base=Path("/"), environ=environment(found.agents[0]))
        for container in found.agents:
            command, given = parsed(container["args"])
            if command == "snapshot publish":
                assert given["name"] in [publication.name for publication in config.publications]
            if command == "snapshot prune":
                assert given["repository"] in config.buckets


@every_manifest
def test_every_mount_has_its_volume_and_every_volume_is_mounted(path: Path):
    for found in pods(path):
        volumes = {volume["name"] for volume in found.spec["volumes"]}
        mounted = {mount["name"] for container in found.containers for mount in container["volumeMounts"]}
        assert mounted == volumes
        assert not any("subPath" in mount for container in found.containers for mount in container["volumeMounts"])


@every_manifest
def test_pods_are_as_restricted_as_their_work_allows(path: Path):
    for found in pods(path):
        assert found.spec["automountServiceAccountToken"] is False
        assert found.spec["enableServiceLinks"] is False
        assert found.spec["securityContext"]["runAsNonRoot"] is True
        assert found.spec["securityContext"]["runAsUser"] == found.spec["securityContext"]["fsGroup"] == 65532
        assert found.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in found.containers:
            context = container["securityContext"]
            owns = container.get("command", [""])[0] == "chown"
            assert context["capabilities"] == {"drop": ["ALL"], **({"add": ["CHOWN"]} if owns else {})}
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context.get("runAsUser", 65532) == (0 if owns else 65532)
        for container in found.agents:
            assert set(container["resources"]["requests"]) == {"cpu", "memory", "ephemeral-storage"}


def test_every_example_is_in_the_table():
    table = (EXAMPLES / "README.md").read_text()

    for path in EXAMPLES.rglob("*.yaml"):
        assert f"({path.relative_to(EXAMPLES)})" in table, path.name


def test_the_native_sidecar_waits_long_for_the_first_snapshot_and_never_ends_for_a_link():
    (sidecar,) = pod("native-sidecar.yaml", "inference").agents

    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert sidecar["startupProbe"]["failureThreshold"] * sidecar["startupProbe"]["periodSeconds"] >= 3600
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert "readinessProbe" not in sidecar


# -- what they do ----------------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path, fresh_server: NatsServer) -> Node:
    return Node(tmp_path / "node", fresh_server.url)


@pytest.fixture
def stock(fresh_server: NatsServer) -> Iterator[Stock]:
    with Stock(fresh_server.url) as stock:
        yield stock


def signing_key(path: Path) -> None:
    path.write_bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))


def test_the_init_container_fills_the_volume_or_fails(node: Node, stock: Stock, fresh_server: NatsServer):
    application = pod("init-container.yaml", "application")
    stock.create("content")
    stock.put("content", "a/b.txt", b"content")

    node.run(application, exit=0)
    assert (node.volume("content") / "a" / "b.txt").read_bytes() == b"content"

    fresh_server.stop()
    application.agents[0]["args"][application.agents[0]["args"].index("5m")] = "1s"
    node.run(application, exit=5)


def test_at_the_edge_the_application_starts_on_what_was_brought_before_and_not_on_nothing(
    node: Node, stock: Stock, fresh_server: NatsServer, tmp_path: Path
):
    kiosk = pod("init-container-edge.yaml", "kiosk")
    arguments = kiosk.agents[0]["args"]
    arguments[arguments.index("20s")] = "1s"
    stock.create("content")
    stock.put("content", "page.html", b"page")
    node.run(kiosk, exit=0)

    fresh_server.stop()
    node.run(kiosk, exit=0)
    assert (node.volume("data") / "content" / "page.html").read_bytes() == b"page"
    Node(tmp_path / "new", node.url).run(kiosk, exit=5)


def test_the_publisher_makes_a_signed_snapshot_that_the_sidecar_installs_and_replaces(node: Node, stock: Stock):
    signing_key(node.volume("publisher-key") / "seed.nk")
    publish, prune = pod("cronjob-publisher.yaml", "publish-models"), pod("cronjob-publisher.yaml", "prune-models")
    inference = pod("native-sidecar.yaml", "inference")
    source = node.volume("models")
    (source / "model.bin").write_bytes(b"one")
    assert node.run(publish, exit=0).json["uploads"] == 1
    there = Node(node.home / "there", node.url)
    model = there.volume("models") / "current" / "model.bin"

    with there.running(inference):
        eventually(lambda: there.probe("/readyz"))
        assert model.read_bytes() == b"one"
        (source / "model.bin").write_bytes(b"two")
        node.run(publish, exit=0)
        eventually(lambda: model.read_bytes() == b"two")
    node.run(prune, exit=0)


def test_a_sidecar_without_anything_to_install_lives_and_keeps_the_application_waiting(node: Node, stock: Stock):
    stock.create("artifacts")

    with node.running(pod("native-sidecar.yaml", "inference")):
        eventually(lambda: node.probe("/livez"))
        assert not node.probe("/readyz")


def test_the_mirror_of_a_node_is_ready_with_the_link_down_and_follows_when_it_is_back(
    node: Node, stock: Stock, fresh_server: NatsServer
):
    mirror = pod("daemonset-mirror.yaml", "edge-mirror")
    file = node.volume("mirror") / "a.txt"
    stock.create("content")
    stock.put("content", "a.txt", b"a")
    with node.running(mirror):
        eventually(lambda: file.read_bytes() == b"a")
        eventually(lambda: node.probe("/readyz"))
    fresh_server.stop()

    with node.running(mirror):  # a new pod on the same node
        eventually(lambda: node.probe("/readyz"))
        assert file.read_bytes() == b"a"
        fresh_server.start()
        with Stock(fresh_server.url) as again:
            again.put("content", "a.txt", b"b")
        eventually(lambda: file.read_bytes() == b"b")


# -- publishing from CI ----------------------------------------------------------------------------------------------


def ci_commands() -> dict[str, list[str]]:
    """What the CI files run: "github publish" -> the arguments of jetsync."""
    found = {}
    for job, steps in yaml.safe_load((CI / "gitlab-ci.yaml").read_text()).items():
        for line in steps.get("script", []) if isinstance(steps, dict) else []:
            if line.startswith("jetsync "):
                found[f"gitlab {job}"] = shlex.split(line)[1:]
    workflow = yaml.safe_load((CI / "github-actions.yaml").read_text())
    for step in workflow["jobs"]["publish"]["steps"]:
        words = shlex.split(step.get("run", "").replace("\\\n", " "))
        if "$IMAGE" in words:
            found[f"github {step['name']}"] = words[words.index("$IMAGE") + 1 :]
    return found


def test_ci_publishes_and_promotes_with_the_same_command_lines_everywhere():
    commands = ci_commands()

    assert set(commands) == {f"{service} {step}" for service in ("github", "gitlab") for step in ("publish", "promote")}
    for step in ("publish", "promote"):
        assert commands[f"github {step}"] == commands[f"gitlab {step}"]
        assert parsed(commands[f"github {step}"])[0] == f"snapshot {step}"


def test_ci_runs_the_image_without_rights_and_gives_it_what_its_configuration_asks_for():
    workflow = yaml.safe_load((CI / "github-actions.yaml").read_text())
    run = shlex.split(workflow["env"]["RUN"])
    given = {run[index + 1].partition("=")[0] for index, word in enumerate(run) if word == "--env"}

    assert run[:2] == ["docker", "run"]
    assert {"--read-only", "--cap-drop", "no-new-privileges"} <= set(run)
    config = loads((CI / "jetsync.yaml").read_text(), base=Path("/work"), environ=dict.fromkeys(given, "nats://h"))
    assert str(config.state_dir) == "/tmp/jetsync"  # the only place that can be written


def test_what_ci_has_built_is_in_its_channel_and_a_tag_moves_the_other_one_there(
    tmp_path: Path, fresh_server: NatsServer, node: Node
):
    work = tmp_path / "work"
    (work / "public").mkdir(parents=True)
    (work / "public" / "index.html").write_text("<h1>")
    config = yaml.safe_load((CI / "jetsync.yaml").read_text())
    del config["nats"]["credentials_file"]  # this server asks for none
    (work / "jetsync.yaml").write_text(yaml.safe_dump(config))
    env = {"NATS_URL": fresh_server.url, "STATE_DIR": str(tmp_path / "state")}
    commands = ci_commands()

    def ci(step: str) -> Result:
        return jetsync(*commands[f"gitlab {step}"], exit=0, env=env, cwd=work)

    first = ci("publish").json
    assert first["uploads"] == 1
    shutil.rmtree(tmp_path / "state")  # the next job runs on another machine
    again = ci("publish").json
    assert (again["id"], again["uploads"]) == (first["id"], 0)
    assert ci("promote").json["snapshot"] == first["id"]
    shown = jetsync("-c", "jetsync.yaml", "snapshot", "show", "artifacts", "stable", exit=0, env=env, cwd=work)
    assert "index.html" in shown.out
