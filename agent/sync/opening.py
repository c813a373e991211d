"""Opening what a session works on, and seeing that both are what the rows are of (DESIGN section 6, "Identity")."""

from __future__ import annotations

import asyncio

from agent.config.model import Mapping
from agent.directory import Directory, DirectoryOptions
from agent.errors import BucketNotFoundError, RootError
from agent.sync.db import Db
from agent.sync.identity import check_bucket, check_root, missing, vanished
from agent.sync.remotes import Opened, Remotes


async def open_directory(config: Mapping, db: Db, *, dry: bool) -> Directory:
    """Open the root, and see that it is the one that the rows are of.

    :raises HaltError, RootError, LockedError
    """
    options = DirectoryOptions(
        file_mode=config.file_mode,
        directory_mode=config.directory_mode,
        symlinks=config.symlinks,
        max_size=config.max_size,
        permissions=config.permissions,
        empty_directories=config.empty_directories,
        trash=config.trash,
        read_only=dry,
    )
    try:
        directory = await asyncio.to_thread(Directory.open, config.directory, options=options)
    except RootError as error:
        why = error
        raise await db(lambda store: vanished(store, config, why)) from error
    try:
        await db(lambda store: check_root(store, config, directory, dry=dry))
    except BaseException:
        await asyncio.to_thread(directory.close)
        raise
    return directory


async def open_bucket(config: Mapping, db: Db, remotes: Remotes, *, dry: bool) -> Opened:
    """Open the bucket, and see that it is the one that the rows are of.

    :raises HaltError, BucketError, ConnectError, StoreUnavailableError
    """
    seen = await db(lambda store: store.kv_get("bucket_seen") is not None)
    try:
        opened = await remotes.open(config.bucket, seen=seen, dry=dry)
    except BucketNotFoundError as error:
        if not seen:
            raise
        raise missing(config) from error
    if opened.bucket is not None:
        status = await opened.bucket.status()
        await db(lambda store: check_bucket(store, config, status))
        await db(lambda store: store.kv_set("bucket_seen", "1"))
    return opened
