"""What the rows of a mapping belong to: its root, bucket and prefix; and what to do when one isn't the one it was.

Ancestors belong to all three: a change of any in the configuration is a first contact, with nothing known of either
side (DESIGN section 4). A change of what decides which paths belong to the mapping only makes both sides be looked at
again in full; and a change of mode or policy makes every row be decided anew. What changes without the
configuration is a reason to stop (DESIGN section 6, "Identity"):

    the root     vanished; replaced (another id in root.json, or none); emptied and without its id: an unmounted volume
    the bucket   missing; re-created (another `created`); rolled back (its last sequence is before the cursor)

Generations that differ mean that the root or the state was restored from a backup: ancestors are dropped, and nothing
halts. The state notes the next generation before the file gets it, so that a crash in between isn't taken for that.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass

from agent.config.model import Mapping
from agent.core.guards import EMPTIED_FLOOR, HaltReason
from agent.directory import Directory
from agent.directory.identity import RootId
from agent.errors import DirectoryError, HaltError, JetsyncError, PathError, RootError, SpaceError
from agent.objectstore import BucketStatus
from agent.observe.logging import get_logger
from agent.state import StateStore
from agent.sync.db import Db
from agent.sync.guard import OF_CONTENT, Stop, emptied_stop, read_stop, write_stop

GENERATION_SECONDS = 3600.0


def adopt_identity(store: StateStore, config: Mapping) -> None:
    """Ancestors belong to directory, bucket and prefix: a change of any is a first contact (DESIGN section 4).

    The patterns belong to it too, but a change of them only makes both sides be looked at again in full; and what was
    settled by other rules (mode, policy) is decided anew.
    """
    identity = {"directory": str(config.directory), "bucket": config.bucket, "prefix": config.prefix}
    patterns = json.dumps([config.include, config.exclude, config.symlinks, config.max_size, config.empty_directories])
    rules = json.dumps([config.mode, config.conflicts, config.permissions])
    with store.transaction():
        known = store.identity
        if known and known != identity:
            paused = store.kv_get("paused")
            store.forget_all()
            store.kv_set("paused", paused)  # a person has said so, of the mapping by its name
        if known != identity:
            store.set_identity(identity)
        if store.kv_get("patterns") != patterns:
            if store.kv_get("patterns") is not None:
                store.forget_sides()
            store.kv_set("patterns", patterns)
        if store.kv_get("rules") != rules:
            store.mark_all_dirty()
            store.kv_set("rules", rules)


# -- the root ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """The root as the state knows it. next: the generation that it has, or is about to get."""

    id: str
    generation: int
    next: int


def vanished(store: StateStore, config: Mapping, error: RootError) -> JetsyncError:
    """What it means that the directory can't be opened: a halt when this state knows it."""
    if _known_root(store) is None and not store.ancestors():
        return error
    return _halt(config, HaltReason.ROOT_VANISHED, error.message, "mount it or put it back")


def check_root(store: StateStore, config: Mapping, directory: Directory, *, dry: bool) -> None:
    """See that the directory is the one that the rows are of; take it up, and lock it against other agents.

    :raises HaltError: it isn't
    :raises LockedError: another agent works on it
    """
    known, found = _known_root(store), _found_root(store, config, directory)
    if known is not None and (found is None or found.id != known.id) and store.ancestors():
        raise _other_root(store, config, directory, found)
    if dry:
        return
    if found is None:
        found = RootId.new()
        try:
            directory.root_file.create(found)
        except (PathError, SpaceError) as error:  # a read-only root is fine for push modes; a full disk may pass
            get_logger(mapping=config.name).warning("root_not_marked", error=error.message, remedy=error.remedy)
            return
        found = _marked(directory, found)
    if directory.read_only:
        _note(store, _Known(found.id, found.generation, found.generation))
        return
    directory.root_file.lock()
    if known is not None and known.id == found.id and found.generation not in (known.generation, known.next):
        get_logger(mapping=config.name).warning(
            "restored",
            detail="the directory or the state is from a backup: what differs counts as changed on both sides",
        )
        store.forget_ancestors()
    raise_generation(store, directory)


def raise_generation(store: StateStore, directory: Directory) -> None:
    """Raise the generation in the root and in the state. The root is locked.

    :raises DirectoryError: it can't be written
    """
    found = directory.root_file.read()
    if found is None:
        return  # somebody has removed it under us: the next start tells
    known = _known_root(store)
    generation = max(found.generation, known.next if known is not None and known.id == found.id else 0) + 1
    _note(store, _Known(found.id, found.generation, generation))
    directory.root_file.write(RootId(found.id, generation))
    _note(store, _Known(found.id, generation, generation))


async def keep_generation(db: Db, directory: Directory) -> None:
    """Raise it every hour, until cancelled."""
    while True:
        await asyncio.sleep(GENERATION_SECONDS)
        if not directory.read_only:
            with suppress(DirectoryError):
                await db(lambda store: raise_generation(store, directory))


def _marked(directory: Directory, new: RootId) -> RootId:
    """What the file says now: `new`, or what another agent has made at the same moment."""
    try:
        return directory.root_file.read() or new
    except RootError:
        directory.root_file.renew(new)
        return new


def _found_root(store: StateStore, config: Mapping, directory: Directory) -> RootId | None:
    try:
        return directory.root_file.read()
    except RootError as error:
        if _known_root(store) is None and not store.ancestors():
            return None  # nothing is known of it, or nothing any more: whatever the file said, it is a first contact
        raise _halt(config, HaltReason.ROOT_REPLACED, error.message, error.remedy) from error


def _other_root(store: StateStore, config: Mapping, directory: Directory, found: RootId | None) -> HaltError:
    ancestors = store.ancestors()
    if found is None and ancestors >= EMPTIED_FLOOR and directory.empty:
        stop = emptied_stop(config, ancestors, time.time())
        return HaltError(stop.detail, reason=stop.reason.value, remedy=stop.remedy, count=stop.count)
    what = "has another .jetsync/root.json" if found is not None else "has no .jetsync/root.json any more"
    return _halt(
        config,
        HaltReason.ROOT_REPLACED,
        f"{config.directory} isn't the directory that this mapping had: it {what}",
        "mount it or put the right one back",
    )


def _known_root(store: StateStore) -> _Known | None:
    text = store.kv_get("root")
    return _Known(**json.loads(text)) if text else None


def _note(store: StateStore, known: _Known) -> None:
    store.kv_set("root", json.dumps({"id": known.id, "generation": known.generation, "next": known.next}))


# -- the bucket --------------------------------------------------------------------------------------------------------


def missing(config: Mapping) -> HaltError:
    """A bucket that this state has seen isn't there; it is never made anew by itself."""
    return _halt(
        config, HaltReason.BUCKET_MISSING, f"bucket {config.bucket!r}, which was there, is gone", "restore the bucket"
    )


def check_bucket(store: StateStore, config: Mapping, status: BucketStatus) -> None:
    """See that the stream is the one that the rows are of, and hasn't gone back in time.

    :raises HaltError: it isn't
    """
    known = store.kv_get("stream_created")
    recreated = known is not None and known != status.created
    rolled_back = known == status.created and status.last_seq < store.cursor
    if not recreated and not rolled_back:
        return
    if not store.ancestors():
        store.forget_remote()
        store.kv_set("stream_created", None)
    elif recreated:
        detail = f"bucket {config.bucket!r} was deleted and made again ({status.created}; it was of {known})"
        raise _halt(config, HaltReason.BUCKET_RECREATED, detail, "restore the bucket")
    else:
        detail = (
            f"bucket {config.bucket!r} ends at {status.last_seq}, before {store.cursor}, which was read: an older copy"
        )
        raise _halt(config, HaltReason.BUCKET_ROLLED_BACK, detail, "restore the newer copy")


# -- halts -------------------------------------------------------------------------------------------------------------


def store_halt(store: StateStore, error: HaltError) -> Stop:
    """Keep a halt for those who ask and approve; it counts from when it was first seen."""
    reason, before = HaltReason(error.reason), read_stop(store)
    since = before.since if before is not None and before.reason is reason else time.time()
    stop = Stop(reason, error.message, error.remedy, since, "remote", error.count)
    write_stop(store, stop)
    return stop


def identity_is_well(store: StateStore) -> Stop | None:
    """All checks have passed: a halt for their sake is over. One for the content's sake stays, and is returned."""
    stop = read_stop(store)
    if stop is None or stop.reason in OF_CONTENT:
        return stop
    write_stop(store, None)
    return None


def _halt(config: Mapping, reason: HaltReason, detail: str, remedy: str) -> HaltError:
    anew = f"{remedy}; or, to begin anew with what is there now: jetsync approve {config.name}"
    return HaltError(detail, reason=reason.value, remedy=anew)
