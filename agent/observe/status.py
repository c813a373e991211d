"""What the agent says of itself: `jetsync status --json`, `/api/v1/status` and the control socket give these values.

Frozen values that someone fills in one go, so that no reader sees half a change. JSON keys are the field names; times
are seconds since the epoch here, and RFC 3339 UTC in JSON. `FORMAT` is raised only when a reader would break; new keys
are no break, and `from_json` reads past keys that it doesn't know (the agent may be newer than the command).

Every cycle of a mapping ends in one human sentence (`sentence`): the same words in the log line and here, so that one
finds the other: "3 files sent, 1 received", "waiting for the server: no answer from hub:4222, next try in 8 s".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

from agent.observe.redact import hide

FORMAT: Final = 1
PROBLEMS_SHOWN: Final = 100  # paths per mapping; the counts have them all


class State(StrEnum):
    """What a mapping of a running agent is doing (DESIGN section 3): also the label of `jetsync_mapping_state`."""

    STARTING = "starting"
    IDLE = "idle"
    SCANNING = "scanning"
    SYNCING = "syncing"
    RETRYING = "retrying"
    PAUSED = "paused"
    HALTED = "halted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Tree:
    """The size of one side."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """What hasn't arrived on the other side yet. since: when the oldest of it was noticed; None = nothing."""

    objects: int = 0
    bytes: int = 0
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A path that can't be known or represented. reason: a value of core.entries.Reason."""

    path: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Halt:
    """A mapping stopped for safety. reason: one of DESIGN section 6; detail: what was seen; remedy: what to do."""

    reason: str
    detail: str = ""
    remedy: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class LastError:
    """The last thing that failed as a whole. reason: a value of observe.reasons.ErrorReason."""

    reason: str
    message: str
    remedy: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class MappingStatus:
    """One mapping. since: when `state` was entered. converged: both sides were equal at least once since the start."""

    name: str
    directory: str
    bucket: str
    mode: str
    prefix: str = ""
    state: State = State.STARTING
    since: float | None = None
    sentence: str = ""
    converged: bool = False
    local: Tree = Tree()
    remote: Tree = Tree()
    pending: Pending = Pending()
    conflicts: int = 0
    diverged: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)
    problem_paths: tuple[Problem, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    halt: Halt | None = None
    last_success: float | None = None
    last_error: LastError | None = None
    watch: str = ""  # inotify | poll | off
    watch_detail: str = ""  # why it polls, and what to raise


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """One publication or subscription. snapshot: the id that was published last, or is installed; "" = none yet.

    channel: "" for a subscription that is pinned. last_success: when an attempt last came through, also with nothing
    to do. foreign: what is in a subscription's directory and isn't jetsync's.
    """

    kind: str
    name: str
    repository: str
    channel: str = ""
    directory: str = ""
    state: State = State.STARTING
    since: float | None = None
    snapshot: str = ""
    sentence: str = ""
    last_success: float | None = None
    last_error: LastError | None = None
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotCounts:
    """What a publication or a subscription did since its start.

    last_change: when it last published or installed something. transferred, reused: bytes. unverified: of the errors,
    those in which what was to be installed wasn't what it has to be.
    """

    changed: int = 0
    noop: int = 0
    error: int = 0
    last_change: float | None = None
    transferred: int = 0
    reused: int = 0
    unverified: int = 0


@dataclass(frozen=True, slots=True)
class NatsStatus:
    """The connection. server: its URL, without secrets whatever is given. rtt: seconds."""

    connected: bool = False
    server: str = ""
    version: str = ""
    rtt: float | None = None
    reconnects: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "server", hide(self.server))


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The configuration that is in force. loaded: when; hash: SHA-256 of the file, in hex.

    error: why the file as it is now isn't in force; "" when it is. restart_needed: keys of it that only a restart puts
    into force.
    """

    loaded: float | None = None
    hash: str = ""
    error: str = ""
    restart_needed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The whole agent. version: of the program. config: the path of the file; loaded: what is in force of it."""

    name: str
    version: str
    pid: int
    started: float
    config: str = ""
    nats: NatsStatus = NatsStatus()
    mappings: tuple[MappingStatus, ...] = ()
    snapshots: tuple[SnapshotStatus, ...] = ()
    loaded: ConfigStatus = ConfigStatus()

    def to_json(self) -> dict[str, Any]:
        """`{"version": 1, "agent": {name, version, pid, started, config}, "config": {loaded, hash, error,
        restart_needed}, "nats": {...}, "mappings": [...], "snapshots": [...]}`."""
        return {
            "version": FORMAT,
            "agent": {
                "name": self.name,
                "version": self.version,
                "pid": self.pid,
                "started": timestamp(self.started),
                "config": self.config,
            },
            "config": _to_json(self.loaded),
            "nats": _to_json(self.nats),
            "mappings": [_to_json(mapping) for mapping in self.mappings],
            "snapshots": [_to_json(snapshot) for snapshot in self.snapshots],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The value back. Raises ValueError when it isn't a status of this format."""
        if value.get("version") != FORMAT:
            raise ValueError(f"a status of version {value.get('version')!r}, and this program reads {FORMAT}")
        try:
            agent, config = value["agent"], value.get("config", {})
            return cls(
                **{**_known(cls, agent), "started": seconds(agent["started"]) or 0.0},
                nats=NatsStatus(**_known(NatsStatus, value["nats"])),
                mappings=tuple(_mapping(mapping) for mapping in value["mappings"]),
                snapshots=tuple(_snapshot(snapshot) for snapshot in value.get("snapshots", ())),
                loaded=ConfigStatus(
                    **{**_known(ConfigStatus, config), "restart_needed": tuple(config.get("restart_needed", ()))}
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a status: {error!r}") from error


def timestamp(at: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC with milliseconds; None stays None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str | None) -> float | None:
    """The other way. Raises ValueError."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


_TIMES = frozenset({"since", "last_success", "at", "loaded"})


def _to_json(value: Any) -> Any:
    """A dataclass as a dict of its fields, with times as text."""
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): count for key, count in value.items()}
    if not hasattr(value, "__dataclass_fields__"):
        return value
    return {
        each.name: timestamp(item) if each.name in _TIMES else _to_json(item)
        for each in fields(value)
        for item in (getattr(value, each.name),)
    }


def _known(kind: type, value: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `value` that `kind` has, with times as seconds."""
    names = {each.name for each in fields(kind)}
    return {key: seconds(item) if key in _TIMES else item for key, item in value.items() if key in names}


def _mapping(value: Mapping[str, Any]) -> MappingStatus:
    halt, error = value.get("halt"), value.get("last_error")
    return MappingStatus(
        **{
            **_known(MappingStatus, value),
            "state": State(value["state"]),
            "local": Tree(**_known(Tree, value["local"])),
            "remote": Tree(**_known(Tree, value["remote"])),
            "pending": Pending(**_known(Pending, value["pending"])),
            "problem_paths": tuple(Problem(**_known(Problem, each)) for each in value["problem_paths"]),
            "halt": Halt(**_known(Halt, halt)) if halt else None,
            "last_error": LastError(**_known(LastError, error)) if error else None,
        }
    )


def _snapshot(value: Mapping[str, Any]) -> SnapshotStatus:
    error = value.get("last_error")
    return SnapshotStatus(
        **{
            **_known(SnapshotStatus, value),
            "state": State(value["state"]),
            "last_error": LastError(**_known(LastError, error)) if error else None,
            "foreign": tuple(value.get("foreign", ())),
        }
    )
