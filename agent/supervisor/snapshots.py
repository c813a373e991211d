"""The `snapshot` commands on a repository as values: what they print, and what the running agent answers to them.

Each takes the configuration, a connection and its arguments, and gives the JSON of its result. Publishing and
installing are work of publications and subscriptions, which the supervisor has; see `wiring` and `service`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.config.model import Config
from agent.core import manifest
from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest
from agent.errors import ChannelError, UsageError
from agent.objectstore import Connection
from agent.snapshots import moves
from agent.snapshots.check import check
from agent.snapshots.prune import prune
from agent.snapshots.repository import Channel, Repository, Snapshot, read_manifest
from agent.snapshots.signing import Signer

RESULT_VERSION = 1

Args = Mapping[str, Any]
Emit = Callable[[Mapping[str, Any]], None]
Work = Callable[[Config, Connection, Args, Emit], Awaitable[dict[str, Any]]]


async def listed(_config: Config, connection: Connection, args: Args, _emit: Emit) -> dict[str, Any]:
    """All snapshots and channels; a channel that can't be read says why."""
    repository = await Repository.open(connection, str(args["repository"]))
    channels = [await _channel(repository, name) for name in sorted(await repository.channels())]
    snapshots = await repository.snapshots()
    there = {one.id for one in snapshots}
    for channel in channels:
        if channel["error"] is None and channel["snapshot"] not in there:
            channel["error"] = f"it leads to {channel['snapshot']}, which isn't there"
    return {
        "version": RESULT_VERSION,
        "repository": repository.name,
        "channels": channels,
        "snapshots": [_snapshot(one, channels) for one in snapshots],
    }


async def _channel(repository: Repository, name: str) -> dict[str, Any]:
    try:
        channel = await repository.channel(name)
    except ChannelError as error:
        return {"name": name, "snapshot": None, "error": str(error)}
    return _channel_json(channel) if channel is not None else {"name": name, "snapshot": None, "error": "it is gone"}


def _channel_json(channel: Channel) -> dict[str, Any]:
    record = channel.record
    return {
        "name": channel.name,
        "snapshot": channel.snapshot,
        "previous": record.previous or None if record else None,
        "counter": record.counter if record else None,
        "time": record.time if record else None,
        "signer": channel.signer or None,
        "error": None,
    }


def _snapshot(snapshot: Snapshot, channels: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "bucket": snapshot.bucket,
        "sealed": snapshot.sealed,
        "created": snapshot.created,
        "publication": snapshot.publication,
        "manifest": snapshot.manifest,
        "size": snapshot.size,
        "channels": [channel["name"] for channel in channels if channel["snapshot"] == snapshot.id],
    }


async def shown(_config: Config, connection: Connection, args: Args, _emit: Emit) -> dict[str, Any]:
    """One snapshot with everything in it. args: repository, snapshot (an id or a channel).

    :raises UsageError, SnapshotError, ManifestError
    """
    repository, identity, tree, signer = await _read(connection, args, str(args["snapshot"]))
    bucket = await repository.snapshot_bucket(identity)
    return {
        "version": RESULT_VERSION,
        "repository": repository.name,
        "id": identity,
        "bucket": bucket.name,
        "sealed": bucket.sealed,
        "manifest": tree.digest,
        "signer": signer or None,
        "files": sum(1 for _ in tree.files),
        "bytes": tree.size,
        "entries": [{"path": path} | _entry(entry) for path, entry in tree.entries.items()],
    }


async def _read(connection: Connection, args: Args, text: str) -> tuple[Repository, str, Manifest, str]:
    repository = await Repository.open(connection, str(args["repository"]))
    identity = await repository.resolve(text)
    stated = await read_manifest(await repository.snapshot_bucket(identity), identity)
    return repository, identity, stated.manifest, stated.signer


def _entry(entry: Entry) -> dict[str, Any]:
    if entry.kind is Kind.FILE:
        return {"size": entry.size, "digest": entry.digest.hex(), "mode": "755" if entry.executable else "644"}
    return {"target": entry.target} if entry.kind is Kind.LINK else {}


async def verified(_config: Config, connection: Connection, args: Args, emit: Emit) -> dict[str, Any]:
    """Every byte of one snapshot. args: repository, snapshot."""
    repository = await Repository.open(connection, str(args["repository"]))
    identity = await repository.resolve(str(args["snapshot"]))

    def progress(done: int, total: int) -> None:
        emit({"name": identity, "done": done, "total": total})

    checked = await check(repository, identity, on_progress=progress)
    return {
        "version": RESULT_VERSION,
        "repository": repository.name,
        "id": identity,
        "sealed": checked.sealed,
        "signer": checked.signer or None,
        "files": checked.files,
        "bytes": checked.bytes,
        "problems": [{"path": path, "reason": reason} for path, reason in checked.problems],
    }


async def compared(_config: Config, connection: Connection, args: Args, _emit: Emit) -> dict[str, Any]:
    """What differs between two snapshots. args: repository, before, after (ids or channels)."""
    _, first, before, _ = await _read(connection, args, str(args["before"]))
    repository, second, after, _ = await _read(connection, args, str(args["after"]))
    return {
        "version": RESULT_VERSION,
        "repository": repository.name,
        "before": first,
        "after": second,
        "changes": [
            {
                "path": one.path,
                "change": one.change,
                "before": _entry(one.before) if one.before is not None else None,
                "after": _entry(one.after) if one.after is not None else None,
            }
            for one in manifest.differences(before, after)
        ],
    }


async def promoted(config: Config, connection: Connection, args: Args, _emit: Emit) -> dict[str, Any]:
    """Point a channel to a snapshot. args: repository, snapshot, channel, sign_with (a path, or None)."""
    repository = await Repository.open(connection, str(args["repository"]))
    identity = await repository.resolve(str(args["snapshot"]))
    channel = channel_name(str(args["channel"]))
    signer = _signer(config, repository, channel, args["sign_with"])
    return _moved(repository, await moves.promote(repository, identity, channel, signer=signer))


async def rolled_back(config: Config, connection: Connection, args: Args, _emit: Emit) -> dict[str, Any]:
    """Point a channel to an earlier snapshot. args: repository, channel, snapshot ("" = the one before), sign_with."""
    repository = await Repository.open(connection, str(args["repository"]))
    channel = channel_name(str(args["channel"]))
    signer = _signer(config, repository, channel, args["sign_with"])
    text = str(args["snapshot"] or "")
    identity = await repository.resolve(text) if text else ""
    return _moved(repository, await moves.roll_back(repository, channel, identity, signer=signer))


def channel_name(text: str) -> str:
    """:raises UsageError: no channel can have this name"""
    from pydantic import TypeAdapter, ValidationError

    from agent.config.texts import Channel as ChannelText

    try:
        return str(TypeAdapter(ChannelText).validate_python(text))
    except ValidationError as error:
        raise UsageError(f"{text!r} can't be a channel", remedy=str(error.errors()[0]["msg"])) from error


def _signer(config: Config, repository: Repository, channel: str, path: str | None) -> Signer | None:
    """The key that is named, or else that of a publication to this channel."""
    if path:
        return Signer.from_file(Path(path))
    here = (repository.bucket.name, channel)
    for publication in config.publications:
        if publication.sign_with and (publication.repository, publication.channel) == here:
            return Signer.from_file(publication.sign_with)
    return None


def _moved(repository: Repository, moved: moves.Moved) -> dict[str, Any]:
    return {
        "version": RESULT_VERSION,
        "repository": repository.name,
        "channel": moved.channel,
        "snapshot": moved.snapshot,
        "previous": moved.previous or None,
        "counter": moved.counter,
    }


async def pruned(config: Config, connection: Connection, args: Args, _emit: Emit) -> dict[str, Any]:
    """Remove what nobody needs. args: repository, dry_run, keep (a number for all publications, or None), grace
    (seconds)."""
    name = str(args["repository"])
    repository = await Repository.open(connection, name)
    keep = {one.name: one.keep for one in config.publications if one.repository == name}
    if args["keep"] is not None:
        snapshots = await repository.snapshots()
        keep = dict.fromkeys({one.publication for one in snapshots}, int(args["keep"]))
    pinned = {one.snapshot for one in config.subscriptions if one.snapshot and one.repository == name}
    done = await prune(repository, keep=keep, pinned=pinned, dry_run=bool(args["dry_run"]), grace=float(args["grace"]))
    return {
        "version": RESULT_VERSION,
        "repository": repository.name,
        "dry_run": bool(args["dry_run"]),
        "snapshots": done.snapshots,
        "contents": done.contents,
        "bytes": done.bytes,
        "kept": done.kept,
    }


WORK: dict[str, Work] = {
    "snapshot-list": listed,
    "snapshot-show": shown,
    "snapshot-verify": verified,
    "snapshot-diff": compared,
    "snapshot-promote": promoted,
    "snapshot-rollback": rolled_back,
    "snapshot-prune": pruned,
}
