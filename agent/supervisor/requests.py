"""What commands ask about conflicts, halts, pauses and the trash, and `verify`; by the running agent or alone.

Each request is a function of a `Home` and the arguments, and gives the JSON of its result. A home reaches the state of
the configured mappings: that of a running agent through its mappings (`AgentHome`), that of a stopped one by opening
the files under the lock of the state directory (`StoppedHome`). Those requests need no connection and look at nothing.
`resolve` and `verify` work on sessions, and so take a supervisor; alone, one is started for them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from agent.config.model import Config
from agent.config.model import Mapping as MappingConfig
from agent.core import names as core_names
from agent.directory import Directory, DirectoryOptions, TrashEntry
from agent.errors import JetsyncError, UsageError
from agent.observe.status import Halt, timestamp
from agent.state import StateStore, lock
from agent.supervisor.wiring import Supervisor, select, state_path
from agent.sync import conflicts, guard
from agent.sync.mapping import MappingSync
from agent.sync.report import Report
from agent.sync.resolve import Keep, Resolution, Site, resolve
from agent.sync.verify import FAILED, VerifyReport, verify

RESULT_VERSION = 1
T = TypeVar("T")

Args = Mapping[str, Any]
Emit = Callable[[Mapping[str, Any]], None]


class Home(Protocol):
    """Where a request is carried out."""

    @property
    def config(self) -> Config: ...

    async def on_store(self, mapping: MappingConfig, work: Callable[[StateStore], T]) -> T | None:
        """Run something on the mapping's state; None when it has none yet."""

    async def approve(self, mapping: MappingConfig) -> Halt | None:
        """End the halt that there is."""

    async def pause(self, mapping: MappingConfig, *, paused: bool) -> None:
        """Pause or resume; it stays so until it is said otherwise."""


class AgentHome:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def config(self) -> Config:
        """The one that is in force: it changes with a reload."""
        return self._supervisor.config

    def _running(self, mapping: MappingConfig) -> MappingSync:
        (running,) = self._supervisor.mappings([mapping.name])
        return running

    async def on_store(self, mapping: MappingConfig, work: Callable[[StateStore], T]) -> T | None:
        return await self._running(mapping).on_store(work)

    async def approve(self, mapping: MappingConfig) -> Halt | None:
        return await self._running(mapping).approve()

    async def pause(self, mapping: MappingConfig, *, paused: bool) -> None:
        await self._running(mapping).pause(paused=paused)


class StoppedHome:
    """The state directory's lock is held by whoever uses it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @property
    def config(self) -> Config:
        return self._config

    async def on_store(self, mapping: MappingConfig, work: Callable[[StateStore], T]) -> T | None:
        path = state_path(self.config, mapping.name)
        return await asyncio.to_thread(_on_file, path, work) if path.exists() else None

    async def approve(self, mapping: MappingConfig) -> Halt | None:
        return await self.on_store(mapping, lambda store: guard.approve(store, time.time()))

    async def pause(self, mapping: MappingConfig, *, paused: bool) -> None:
        path = state_path(self.config, mapping.name)
        await asyncio.to_thread(_on_file, path, lambda store: store.kv_set("paused", "1" if paused else None))


def _on_file(path: Path, work: Callable[[StateStore], T]) -> T:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    store = StateStore.open(path)
    try:
        return work(store)
    finally:
        store.close()


@asynccontextmanager
async def stopped_home(config: Config) -> AsyncIterator[StoppedHome]:
    """:raises LockedError: a process works on the state directory"""
    with await asyncio.to_thread(lock, config.state_dir):
        yield StoppedHome(config)


# -- conflicts -------------------------------------------------------------------------------------------------------


async def list_conflicts(home: Home, args: Args) -> dict[str, Any]:
    """`args["names"]`: mappings; all when empty."""
    listed = []
    for mapping in select(home.config, args["names"]):
        found = await home.on_store(mapping, _listing(mapping, home.config.name))
        listed.append(found if found is not None else conflicts.nothing(mapping))
    return {"version": RESULT_VERSION, "mappings": listed}


def _listing(mapping: MappingConfig, agent_name: str) -> Callable[[StateStore], dict[str, Any]]:
    return lambda store: conflicts.listed(store, mapping, agent_name)


async def resolve_conflict(supervisor: Supervisor, args: Args) -> dict[str, Any]:
    """`args`: name, path, keep, timeout (seconds that the server may be away)."""
    mapping = _named(supervisor.config, args["name"])
    path = relative_path(mapping, str(args["path"]))
    keep = Keep(args["keep"])
    (running,) = supervisor.mappings([mapping.name])

    async def work() -> Resolution:
        if await running.on_store(lambda store: store.kv_get("paused")):
            raise JetsyncError(f"mapping {mapping.name!r} is paused", remedy=f"jetsync resume {mapping.name}")
        seen = await running.on_store(lambda store: store.row(path))
        session, db = await running.session_that_knows()
        if (stop := session.batches.stop) is not None:
            raise JetsyncError(f"mapping {mapping.name!r} is halted: {stop.detail}", remedy=stop.remedy)
        return await resolve(Site.of(mapping, session, db), path, keep, seen=seen)

    def unreached(_: MappingSync, error: JetsyncError) -> Resolution:
        raise error

    (result,) = await supervisor.ask([(running, work())], float(args["timeout"]), unreached)
    return {"version": RESULT_VERSION, **result.as_json()}


async def resolve_alone(config: Config, args: Args) -> dict[str, Any]:
    """The same by this process, which then brings the mapping to convergence."""
    async with Supervisor(config) as supervisor:
        result = await resolve_conflict(supervisor, args)
        (report,) = await supervisor.sync([str(args["name"])], timeout=float(args["timeout"]))
        return result | {"errors": _errors(report)}


def _errors(report: Report) -> list[str]:
    return report.errors if report.state == "failed" else []


# -- halts and pauses ------------------------------------------------------------------------------------------------


async def approve(home: Home, args: Args) -> dict[str, Any]:
    """`approved`: the halt that was ended; None when there was none."""
    mapping = _named(home.config, args["name"])
    halt = await home.approve(mapping)
    shown = {"reason": halt.reason, "detail": halt.detail} if halt is not None else None
    return {"version": RESULT_VERSION, "name": mapping.name, "approved": shown}


async def pause(home: Home, args: Args) -> dict[str, Any]:
    return await _set_paused(home, args, paused=True)


async def resume(home: Home, args: Args) -> dict[str, Any]:
    return await _set_paused(home, args, paused=False)


async def _set_paused(home: Home, args: Args, *, paused: bool) -> dict[str, Any]:
    """`changed`: whether it wasn't so before."""
    mapping = _named(home.config, args["name"])
    before = await home.on_store(mapping, lambda store: store.kv_get("paused")) is not None
    if before is not paused:
        await home.pause(mapping, paused=paused)
    return {"version": RESULT_VERSION, "name": mapping.name, "paused": paused, "changed": before is not paused}


# -- the trash -------------------------------------------------------------------------------------------------------


async def list_trash(home: Home, args: Args) -> dict[str, Any]:
    """`args["names"]`. The versions of all mappings, newest first; a directory that can't be opened is an error."""
    versions: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    for mapping in select(home.config, args["names"]):
        try:
            found = await asyncio.to_thread(_entries, mapping)
        except JetsyncError as error:
            errors.append({"name": mapping.name, "message": str(error)})
        else:
            versions += [{"name": mapping.name, **_version(entry)} for entry in found]
    versions.sort(key=lambda version: version["path"])
    versions.sort(key=lambda version: _age(version["batch"]), reverse=True)
    return {"version": RESULT_VERSION, "versions": versions, "errors": errors}


def _entries(mapping: MappingConfig) -> list[TrashEntry]:
    with _directory(mapping) as directory:
        return list(directory.trash.entries())


def _version(entry: TrashEntry) -> dict[str, Any]:
    return {"path": entry.path, "size": entry.size, "time": timestamp(entry.time), "batch": entry.batch}


def _age(batch: str) -> tuple[str, int]:
    """ "<time>-<counter>" as what can be ordered: the newest is the greatest."""
    stamp, _, counter = batch.rpartition("-")
    return stamp, int(counter) if counter.isdigit() else 0


async def restore(home: Home, args: Args) -> dict[str, Any]:
    """`args`: name, path, batch (None = the newest).

    :raises PathError: it isn't in the trash, or something is at the path
    """
    mapping = _named(home.config, args["name"])
    path = relative_path(mapping, str(args["path"]))
    batch = await asyncio.to_thread(_restore, mapping, path, args["batch"])
    return {"version": RESULT_VERSION, "name": mapping.name, "path": path, "batch": batch}


def _restore(mapping: MappingConfig, path: str, batch: str | None) -> str:
    with _directory(mapping) as directory:
        kept = [entry.batch for entry in directory.trash.entries() if entry.path == path]
        if not kept:
            raise JetsyncError(f"{path}: not in the trash", remedy=f"see `jetsync trash list {mapping.name}`")
        if batch is not None and batch not in kept:
            raise JetsyncError(f"{path}: not in the trash of {batch}", remedy="it is in " + ", ".join(kept))
        chosen = batch or max(kept, key=_age)
        directory.restore(path, batch=chosen)
        return chosen


def _directory(mapping: MappingConfig) -> Directory:
    """:raises RootError: it isn't there"""
    options = DirectoryOptions(
        file_mode=mapping.file_mode, directory_mode=mapping.directory_mode, max_size=None, trash=mapping.trash
    )
    return Directory.open(mapping.directory, options=options)


# -- verify ----------------------------------------------------------------------------------------------------------


async def verify_mappings(supervisor: Supervisor, args: Args, emit: Emit) -> dict[str, Any]:
    """`args`: names, repair, timeout. Emits {"name", "total"} once and {"name", "done"} as it goes on, in bytes."""
    repair, timeout = bool(args["repair"]), float(args["timeout"])
    running = supervisor.mappings(args["names"])
    reports = await supervisor.ask(
        [(mapping, _verified(supervisor, mapping, repair=repair, emit=emit)) for mapping in running],
        timeout,
        lambda mapping, error: _not_verified(mapping.config.name, error),
    )
    return {"version": RESULT_VERSION, "mappings": reports}


async def _verified(supervisor: Supervisor, mapping: MappingSync, *, repair: bool, emit: Emit) -> dict[str, Any]:
    name = mapping.config.name
    try:
        session, db = await mapping.session_that_knows()
        assert session.bucket is not None
        counts = await db(lambda store: store.counts())
        emit({"name": name, "total": counts.local_bytes + counts.remote_bytes})
        done = 0

        def progress(read: int) -> None:
            nonlocal done
            done += read
            emit({"name": name, "done": done})

        report = await verify(
            config=mapping.config,
            directory=session.directory,
            bucket=session.bucket,
            db=db,
            scope=session.scope,
            batches=session.batches,
            call=session.steps.call,
            repair=repair,
            progress=progress,
            journalled=supervisor.journalled,
        )
        return report.as_json()
    except JetsyncError as error:
        return _not_verified(name, error)


def _not_verified(name: str, error: JetsyncError) -> dict[str, Any]:
    return VerifyReport(name, state=FAILED, errors=[str(error)]).as_json() | {"exit_code": error.exit_code}


async def verify_alone(config: Config, args: Args, emit: Emit) -> dict[str, Any]:
    """The same by this process."""
    async with Supervisor(config) as supervisor:
        return await verify_mappings(supervisor, args, emit)


# -- for all ---------------------------------------------------------------------------------------------------------


def _named(config: Config, name: str) -> MappingConfig:
    """:raises UsageError: no such mapping"""
    (mapping,) = select(config, [name])
    return mapping


def relative_path(mapping: MappingConfig, text: str) -> str:
    """The path of the mapping that a person means by a relative one ("./a", "b/../a") or an absolute one inside it.

    :raises UsageError: it is none
    """
    path = text
    if os.path.isabs(text):
        below = _below(text, mapping.directory)
        if below is None:
            raise UsageError(f"{text}: isn't inside {mapping.directory}", remedy="give a path inside it")
        path = below
    path = os.path.normpath(path) + ("/" if text.endswith("/") else "") if path else ""
    if path.startswith("../") or path in ("", ".", "..", "./") or core_names.problem_of(path.rstrip("/")):
        raise UsageError(f"{text!r}: isn't a path inside {mapping.directory}", remedy="give one relative to it")
    return path


def _below(text: str, directory: Path) -> str | None:
    """What follows the directory in an absolute path, links in the way to both being followed if need be."""
    folder, name = os.path.split(os.path.normpath(text))
    for root, path in (
        (str(directory), os.path.join(folder, name)),
        (os.path.realpath(directory), os.path.join(os.path.realpath(folder), name)),
    ):
        if path.startswith(root.rstrip("/") + "/"):
            return path[len(root.rstrip("/")) + 1 :]
    return None


HOME_WORK: dict[str, Callable[[Home, Args], Awaitable[dict[str, Any]]]] = {
    "conflicts": list_conflicts,
    "approve": approve,
    "pause": pause,
    "resume": resume,
    "trash-list": list_trash,
    "trash-restore": restore,
}


async def home_work(config: Config, command: str, args: Args) -> dict[str, Any]:
    """One of them by this process. :raises LockedError: a process works on the state directory"""
    for name in _names(args):
        _named(config, name)  # a wrong name is told before anything is locked
    async with stopped_home(config) as home:
        return await HOME_WORK[command](home, args)


def _names(args: Args) -> Sequence[str]:
    return [str(args["name"])] if "name" in args else list(args["names"])
