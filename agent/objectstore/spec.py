"""A bucket's shape: what is declared, what a stream has, and what has to be changed to get from one to the other.

The stream's configuration is handled as the raw JSON that the server gave, and only the keys that differ are replaced:
whatever a newer server or another client has put there stays. `_nats.*` metadata is the server's own and is stripped.

A declaration says as much as it says: a field that is None has its default when the bucket is made, and is left alone
on a bucket that exists. So a declaration without `replicas` never takes a replica away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.errors import BucketError, NotABucketError
from agent.objectstore import subjects

Version = tuple[int, int, int]

COMPRESSION: Version = (2, 10, 0)
METADATA: Version = (2, 10, 0)
TRANSFORMS: Version = (2, 10, 0)
ATOMIC: Version = (2, 12, 0)

_SERVER_KEYS = "_nats."
_DUPLICATES = 120_000_000_000


@dataclass(frozen=True, slots=True)
class Mirror:
    """Read-only copy of another bucket; `domain`: the JetStream domain that has it, None = ours."""

    bucket: str
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    cluster: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketSpec:
    """A declared bucket. None = not said (see the module's docstring).

    storage: "file" (default) or "memory". max_bytes: 0 = unlimited (default). ttl: seconds, 0 = never (default).
    """

    storage: str | None = None
    replicas: int | None = None
    max_bytes: int | None = None
    ttl: float | None = None
    compression: bool | None = None
    description: str | None = None
    metadata: Mapping[str, str] | None = None
    placement: Placement | None = None
    mirror: Mirror | None = None

    @classmethod
    def of(cls, declared: Any) -> BucketSpec:
        """From an entry of `buckets:` (config.model.Bucket): only the keys that the file has are said."""
        given: frozenset[str] = declared.given
        said: dict[str, Any] = {
            key: getattr(declared, key)
            for key in ("storage", "replicas", "max_bytes", "ttl", "compression", "description", "metadata")
            if key in given
        }
        if said.get("max_bytes", 0) is None:
            said["max_bytes"] = 0
        if declared.placement is not None:
            said["placement"] = Placement(declared.placement.cluster, tuple(declared.placement.tags))
        if declared.mirror is not None:
            said["mirror"] = Mirror(declared.mirror.bucket, declared.mirror.domain)
        return cls(**said)


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """What a bucket is and holds. size: bytes of all messages. subjects: metas and chunk sets; None when not told.

    ttl: seconds, 0 = never. max_bytes: 0 = unlimited. metadata: without the server's own. first_seq, last_seq: of the
    stream. created: RFC 3339, the bucket's identity. config: the stream's, raw.
    """

    name: str
    description: str
    size: int
    messages: int
    subjects: int | None
    sealed: bool
    created: str
    ttl: float
    storage: str
    replicas: int
    compression: bool
    metadata: Mapping[str, str]
    max_bytes: int
    first_seq: int
    last_seq: int
    mirror: Mirror | None
    placement: Placement | None
    atomic: bool
    config: Mapping[str, Any] = field(repr=False)


def is_bucket(config: Mapping[str, Any]) -> bool:
    """Whether a stream's configuration is that of an Object Store bucket, or of a mirror or copy of one."""
    name = config.get("name")
    if not isinstance(name, str) or not name.startswith("OBJ_"):
        return False
    if config.get("mirror") or config.get("sources"):
        return True
    bucket = name.removeprefix("OBJ_")
    listed = config.get("subjects") or ()
    return f"$O.{bucket}.>" in listed or (
        subjects.all_chunks(bucket) in listed and subjects.all_metas(bucket) in listed
    )


def status_of(info: Mapping[str, Any]) -> BucketStatus:
    """From a STREAM.INFO answer, or an entry of STREAM.LIST. Raises NotABucketError."""
    config = info.get("config")
    if not isinstance(config, dict) or not is_bucket(config):
        name = config.get("name") if isinstance(config, dict) else None
        raise NotABucketError(
            f"the stream {name} is not an object store", remedy="choose another bucket, or delete the stream"
        )
    state = info.get("state") or {}
    mirror = config.get("mirror")
    placement = config.get("placement")
    return BucketStatus(
        name=str(config["name"]).removeprefix("OBJ_"),
        description=config.get("description") or "",
        size=state.get("bytes", 0),
        messages=state.get("messages", 0),
        subjects=state.get("num_subjects"),
        sealed=config.get("sealed") is True,
        created=str(info.get("created", "")),
        ttl=(config.get("max_age") or 0) / 1e9,
        storage=config.get("storage", "file"),
        replicas=config.get("num_replicas", 1),
        compression=_compressed(config),
        metadata=own_metadata(config),
        max_bytes=max(config.get("max_bytes") or 0, 0),
        first_seq=state.get("first_seq", 0),
        last_seq=state.get("last_seq", 0),
        mirror=_mirror_of(mirror) if isinstance(mirror, dict) else None,
        placement=Placement(placement.get("cluster") or None, tuple(placement.get("tags") or ()))
        if isinstance(placement, dict)
        else None,
        atomic=config.get("allow_atomic") is True,
        config=config,
    )


def own_metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """The stream's metadata without what the server has put there."""
    metadata = config.get("metadata")
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if not key.startswith(_SERVER_KEYS)}


def new_config(name: str, spec: BucketSpec, *, version: Version | None, domain: str | None) -> dict[str, Any]:
    """The configuration to create a bucket with (ADR-20 "Stream Configuration").

    `version`: of the server that will have it, None when it isn't known (behind a JetStream domain): then everything is
    asked for, and the answer tells what has been heeded. Raises BucketError for what an older server can't do at all.
    """
    config: dict[str, Any] = {
        "name": subjects.stream_name(name),
        "retention": "limits",
        "storage": spec.storage or "file",
        "num_replicas": spec.replicas or 1,
        "max_age": _nanoseconds(spec.ttl or 0),
        "max_bytes": spec.max_bytes or -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
    }
    if spec.description:
        config["description"] = spec.description
    if spec.metadata and _has(version, METADATA):
        config["metadata"] = dict(spec.metadata)
    if spec.compression and _has(version, COMPRESSION):
        config["compression"] = "s2"
    if spec.placement is not None:
        config["placement"] = _placement(spec.placement)
    if spec.mirror is not None:
        config["mirror"] = _mirror(name, spec.mirror, version=version, domain=domain)
    else:
        config["subjects"] = [subjects.all_chunks(name), subjects.all_metas(name)]
        if version is not None and version >= ATOMIC:
            config["allow_atomic"] = True
    return config


def changed_config(
    live: Mapping[str, Any], name: str, spec: BucketSpec, *, version: Version | None, domain: str | None
) -> tuple[dict[str, Any], list[str]]:
    """The live configuration brought to the declared shape, and the changes in words (empty: nothing to do).

    Raises BucketError when the difference is one that no server can apply to an existing stream.
    """
    _refuse_impossible(live, name, spec, domain)
    wanted: dict[str, Any] = {}
    if spec.description is not None:
        wanted["description"] = spec.description
    if spec.max_bytes is not None:
        wanted["max_bytes"] = spec.max_bytes or -1
    if spec.metadata is not None and _has(version, METADATA):
        wanted["metadata"] = {**own_metadata(live), **spec.metadata}
    if not live.get("sealed"):
        wanted |= _unsealed_changes(live, spec, version)

    config = {key: value for key, value in live.items() if key != "metadata"}
    metadata = own_metadata(live)
    if metadata:
        config["metadata"] = metadata
    changes = []
    for key, value in wanted.items():
        before = _normal(key, config.get(key))
        if before != value:
            config[key] = value
            changes.append(f"{key}: {_shown(before)} -> {_shown(value)}")
    if config.get("max_age"):
        config["duplicate_window"] = min(config.get("duplicate_window") or _DUPLICATES, config["max_age"])
    return config, changes


def unheeded(spec: BucketSpec, config: Mapping[str, Any]) -> list[str]:
    """What was asked for, and the server's echo doesn't have."""
    missing = []
    if spec.compression and not _compressed(config):
        missing.append("compression is not supported by this server (it needs 2.10)")
    if spec.metadata and not spec.metadata.items() <= own_metadata(config).items():
        missing.append("metadata of a bucket is not supported by this server (it needs 2.10)")
    if spec.replicas and config.get("num_replicas", 1) != spec.replicas:
        missing.append(f"the server keeps {config.get('num_replicas', 1)} replicas, not {spec.replicas}")
    mirror = config.get("mirror")
    if isinstance(mirror, dict) and config.get("mirror_direct") and mirror.get("subject_transforms"):
        missing.append(
            "a mirror under another name in the origin's own account answers direct gets for its origin, and doesn't "
            "find what is asked: other clients' reads of the origin fail now and then. Mirror into another domain"
        )
    if config.get("sealed") and spec.ttl:
        missing.append("the bucket is sealed: it has no ttl any more")
    return missing


def transforms_missing(config: Mapping[str, Any], name: str) -> bool:
    """A mirror of a bucket of another name without subject transforms: it would hold nothing under its own name."""
    mirror = config.get("mirror")
    if not isinstance(mirror, dict) or mirror.get("name") == subjects.stream_name(name):
        return False
    return not mirror.get("subject_transforms")


def _unsealed_changes(live: Mapping[str, Any], spec: BucketSpec, version: Version | None) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if spec.ttl is not None:
        wanted["max_age"] = _nanoseconds(spec.ttl)
    if spec.replicas is not None:
        wanted["num_replicas"] = spec.replicas
    if spec.compression is not None and _has(version, COMPRESSION):
        wanted["compression"] = "s2" if spec.compression else "none"
    if spec.placement is not None:
        wanted["placement"] = _placement(spec.placement)
    if not live.get("mirror") and not live.get("sources"):
        wanted["allow_rollup_hdrs"] = True
        wanted["allow_direct"] = True
        if version is not None and version >= ATOMIC:
            wanted["allow_atomic"] = True
    return wanted


def _refuse_impossible(live: Mapping[str, Any], name: str, spec: BucketSpec, domain: str | None) -> None:
    storage = live.get("storage", "file")
    if spec.storage is not None and spec.storage != storage:
        raise BucketError(
            f"bucket {name!r} has {storage} storage, and storage can't be changed to {spec.storage}",
            remedy=f"declare `storage: {storage}`, or copy the objects to a new bucket",
        )
    if spec.mirror is None:
        return
    mirror = live.get("mirror")
    if not isinstance(mirror, dict):
        raise BucketError(
            f"bucket {name!r} is no mirror, and can't be made one", remedy="delete it, or declare it without `mirror`"
        )
    wanted = Mirror(spec.mirror.bucket, None if spec.mirror.domain == domain else spec.mirror.domain)
    if _mirror_of(mirror) not in (wanted, spec.mirror):
        raise BucketError(
            f"bucket {name!r} is a mirror of another bucket than {spec.mirror.bucket!r}; that can't be changed",
            remedy="delete it, or declare what it mirrors now",
        )


def _mirror(name: str, mirror: Mirror, *, version: Version | None, domain: str | None) -> dict[str, Any]:
    subjects.check_bucket_name(mirror.bucket)
    config: dict[str, Any] = {"name": subjects.stream_name(mirror.bucket)}
    if mirror.domain is not None and mirror.domain != domain:
        config["external"] = {"api": f"$JS.{mirror.domain}.API"}
    if mirror.bucket != name:
        if not _has(version, TRANSFORMS):
            raise BucketError(
                f"bucket {name!r} can't be a mirror of {mirror.bucket!r} on this server: another name needs 2.10",
                remedy="give the mirror its origin's name, or use a newer server",
            )
        config["subject_transforms"] = [{"src": f"$O.{mirror.bucket}.>", "dest": f"$O.{name}.>"}]
    return config


def _mirror_of(mirror: Mapping[str, Any]) -> Mirror:
    external = mirror.get("external")
    api = str(external.get("api", "")) if isinstance(external, dict) else ""
    domain = api.removeprefix("$JS.").removesuffix(".API") if api else None
    return Mirror(str(mirror.get("name", "")).removeprefix("OBJ_"), domain)


def _placement(placement: Placement) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if placement.cluster:
        config["cluster"] = placement.cluster
    if placement.tags:
        config["tags"] = list(placement.tags)
    return config


def _normal(key: str, value: Any) -> Any:
    """A configuration value as the server means it when it leaves it out."""
    if key == "max_bytes":
        return -1 if not value or value < 0 else value
    if value is None:
        defaults: dict[str, Any] = {"description": "", "compression": "none", "max_age": 0, "num_replicas": 1,
                                    "metadata": {}, "placement": {}}  # fmt: skip
        return defaults.get(key, False)
    return value


def _shown(value: Any) -> str:
    return str(value) if value not in ("", {}, None) else "none"


def _compressed(config: Mapping[str, Any]) -> bool:
    return config.get("compression", "none") not in ("none", "", None)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _has(version: Version | None, needed: Version) -> bool:
    return version is None or version >= needed
