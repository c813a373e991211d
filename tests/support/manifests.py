"""Plain manifests, and a kubelet of sorts that runs the agents in them as processes, on a real server.

    kiosk = pod("init-container-edge.yaml", "kiosk")    # of charts/examples
    node = Node(tmp_path, server.url)
    node.run(kiosk, exit=0)                             # its init containers, to their end
    with node.running(sidecar):
        node.probe("/readyz")

Nothing of a manifest is changed but the paths (a volume is a directory of the node), the servers and the login, and the
address of the HTTP server. User, capabilities and limits are those of the test: tests/deploy has real containers too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.agent import Result, jetsync
from tests.support.charts import EXAMPLES, Object, documents, environment
from tests.support.server import DIE_WITH_PARENT, free_port

IMAGE = "registry.example.com/jetsync:0.1.0"


@dataclass(frozen=True)
class Pod:
    """A pod of a manifest, with the ConfigMap that its agents read. agents: containers that run jetsync."""

    name: str
    spec: Object
    config_map: Object

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def agents(self) -> list[Object]:
        return [container for container in self.containers if container["image"] == IMAGE and "args" in container]

    @property
    def config_text(self) -> str:
        text: str = self.config_map["data"]["config.yaml"]
        return text


def pods(path: Path) -> list[Pod]:
    objects = documents(path.read_text())
    maps = {found["metadata"]["name"]: found for found in objects if found["kind"] == "ConfigMap"}
    made = []
    for found in objects:
        spec = found.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template is not None:
            (name,) = [volume["configMap"]["name"] for volume in template["spec"]["volumes"] if "configMap" in volume]
            made.append(Pod(found["metadata"]["name"], template["spec"], maps[name]))
    assert made
    return made


def pod(file: str, name: str) -> Pod:
    (found,) = [found for found in pods(EXAMPLES / file) if found.name == name]
    return found


@dataclass
class Node:
    """A node: volumes are directories, containers are processes; the server is this one, without a login."""

    home: Path
    url: str
    port: int = field(default_factory=free_port)

    def volume(self, name: str) -> Path:
        path = self.home / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def place(self, container: Object, path: str) -> str:
        """Where an absolute path of the container is here."""
        over = [mount for mount in container["volumeMounts"] if f"{path}/".startswith(f"{mount['mountPath']}/")]
        if not over:
            return path
        mount = max(over, key=lambda mount: len(mount["mountPath"]))
        return str(self.volume(mount["name"])) + path[len(mount["mountPath"]) :]

    def prepare(self, pod: Pod, container: Object) -> Path:
        """The configuration file of a container: that of the ConfigMap, with the paths of here."""
        for before in pod.containers:
            if before.get("command", [""])[0] == "mkdir":
                subprocess.run([self.place(before, word) for word in before["command"]], check=True)
        config = self._here(container, {"state_dir": "/var/lib/jetsync", **yaml.safe_load(pod.config_text)})
        config["nats"] = {"servers": [self.url]}
        if config.get("http"):
            config["http"]["listen"] = f"127.0.0.1:{self.port}"
        path = self.volume("jetsync-config") / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _here(self, container: Object, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._here(container, below) for key, below in value.items()}
        if isinstance(value, list):
            return [self._here(container, below) for below in value]
        return self.place(container, value) if isinstance(value, str) and value.startswith("/") else value

    def run(self, pod: Pod, *, exit: int) -> Result:
        """Run the only agent of a pod to its end."""
        (container,) = pod.agents
        config = self.prepare(pod, container)
        return jetsync(*container["args"], exit=exit, env=environment(container) | {"JETSYNC_CONFIG": str(config)})

    @contextlib.contextmanager
    def running(self, pod: Pod) -> Iterator[subprocess.Popen[bytes]]:
        """The only agent of a pod, until the block ends: then SIGTERM, and it has to end well."""
        (container,) = pod.agents
        config = self.prepare(pod, container)
        log = self.home / f"{container['name']}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*DIE_WITH_PARENT, sys.executable, "-m", "agent", *container["args"]],
                env={**os.environ, **environment(container), "JETSYNC_CONFIG": str(config)},
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        try:
            yield process
            process.terminate()
            assert process.wait(pod.spec.get("terminationGracePeriodSeconds", 30)) == 128 + signal.SIGTERM
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text(errors='replace')[-6000:]}") from error
        finally:
            process.kill()
            process.wait()

    def probe(self, path: str) -> bool:
        """As the kubelet asks."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            with error:
                print(error.read().decode())  # why it isn't ready
            return False
        except OSError:
            return False
