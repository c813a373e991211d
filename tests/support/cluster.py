"""A control plane without nodes: etcd, kube-apiserver, kube-controller-manager on loopback, for what only they tell.

    with ControlPlane(tmp_path) as cluster:
        namespace = cluster.namespace("restricted")     # one whose pods have to meet that level of pod security
        cluster.helm(namespace).install(CHART, "demo", values)
        cluster.items("v1", namespace, "pods")          # made by the controllers, let in by the API server, never run

Objects are defaulted, validated and admitted for real, and controllers make pods and claims of them. There is no
kubelet, so that nothing starts. The binaries are those of `make cluster`; without them the tests are skipped.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.agent import eventually
from tests.support.server import DIE_WITH_PARENT, free_port

BINARIES = Path(sys.prefix) / "cluster"
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager")
TOKEN = "token-of-this-test"

Object = dict[str, Any]

_numbers = itertools.count(1)


def missing() -> list[str]:
    """The binaries that aren't here."""
    return [name for name in NAMES if _binary(name) is None]


def _binary(name: str) -> str | None:
    return shutil.which(name, path=f"{BINARIES}{os.pathsep}{os.environ['PATH']}")


class ControlPlane:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # its certificate is one that it has made for itself
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def kubeconfig(self) -> Path:
        return self.home / "kubeconfig"

    def _start(self) -> None:
        key, tokens = self.home / "accounts.key", self.home / "tokens.csv"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens.write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        self._write_kubeconfig()
        etcd, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._run(
            "etcd",
            f"--data-dir={self.home / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
        )
        self._run(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.home / 'certificates'}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://cluster.example.com",
            "--service-cluster-ip-range=10.0.0.0/24",
        )
        eventually(lambda: self.get("/readyz", raw=True) == "ok", timeout=90)
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={key}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={self.home / 'certificates'}",
            "--use-service-account-credentials=false",
        )

    def _write_kubeconfig(self) -> None:
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
            "current-context": "here",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def _run(self, name: str, *arguments: str) -> None:
        binary = _binary(name)
        assert binary is not None
        with (self.home / f"{name}.log").open("wb") as log:
            command = [*DIE_WITH_PARENT, binary, *arguments]
            self._running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def stop(self) -> None:
        for process in reversed(self._running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    # -- the API

    def get(self, path: str, *, raw: bool = False) -> Any:
        return self._call("GET", path, raw=raw)

    def create(self, found: Object, namespace: str = "") -> Object:
        """:raises Refused: with what the API server says"""
        created: Object = self._call("POST", collection(found, namespace), found)
        return created

    def succeed(self, pod: Object) -> None:
        """As if a kubelet had run the pod, and it had ended well."""
        path = f"{collection(pod, pod['metadata']['namespace'])}/{pod['metadata']['name']}/status"
        self._call("PATCH", path, {"status": {"phase": "Succeeded"}})

    def items(self, api: str, namespace: str, kind: str) -> list[Object]:
        """All objects of a kind ("pods", "deployments") in a namespace."""
        prefix = f"/api/{api}" if "/" not in api else f"/apis/{api}"
        found: list[Object] = self.get(f"{prefix}/namespaces/{namespace}/{kind}")["items"]
        return found

    def namespace(self, level: str = "restricted") -> str:
        """A new namespace whose pods have to meet this level of the Pod Security Standards."""
        name = f"test-{next(_numbers)}"
        labels = {"pod-security.kubernetes.io/enforce": level}
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        eventually(lambda: self.items("v1", name, "serviceaccounts"))
        return name

    def helm(self, namespace: str) -> Any:
        """The Helm SDK's way to this cluster."""
        from helm_python.config import Config

        return Config(kubeconfig_path=self.kubeconfig, namespace=namespace, qps=200.0, burst_limit=400)

    def _call(self, method: str, path: str, body: Object | None = None, *, raw: bool = False) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(error.read().decode()) from None
        return text if raw else json.loads(text)


class RefusedError(OSError):
    """What the API server said."""


PLURALS = {
    "CustomResourceDefinition": "customresourcedefinitions",
    "NetworkPolicy": "networkpolicies",
    "PriorityClass": "priorityclasses",
    "RuntimeClass": "runtimeclasses",
}


def collection(found: Object, namespace: str) -> str:
    """Where an object belongs."""
    api, kind = found["apiVersion"], found["kind"]
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    prefix = f"/api/{api}" if "/" not in api else f"/apis/{api}"
    return f"{prefix}/namespaces/{namespace}/{plural}" if namespace else f"{prefix}/{plural}"
