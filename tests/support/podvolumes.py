"""The volumes of a pod as a kubelet lays them out on the node, for tests/support/kubelet.py.

    emptyDir, persistentVolumeClaim     a directory; group fsGroup, set-group-id, writable for the group
    configMap, secret, projected        NAME -> ..data/NAME, ..data -> ..<time>/; an update replaces ..data by a rename
    hostPath                            a path of the node, here below a directory that stands for it; never fsGroup

Contents of ConfigMaps and Secrets come from `objects`: {"configmap/NAME": {"config.yaml": b"..."}, "secret/NAME": ...}.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Objects = Mapping[str, Mapping[str, bytes]]
_times = itertools.count()


class Volumes:
    """node: a directory that stands for the node: pods/, claims/ and host/."""

    def __init__(self, node: Path, pod: str, spec: Mapping[str, Any], objects: Objects) -> None:
        self._home = node / "pods" / pod
        self._node = node
        self._group: int | None = spec.get("securityContext", {}).get("fsGroup")
        self._spec = {volume["name"]: volume for volume in spec.get("volumes", [])}
        self.objects = {name: dict(files) for name, files in objects.items()}
        self.paths = {name: self._mount(name, volume) for name, volume in self._spec.items()}

    def update(self, name: str, files: Mapping[str, bytes]) -> None:
        """A changed ConfigMap or Secret (`configmap/NAME`) reaches every volume that has it."""
        self.objects[name] = dict(files)
        for volume in self._spec.values():
            if _files_of(volume, self.objects) is not None:
                self._swap(self.paths[volume["name"]], volume)

    def remove(self) -> None:
        """The pod is gone: so is all of it but claims and the node's own paths."""
        shutil.rmtree(self._home)

    def _mount(self, name: str, volume: Mapping[str, Any]) -> Path:
        kind = next(key for key in volume if key != "name")
        if kind == "hostPath":
            path = self._node / "host" / volume[kind]["path"].lstrip("/")
            if volume[kind].get("type") == "DirectoryOrCreate":
                path.mkdir(0o755, parents=True, exist_ok=True)  # root's, as the kubelet makes it
            elif not path.exists():
                raise FileNotFoundError(f"hostPath {path} doesn't exist")
            return path
        if kind == "persistentVolumeClaim":
            path = self._node / "claims" / volume[kind]["claimName"]
        elif kind in {"emptyDir", "configMap", "secret", "projected"}:
            path = self._home / name
        else:
            raise NotImplementedError(f"a volume of kind {kind}")
        if not path.exists():
            path.mkdir(parents=True)
            path.chmod(0o777 if kind == "emptyDir" else 0o755)
        if _files_of(volume, self.objects) is not None:
            self._swap(path, volume)
        elif self._group is not None:
            self._own(path)
        return path

    def _own(self, root: Path) -> None:
        """What the kubelet does for fsGroup: everything belongs to the group, and it may write."""
        assert self._group is not None
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                os.chown(path, -1, self._group)
                path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o660))

    def _swap(self, root: Path, volume: Mapping[str, Any]) -> None:
        files = _files_of(volume, self.objects) or {}
        new = root / f"..2026_11_28_10_00_00.{next(_times):09d}"
        new.mkdir(0o755)
        for name, (content, mode) in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
            (new / name).chmod(mode)
            if self._group is not None:
                os.chown(new / name, -1, self._group)
                (new / name).chmod(mode | 0o440)
        data, old = root / "..data", None
        if data.is_symlink():
            old = root / data.readlink()
        (root / "..data_tmp").symlink_to(new.name)
        (root / "..data_tmp").replace(data)
        for name in {name.split("/")[0] for name in files}:
            if not (root / name).is_symlink():
                (root / name).symlink_to(f"..data/{name}")
        if old is not None:
            shutil.rmtree(old)


def _files_of(volume: Mapping[str, Any], objects: Objects) -> dict[str, tuple[bytes, int]] | None:
    """path -> (bytes, mode) of a volume that is made of objects; None for other kinds."""
    if "projected" in volume:
        source = volume["projected"]
        found: dict[str, tuple[bytes, int]] = {}
        for part in source["sources"]:
            found |= _files_of({"defaultMode": source.get("defaultMode", 0o644), **part}, objects) or {}
        return found
    for kind in ("configMap", "secret"):
        if kind not in volume:
            continue
        source = volume[kind]
        name = source.get("secretName") or source["name"]
        files = objects.get(f"{kind.lower()}/{name}")
        if files is None:
            if source.get("optional"):
                return {}
            raise KeyError(f"the pod waits for {kind} {name}, which doesn't exist")
        mode = source.get("defaultMode", volume.get("defaultMode", 0o644))
        if "items" not in source:
            return {key: (content, mode) for key, content in files.items()}
        return {item["path"]: (files[item["key"]], item.get("mode", mode)) for item in source["items"]}
    return None
