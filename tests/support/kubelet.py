"""A pod spec run as a kubelet would, by a docker daemon on this machine, for tests of charts and of the image.

    pod = Pod(engine, image, tmp_path, manifest, {"configmap/jetsync": {"config.yaml": b"..."}})
    with pod:                           # init containers one after the other, native sidecars, then the containers
        eventually(lambda: pod.ready)
        pod.volumes.update("configmap/jetsync", {...})      # swapped by ..data
        pod["jetsync"].signal("KILL")                       # it is started anew, its volumes stay
    pod["jetsync"].exits                # exit codes; the with-block ends with SIGTERM and the grace period

manifest: a Pod, or anything with a pod template (Deployment, DaemonSet, StatefulSet, CronJob). Every container has
`image`, whatever the spec names. What is done is what it says: user, groups, read-only root, capabilities, no new
privileges, limits, mounts, environment, probes on their paths and periods, restart policy, grace. Containers have the
host's network, so ports have to be free ones. What isn't known here is an error, so that nothing of a spec is passed
over in silence.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.support.engine import Engine
from tests.support.podvolumes import Objects, Volumes

# What is for the scheduler, the API server or the network. The rest has to be done here, or refused.
_POD_ELSEWHERE = {
    *("affinity", "automountServiceAccountToken", "dnsConfig", "dnsPolicy", "enableServiceLinks", "hostNetwork"),
    *("imagePullSecrets", "nodeSelector", "priorityClassName", "schedulerName", "serviceAccountName", "tolerations"),
    *("topologySpreadConstraints",),
}
_POD = {"containers", "initContainers", "restartPolicy", "securityContext", "terminationGracePeriodSeconds", "volumes"}
_CONTAINER = {
    *("args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports"),
    *("readinessProbe", "resources", "restartPolicy", "securityContext", "startupProbe", "terminationMessagePolicy"),
    *("volumeMounts", "workingDir"),
}
_SECURITY = {
    *(
        "allowPrivilegeEscalation",
        "capabilities",
        "fsGroup",
        "fsGroupChangePolicy",
        "privileged",
        "readOnlyRootFilesystem",
    ),
    *("runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile", "supplementalGroups"),
}
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_TICK = 0.05
_BACK_OFF = 0.3  # a kubelet waits ten seconds, then longer


class Pod:
    """`name`: as fieldRef metadata.name gives it. node: a directory that stands for the node."""

    def __init__(
        self, engine: Engine, image: str, node: Path, manifest: Mapping[str, Any], objects: Objects | None = None
    ) -> None:
        while "spec" in manifest and "containers" not in manifest["spec"]:
            manifest = manifest["spec"].get("jobTemplate") or manifest["spec"]["template"]
        self.spec: dict[str, Any] = manifest["spec"]
        _known(self.spec, _POD | _POD_ELSEWHERE)
        self.engine, self.image = engine, image
        self.name = f"pod-{uuid.uuid4().hex[:8]}"
        self.grace = float(self.spec.get("terminationGracePeriodSeconds", 30))
        self.volumes = Volumes(node, self.name, self.spec, objects or {})
        first = [Container(self, spec, init=True) for spec in self.spec.get("initContainers", [])]
        self.containers = {c.name: c for c in [*first, *(Container(self, spec) for spec in self.spec["containers"])]}

    def __getitem__(self, name: str) -> Container:
        return self.containers[name]

    @property
    def ready(self) -> bool:
        """Whether a Service would send to it: every container that goes on is ready."""
        return all(c.ready for c in self.containers.values() if c.goes_on)

    def start(self, timeout: float = 60.0) -> None:
        """Until the containers are started. An init container that fails is run again until `timeout` is over."""
        deadline = time.monotonic() + timeout
        for container in self.containers.values():
            container.start()
            while not (container.started if container.goes_on or not container.init else container.exits[-1:] == [0]):
                late = time.monotonic() > deadline or container.over
                assert not late, f"{container.name} isn't through:\n{container.log[-6000:]}"
                time.sleep(_TICK)

    def stop(self) -> None:
        """As a deleted pod ends: containers, then sidecars from the last to the first."""
        for container in [c for c in self.containers.values() if not c.init]:
            container.stop()
        for container in reversed([c for c in self.containers.values() if c.init]):
            container.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def remove(self) -> None:
        """Everything, without grace."""
        for container in self.containers.values():
            container.kill()


class Container:
    """One container of a pod. exits: its exit codes so far. stopped_after: seconds from SIGTERM to its end."""

    def __init__(self, pod: Pod, spec: Mapping[str, Any], *, init: bool = False) -> None:
        _known(spec, _CONTAINER)
        self.pod, self.spec, self.init = pod, spec, init
        self.name: str = spec["name"]
        self.exits: list[int] = []
        self.stopped_after: float | None = None
        self.ids: list[str] = []
        policy = pod.spec.get("restartPolicy", "Always")
        self.goes_on = spec.get("restartPolicy") == "Always" if init else policy == "Always"
        self._again = self.goes_on or policy != "Never"  # after a failure
        self._probes: dict[str, Probe] = {}
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    # -- what a test asks

    @property
    def id(self) -> str:
        return self.ids[-1]

    @property
    def restarts(self) -> int:
        return len(self.ids) - 1

    @property
    def started(self) -> bool:
        startup = self._probes.get("startupProbe")
        return bool(self.ids) and (startup is None or startup.good is True)

    @property
    def ready(self) -> bool:
        readiness = self._probes.get("readinessProbe")
        return self.started and len(self.exits) < len(self.ids) and (readiness is None or readiness.good is True)

    @property
    def over(self) -> bool:
        """It has ended, and won't be started again."""
        return self._thread is not None and not self._thread.is_alive() and self.exits[-1:] != [0]

    @property
    def log(self) -> str:
        """What it has said, over all restarts."""
        told = [self.pod.engine.docker("logs", each, check=False) for each in self.ids]
        return "".join(done.stdout + done.stderr for done in told)

    def exec(self, *command: str, check: bool = True) -> str:
        return self.pod.engine.docker("exec", self.id, *command, check=check).stdout

    def signal(self, name: str) -> None:
        """To process 1."""
        self.pod.engine.docker("kill", "--signal", name, self.id)

    def answers(self, kind: str) -> list[tuple[float, bool]]:
        """(when, good) of each time that a probe was asked."""
        return list(self._probes[kind].answers)

    # -- life

    def start(self) -> None:
        self._thread = threading.Thread(target=self._live, name=f"container {self.name}")
        self._thread.start()

    def stop(self) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace period is over."""
        if self._thread is None:
            return
        self._ending.set()
        if len(self.exits) < len(self.ids):
            hook = self.spec.get("lifecycle", {}).get("preStop")
            begun = time.monotonic()
            if hook is not None:
                self._hook(hook)
            left = max(1, round(self.pod.grace - (time.monotonic() - begun)))
            self.pod.engine.docker("stop", "--time", left, self.id, timeout=self.pod.grace + 30)
            self.stopped_after = time.monotonic() - begun
        self._thread.join()

    def kill(self) -> None:
        self._ending.set()
        if self.ids:
            self.pod.engine.docker("rm", "--force", self.id, check=False)
        if self._thread is not None:
            self._thread.join()

    def _live(self) -> None:
        while True:
            probes = {kind: Probe(self, self.spec[kind]) for kind in _PROBES if kind in self.spec}
            self._probes = probes
            self.ids.append(self.pod.engine.docker(*self._command()).stdout.strip())
            with subprocess.Popen(
                ["docker", "wait", self.id], stdout=subprocess.PIPE, text=True, env=self.pod.engine.environment
            ) as waiter:
                while waiter.poll() is None:
                    self._ask(probes)
                    time.sleep(_TICK)
                assert waiter.stdout is not None
                self.exits.append(int(waiter.stdout.read().strip() or -1))
            if self._ending.wait(_BACK_OFF) or not (self.goes_on or (self._again and self.exits[-1])):
                return

    def _ask(self, probes: Mapping[str, Probe]) -> None:
        startup = probes.get("startupProbe")
        due = (
            [startup]
            if startup is not None and startup.good is not True
            else [p for p in probes.values() if p is not startup]
        )
        for probe in due:
            probe.ask()
        if self._ending.is_set():
            return
        if any(probes[kind].good is False for kind in ("startupProbe", "livenessProbe") if kind in probes):
            self.pod.engine.docker("stop", "--time", round(self.pod.grace), self.id, timeout=self.pod.grace + 30)

    def _hook(self, hook: Mapping[str, Any]) -> None:
        if "exec" in hook:
            self.exec(*hook["exec"]["command"], check=False)
        elif "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
        else:
            raise NotImplementedError(f"preStop {hook}")

    # -- the spec as a command line

    def _command(self) -> list[object]:
        environment = self._environment()

        def expand(word: str) -> str:
            return re.sub(r"\$\((\w+)\)", lambda match: environment.get(match[1], match[0]), word)

        command, args = (list(map(expand, self.spec.get(key, []))) for key in ("command", "args"))
        words: list[object] = ["run", "--detach", "--network", "host", "--no-healthcheck"]
        words += ["--name", f"{self.pod.name}-{self.name}-{len(self.ids)}", *self._security(), *self._limits()]
        words += [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        for mount in self.spec.get("volumeMounts", []):
            path = self.pod.volumes.paths[mount["name"]] / mount.get("subPath", "")
            words += ["--volume", f"{path}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"]
        if "workingDir" in self.spec:
            words += ["--workdir", self.spec["workingDir"]]
        if command:
            words += ["--entrypoint", command[0]]
        return [*words, self.pod.image, *command[1:], *args]

    def _security(self) -> list[object]:
        pod, own = self.pod.spec.get("securityContext", {}), self.spec.get("securityContext", {})
        _known({**pod, **own}, _SECURITY)
        user = own.get("runAsUser", pod.get("runAsUser"))
        group = own.get("runAsGroup", pod.get("runAsGroup"))
        image_user, _, image_group = self.pod.engine.inspect(self.pod.image, "{{.Config.User}}").partition(":")
        if own.get("runAsNonRoot", pod.get("runAsNonRoot")) and not (
            str(user or image_user).isdigit() and int(user or image_user)
        ):
            raise AssertionError(f"runAsNonRoot, and the user is {user or image_user or 'root'}")
        # Without a group the image's counts where the user is the image's too; a number alone is in group 0.
        group = group if group is not None else image_group if user is None else 0
        words: list[object] = ["--user", f"{image_user if user is None else user}:{group}"]
        groups = [*pod.get("supplementalGroups", []), *([pod["fsGroup"]] if "fsGroup" in pod else [])]
        words += [word for number in groups for word in ("--group-add", number)]
        if own.get("readOnlyRootFilesystem"):
            words.append("--read-only")
        if own.get("allowPrivilegeEscalation") is False:
            words += ["--security-opt", "no-new-privileges"]
        if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type", "Unconfined") == "Unconfined":
            words += ["--security-opt", "seccomp=unconfined"]
        for verb in ("drop", "add"):
            words += [word for name in own.get("capabilities", {}).get(verb, []) for word in (f"--cap-{verb}", name)]
        return words

    def _limits(self) -> list[object]:
        limits = self.spec.get("resources", {}).get("limits", {})
        words: list[object] = []
        if "memory" in limits:
            words += ["--memory", quantity(limits["memory"]), "--memory-swap", quantity(limits["memory"])]
        if "cpu" in limits:
            words += ["--cpus", quantity(limits["cpu"])]
        return words

    def _environment(self) -> dict[str, str]:
        objects = self.pod.volumes.objects
        found: dict[str, str] = {}
        for source in self.spec.get("envFrom", []):
            kind = "configmap" if "configMapRef" in source else "secret"
            files = objects[f"{kind}/{source[f'{kind}Ref' if kind == 'secret' else 'configMapRef']['name']}"]
            found |= {source.get("prefix", "") + name: value.decode() for name, value in files.items()}
        for entry in self.spec.get("env", []):
            found[entry["name"]] = entry["value"] if "value" in entry else self._reference(entry.get("valueFrom", {}))
        return found

    def _reference(self, source: Mapping[str, Any]) -> str:
        kind: str = next(iter(source), "")
        value: Mapping[str, Any] = source.get(kind, {})
        if kind in {"secretKeyRef", "configMapKeyRef"}:
            name = f"{kind.removesuffix('KeyRef').lower()}/{value['name']}"
            return self.pod.volumes.objects[name][value["key"]].decode()
        fields = {"metadata.name": self.pod.name, "metadata.namespace": "default", "spec.nodeName": "node-1"}
        fields |= {"status.podIP": "127.0.0.1", "status.hostIP": "127.0.0.1", "metadata.uid": self.pod.name}
        if kind != "fieldRef" or value["fieldPath"] not in fields:
            raise NotImplementedError(f"valueFrom {source}")
        return fields[value["fieldPath"]]


_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


class Probe:
    """good: None until it is known. Asked every periodSeconds."""

    def __init__(self, container: Container, spec: Mapping[str, Any]) -> None:
        self._container, self._spec = container, spec
        self._due = time.monotonic() + spec.get("initialDelaySeconds", 0)
        self._in_a_row = 0
        self.answers: list[tuple[float, bool]] = []
        self.good: bool | None = None

    def ask(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._spec.get("periodSeconds", 10)
        good = self._once()
        self._in_a_row = self._in_a_row + 1 if self.answers and self.answers[-1][1] == good else 1
        self.answers.append((time.monotonic(), good))
        if self._in_a_row >= self._spec.get("successThreshold" if good else "failureThreshold", 1 if good else 3):
            self.good = good

    def _once(self) -> bool:
        seconds = self._spec.get("timeoutSeconds", 1)
        if "exec" in self._spec:
            with contextlib.suppress(subprocess.TimeoutExpired):
                engine = self._container.pod.engine
                command = self._spec["exec"]["command"]
                return engine.docker("exec", self._container.id, *command, check=False, timeout=seconds).returncode == 0
            return False
        if "httpGet" not in self._spec:
            raise NotImplementedError(f"a probe {self._spec}")
        get = self._spec["httpGet"]
        ports = {port.get("name"): port["containerPort"] for port in self._container.spec.get("ports", [])}
        url = f"http://127.0.0.1:{ports.get(get['port'], get['port'])}{get.get('path', '/')}"
        try:
            with urllib.request.urlopen(url, timeout=seconds) as answer:
                return 200 <= int(answer.status) < 400
        except (urllib.error.HTTPError, OSError):
            return False


def quantity(text: str | float) -> str:
    """ "64Mi" as bytes, "500m" as 0.5."""
    match = re.fullmatch(r"([\d.]+)(m|[kMG]|[KMG]i)?", str(text))
    assert match is not None, text
    number = float(match[1]) / 1000 if match[2] == "m" else float(match[1]) * _UNITS[match[2] or ""]
    return f"{number:g}" if number < 1000 else str(round(number))


def _known(spec: Mapping[str, Any], keys: set[str]) -> None:
    unknown = spec.keys() - keys
    if unknown:
        raise NotImplementedError(f"the test's kubelet doesn't know {sorted(unknown)}")
