"""The configuration as values: one class for each section of the file, field names = keys (DESIGN section 2).

    Config
    ├── nats: Nats ── embedded: Embedded | None, tls: Tls | None
    ├── http: Http | None            None = `http: false`
    ├── log: Log
    ├── buckets: {name: Bucket} ── mirror: Mirror | None, placement: Placement | None
    ├── mappings: (Mapping, ...) ── limits: Limits, max_delete: DeleteLimit
    ├── publications: (Publication, ...)
    └── subscriptions: (Subscription, ...)

Everything is frozen, and two equal configurations compare equal however they were written, so a reload can compare
mappings. Durations are seconds (float), sizes bytes (int), paths absolute, permission bits int. A key without a value
has its default. Rules that concern more than one key are in agent/config/checks.py; `load` and `from_dict` apply both,
so make a Config there. `repr` and JSON dumps hide passwords in URLs. No secret is read here: `*_file` keys are paths.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from agent.config import fields as f
from agent.config import texts as t
from agent.config.fields import DeleteLimit
from agent.config.scalars import Expanded
from agent.config.suggest import without_secrets, without_userinfo
from agent.core.entries import Mode, Policy

__all__ = [
    "Bucket",
    "Config",
    "DeleteLimit",
    "Embedded",
    "Http",
    "Limits",
    "Log",
    "Mapping",
    "Mirror",
    "Nats",
    "Placement",
    "Publication",
    "Section",
    "Subscription",
    "Tls",
]


def option(written: Any, description: str) -> Any:
    """An optional key: its default as it would be written in the file (validated like any value), and what it means."""
    return Field(written, description=description)


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, data: Any) -> Any:
        """`http:` alone is an empty section, and `settle:` alone the default. Unknown keys stay, to be reported."""
        if data is None:
            return {}
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if not (is_empty(value) and key in cls.model_fields)}

    @property
    def given(self) -> frozenset[str]:
        """The keys that the file has: the others stand at their defaults."""
        return frozenset(self.model_fields_set)


def is_empty(value: object) -> bool:
    """Nothing was written: a key without a value, or a `${VAR:-}` that came out empty."""
    return value is None or (isinstance(value, Expanded) and value.blank)


class Tls(Section):
    ca_file: f.AbsolutePath | None = option(None, "CA certificates (PEM) to trust instead of the system's.")
    cert_file: f.AbsolutePath | None = option(None, "Client certificate (PEM). Needs key_file.")
    key_file: f.AbsolutePath | None = option(None, "Private key (PEM) of cert_file.")


class Embedded(Section):
    store_dir: f.AbsolutePath = Field(description="Directory of the server's JetStream store.")
    port: f.Port = option(0, "Port on the loopback interface; 0 = any free one.")


class Nats(Section):
    servers: tuple[t.ServerUrl, ...] = option(
        (), "URLs of one cluster's servers: nats://, tls://, ws:// or wss://. This or embedded."
    )
    embedded: Embedded | None = option(None, "A private nats-server as a child process, on loopback. This or servers.")
    domain: t.Domain | None = option(None, "JetStream domain.")
    credentials_file: f.AbsolutePath | None = option(None, "NATS credentials (.creds): user JWT and seed.")
    nkey_seed_file: f.AbsolutePath | None = option(None, "File with an nkey seed to log in with.")
    user: t.Text | None = option(None, "User name. Needs password_file.")
    password_file: f.AbsolutePath | None = option(None, "File with the password of user.")
    token_file: f.AbsolutePath | None = option(None, "File with an authentication token.")
    tls: Tls | None = option(None, "TLS towards the servers.")

    @property
    def shown_servers(self) -> tuple[str, ...]:
        """The servers' URLs, fit for logs: without user names, passwords and tokens."""
        return tuple(without_userinfo(url) for url in self.servers)

    @property
    def has_userinfo(self) -> bool:
        return any("@" in url for url in self.servers)

    @property
    def secret_files(self) -> dict[str, Path]:
        """Each `*_file` that is given, by key; those of `tls` as "tls.ca_file"."""
        found = {key: getattr(self, key) for key in Nats.model_fields if key.endswith("_file")}
        if self.tls:
            found |= {f"tls.{key}": getattr(self.tls, key) for key in Tls.model_fields}
        return {key: path for key, path in found.items() if path is not None}

    def __repr_args__(self) -> Any:
        for key, value in super().__repr_args__():
            yield key, self.shown_servers if key == "servers" else value


class Http(Section):
    listen: t.Address = option("127.0.0.1:9477", "HOST:PORT; port 0 = any free one.")
    ready: Annotated[Literal["once", "connected", "local"], f.choice("once", "connected", "local")] = option(
        "once",
        "When /readyz says yes: once = all has converged once; connected = that, and connected now; "
        "local = the local side is up, with or without a server.",
    )

    @property
    def host(self) -> str:
        return t.split_address(self.listen)[0]

    @property
    def port(self) -> int:
        return t.split_address(self.listen)[1]


class Log(Section):
    level: Annotated[Literal["debug", "info", "warning", "error"], f.choice("debug", "info", "warning", "error")] = (
        option("info", "The least severe messages that are logged.")
    )
    format: Annotated[Literal["auto", "console", "json"], f.choice("auto", "console", "json")] = option(
        "auto", "auto = console on a terminal, json elsewhere."
    )


class Mirror(Section):
    bucket: t.BucketName = Field(description="The bucket to mirror.")
    domain: t.Domain | None = option(None, "The JetStream domain that has it; without: this one.")


class Placement(Section):
    cluster: t.Text | None = option(None, "Cluster that holds the bucket.")
    tags: tuple[t.Text, ...] = option((), "Tags that the servers must have.")


class Bucket(Section):
    """A declared bucket: created when never seen before, and brought to this shape."""

    storage: Annotated[Literal["file", "memory"], f.choice("file", "memory")] = option(
        "file", "Where the server keeps it."
    )
    replicas: f.Replicas = option(1, "Copies in the cluster.")
    max_bytes: f.SizeLimit = option(0, "Upper limit of the bucket; 0 = none.")
    ttl: f.Duration = option("0s", "Objects expire after this time; 0s = never.")
    compression: f.Flag = option(False, "Compress on the server's disk (S2).")
    description: t.AnyText = option("", "Free text.")
    metadata: dict[t.MetadataKey, t.AnyText] = option({}, "Free keys and values; _nats.* and jetsync.* are reserved.")
    placement: Placement | None = option(None, "Which servers hold it.")
    mirror: Mirror | None = option(None, "Makes it a read-only copy of another bucket.")


class Limits(Section):
    upload: f.Size = option(0, "Bytes per second; 0 = no limit.")
    download: f.Size = option(0, "Bytes per second; 0 = no limit.")


class Mapping(Section):
    """One directory <-> one bucket."""

    name: t.Name = Field(description="Unique over mappings, publications and subscriptions.")
    directory: f.AbsolutePath = Field(description="The local side.")
    bucket: t.BucketName = Field(description="The remote side.")
    prefix: t.Prefix = option("", "Only objects below it take part. Empty, or ends in /.")
    mode: Annotated[Mode, f.member(Mode)] = option(Mode.TWO_WAY, "Who sends, and what the receiver may keep.")
    conflicts: Annotated[Policy, f.member(Policy)] = option(
        Policy.KEEP_BOTH, "What happens when both sides changed a path differently. two-way only."
    )
    include: tuple[t.Pattern, ...] = option((), "gitignore patterns of what takes part; empty = all.")
    exclude: tuple[t.Pattern, ...] = option((), "gitignore patterns of what stays out; wins over include.")
    max_size: f.SizeLimit = option("10GiB", "Larger files are skipped and counted; 0 = no limit.")
    symlinks: Annotated[Literal["link", "follow", "skip"], f.choice("link", "follow", "skip")] = option(
        "link",
        "link = as object links; follow = as the files they lead to (push modes only); skip = not at all.",
    )
    permissions: f.Flag = option(True, "The executable bit and mtime travel in the object's metadata.")
    file_mode: f.FileMode = option("0666", "Permissions of files that the agent makes, less the umask.")
    directory_mode: f.DirectoryMode = option("0777", "Permissions of directories that the agent makes, less the umask.")
    empty_directories: f.Flag = option(False, "Empty directories travel too.")
    settle: f.Duration = option("200ms", "Quiet time before a changed file is read.")
    settle_max: f.Duration = option("10s", "Upper bound of settle for a file that keeps changing.")
    watch: f.Watch = option("auto", "auto = the kernel's events, or polling where it can't tell; poll; false.")
    poll_interval: f.Interval = option("5s", "Time between two looks when polling.")
    rescan: f.Interval = option(
        "10m", "Least time between two full looks at both sides, with jitter; longer where a look takes over 1% of it."
    )
    rehash: f.Duration = option("7d", "Time in which every local file is read and checked once; 0s = never.")
    max_delete: f.MaxDelete = option(
        "50%", "More deletions than this halt the mapping: a share or a count; 100% = never."
    )
    trash: f.Duration = option("7d", "Overwritten and deleted local files are kept this long; 0s = not at all.")
    transfers: f.Transfers = option(16, "Multi-chunk files at a time.")
    limits: Limits = option(Limits(), "Bytes per second.")

    @property
    def pushes(self) -> bool:
        return self.mode.pushes

    @property
    def pulls(self) -> bool:
        return self.mode.pulls


class Publication(Section):
    """Makes snapshots of a directory or a bucket."""

    name: t.Name = Field(description="Unique over mappings, publications and subscriptions.")
    directory: f.AbsolutePath | None = option(None, "The tree to publish. This or bucket.")
    bucket: t.BucketName | None = option(None, "The bucket whose objects are published. This or directory.")
    prefix: t.Prefix = option("", "With bucket: only objects below it. Empty, or ends in /.")
    repository: t.RepositoryName = Field(description="The bucket that holds content and channels.")
    channel: t.Channel = Field(description="The channel that is moved to the new snapshot.")
    trigger: Annotated[Literal["manual", "on-change"], f.choice("manual", "on-change")] = option(
        "manual", "manual = `jetsync snapshot publish`; on-change = whenever the tree differs."
    )
    content: Annotated[Literal["links", "copies"], f.choice("links", "copies")] = option(
        "links", "links = de-duplicated in the repository; copies = a self-contained bucket."
    )
    keep: f.Keep = option(5, "Snapshots that pruning leaves.")
    sign_with: f.AbsolutePath | None = option(None, "File with an nkey seed that signs snapshots and channels.")


class Subscription(Section):
    """Installs the snapshot of a channel in a directory."""

    name: t.Name = Field(description="Unique over mappings, publications and subscriptions.")
    repository: t.RepositoryName = Field(description="The bucket that holds content and channels.")
    channel: t.Channel | None = option(None, "The channel to follow. This or snapshot.")
    snapshot: t.SnapshotId | None = option(None, "The snapshot to stay on. This or channel.")
    directory: f.AbsolutePath = Field(description="Becomes versions/<id>/ and the symlink current.")
    keep: f.Keep = option(2, "Versions kept, the current one included.")
    trusted_publishers: tuple[t.PublicKey, ...] = option(
        (), "Public nkeys; when given, unsigned or foreign snapshots are refused."
    )
    before: tuple[f.Command, ...] = option(
        (), "Commands, text for the shell or lists of arguments; a failing one keeps the old snapshot current."
    )
    after: tuple[f.Command, ...] = option((), "Commands to run when the new snapshot is current.")
    webhook: t.WebhookUrl | None = option(None, "http(s) address that gets a POST after a change.")

    def __repr_args__(self) -> Any:
        for key, value in super().__repr_args__():
            yield key, without_secrets(value) if key == "webhook" and value else value


def _known_version(value: object) -> int:
    given = f.typed(value)
    if isinstance(given, int) and not isinstance(given, bool) and given != 1:
        raise ValueError(f"version {given} isn't known; this program reads version 1")
    return f.whole_of(value, 1, 1)


def _bucket(value: Any) -> Any:
    return {} if is_empty(value) else value


def _host_name() -> str:
    return socket.gethostname() or "jetsync"


class Config(Section):
    """The whole file."""

    version: Annotated[Literal[1], BeforeValidator(_known_version)] = Field(description="Version of the file's format.")
    name: t.AgentName = Field(default_factory=_host_name, description="This agent; without: the host's name.")
    state_dir: f.AbsolutePath = option("/var/lib/jetsync", "State store, lock and control socket of this agent.")
    nats: Nats = Field(description="The connection: exactly one of servers and embedded.")
    http: Annotated[Http | None, BeforeValidator(f.unless_false)] = option(
        Http(), "/metrics, /livez, /readyz and /api/v1/; false = no HTTP at all."
    )
    log: Log = option(Log(), "Logging, on stderr.")
    buckets: dict[t.BucketName, Annotated[Bucket, BeforeValidator(_bucket)]] = option(
        {}, "Buckets to create and to bring to a shape. Others must exist."
    )
    mappings: tuple[Mapping, ...] = option((), "Directories kept equal to buckets.")
    publications: tuple[Publication, ...] = option((), "Snapshots that are made.")
    subscriptions: tuple[Subscription, ...] = option((), "Snapshots that are installed.")

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    def model_post_init(self, context: Any, /) -> None:
        self._folder = (context or {}).get("base") or self._folder

    @property
    def folder(self) -> Path:
        """Of the file: what paths in it are relative to, and where commands run."""
        return self._folder

    def mapping(self, name: str) -> Mapping | None:
        return next((mapping for mapping in self.mappings if mapping.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all mappings, publications and subscriptions, in the file's order."""
        return tuple(item.name for items in (self.mappings, self.publications, self.subscriptions) for item in items)
