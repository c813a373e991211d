"""The chart as a function: values -> the objects that Kubernetes would get, by the Helm SDK from PyPI.

    release = render(load_values("daemonset"))          # charts/jetsync/ci/daemonset-values.yaml
    release.one("DaemonSet")["spec"]["template"]
    release.pod, release.container                      # of the workload
    release.config()                                    # the ConfigMap's file, loaded by the agent's own loader
    refusal({...})                                      # what Helm says of values that it refuses

The SDK is in the dependency group `deploy` (`make tools`); without it the tests that render are skipped and say so.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config.load import loads
from agent.config.model import Config

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "jetsync"
EXAMPLES = ROOT / "charts" / "examples"
VALUES_FILES = sorted((CHART / "ci").glob("*-values.yaml"))

RELEASE, NAMESPACE = "demo", "ns"
# What the kubelet puts into the environment by `fieldRef`.
FIELDS = {
    "spec.nodeName": "node-1",
    "metadata.name": "demo-jetsync-0",
    "metadata.namespace": NAMESPACE,
    "status.hostIP": "192.0.2.1",
    "status.podIP": "192.0.2.2",
}
WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")

Object = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """What a release consists of; notes: what Helm prints in the end; values: with the chart's defaults."""

    objects: list[Object]
    notes: str
    values: dict[str, Any]

    def all(self, kind: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str = "") -> Object:
        (found,) = [found for found in self.all(kind) if not name or found["metadata"]["name"] == name]
        return found

    @property
    def workload(self) -> Object:
        (found,) = [found for found in self.objects if found["kind"] in WORKLOADS]
        return found

    @property
    def pod(self) -> Object:
        """The pod template of the workload."""
        pod: Object = self.workload["spec"]["template"]
        return pod

    @property
    def container(self) -> Object:
        (found,) = [found for found in self.pod["spec"]["containers"] if found["name"] == "jetsync"]
        return dict(found)

    @property
    def config_text(self) -> str:
        text: str = self.one("ConfigMap", self.workload["metadata"]["name"])["data"]["config.yaml"]
        return text

    def config(self, **environ: str) -> Config:
        """The configuration as the agent in the pod would have it. Raises ConfigError."""
        return loads(self.config_text, base=Path("/etc/jetsync"), environ=environment(self.container) | environ)


def environment(container: Object) -> dict[str, str]:
    """The environment variables of a container; what comes from ConfigMaps and Secrets is left out."""
    found = {}
    for variable in container.get("env", []):
        if "value" in variable:
            found[variable["name"]] = str(variable["value"])
        elif "fieldRef" in variable["valueFrom"]:
            found[variable["name"]] = FIELDS[variable["valueFrom"]["fieldRef"]["fieldPath"]]
    return found


def load_values(name: str) -> dict[str, Any]:
    """The values of charts/jetsync/ci/NAME-values.yaml."""
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return values


def merged(values: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Values over values, as Helm does it: maps are merged, everything else replaces."""
    result = copy.deepcopy(dict(values))
    for other in others:
        for key, value in other.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def require_helm() -> None:
    """Skip the test where the SDK isn't there."""
    pytest.importorskip("helm_python", reason="the Helm SDK isn't here: `make tools` (only built for x86-64)")


def render(values: Mapping[str, Any], *, upgrade: bool = False) -> Release:
    """The objects of a release with these values; hooks are among them. Raises HelmError."""
    require_helm()
    return copy.deepcopy(_render(json.dumps(values), upgrade))


@functools.cache
def _chart() -> Any:
    from helm_python.chart import Chart

    return Chart.load(CHART)


@functools.cache
def _render(values_json: str, upgrade: bool) -> Release:
    values = json.loads(values_json)
    chart = _chart()
    chart.validate_schema(values)
    texts = chart.render(values, name=RELEASE, namespace=NAMESPACE, is_install=not upgrade, is_upgrade=upgrade)
    notes = texts.pop("jetsync/templates/NOTES.txt")
    objects = [found for name in sorted(texts) for found in documents(texts[name])]
    return Release(objects, notes, chart.merge_values(values))


def refusal(values: Mapping[str, Any]) -> str:
    """What Helm says of values that it refuses, by schema or by a template; "" when it takes them."""
    require_helm()
    from helm_python.errors import HelmError

    try:
        render(values)
    except HelmError as error:
        return str(error)
    return ""


class _Strict(yaml.CSafeLoader):
    """A key twice is an error, as it is to the API server."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[Object]:
    """The objects in a manifest."""
    return [found for found in yaml.load_all(text, Loader=_Strict) if found]
