"""Reading every local file once per `rehash` interval, and comparing its digest with what the row says.

Scans believe the stat signature. What changes content behind it (a bad disk, a write through a mapping of the file, a
server with a slow clock) is found here only. The work is spread out: a file is due when the share of the interval that
its size stands for has passed, and is then read in one go, but gently. Where many small files are due within seconds
they are read together: with a million files that is what an idle agent does all day. The position is kept in the state,
so a restart goes on; time in which no agent runs doesn't count.

    same stat, same digest        nothing
    another stat                  an ordinary change: the path is hinted
    same stat, another digest     where the object is what the file was, and the mode changes files, it is fetched again
                                  (`repair`). Else the local side becomes the obstacle BAD_DIGEST: nothing is sent or
                                  overwritten because of it (`looks` leaves it so until the stat changes), and a person
                                  is told
    not readable any more         the obstacle UNREADABLE, which the next look tries again
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from agent.core.entries import Entry, Local, Obstacle, Reason, Signature
from agent.directory import Directory, OpenFile
from agent.errors import JetsyncError, PathError, StaleError
from agent.state import StateStore
from agent.sync.db import Db

Known = tuple[str, Local]

KEY = "rehash_after"
PAGE = 256
# What a file costs beside its bytes, so that many small files are spread out too.
FILE_COST = 4096
BLOCK = 4 << 20
# Bytes per second while a file is read; more only where the interval asks for it.
GENTLE = 32 << 20
# What is found damaged while it can't be repaired yet (no server, an action under way) is come back to this often,
# a NAP apart, before it is told as it is.
TRIES = 10
# The pace is computed anew at least this often (seconds): the tree grows and shrinks.
NAP = 30.0
# Small files that are due within so many seconds are read together.
LOT_SECONDS = 10.0
SMALL = 256 << 10

DAMAGED = Obstacle(
    Reason.BAD_DIGEST,
    "the content changed while size and times did not; put a good copy in its place (or delete it, to get the "
    "bucket's), or touch it if the content is right",
)


class Rehash:
    """The pass over one mapping's files, again and again. `run` is its only task.

    found: called with a path, its known local side and what it is instead; the last argument says whether it will be
    called again when it gives back False, not settled. changed: called with paths whose stat is another one.
    """

    def __init__(
        self,
        *,
        interval: float,
        directory: Directory,
        db: Db,
        found: Callable[[str, Local, Local, bool], Awaitable[bool]],
        changed: Callable[[list[str]], None],
    ) -> None:
        self._interval = interval
        self._directory = directory
        self._db = db
        self._found = found
        self._changed = changed
        self._credit = 0.0
        self._rate = 0.0

    async def run(self) -> None:
        """Until cancelled; at once when `rehash` is 0s."""
        if not self._interval:
            return
        after = await self._db(lambda store: store.kv_get(KEY)) or ""
        while True:
            page = await self._page(after)
            await self._measure()
            for lot in self._lots(page):
                await self._wait_for(sum(_cost(local) for _, local in lot))
                digests = await self._read(lot)
                for (path, local), digest in zip(lot, digests, strict=True):
                    await self._settle(path, local, digest)
                after = lot[-1][0]
                await self._keep(after)
            if not page:
                if not after:
                    await asyncio.sleep(min(self._interval, NAP))
                after = ""

    def _lots(self, page: list[Known]) -> Iterator[list[Known]]:
        """What is read together, one file at least."""
        lot: list[Known] = []
        cost = 0
        for path, local in page:
            one = _cost(local)
            if lot and (one > SMALL or cost > SMALL or cost + one > self._rate * LOT_SECONDS):
                yield lot
                lot, cost = [], 0
            lot.append((path, local))
            cost += one
        if lot:
            yield lot

    async def _read(self, lot: list[Known]) -> list[bytes | None]:
        """The digests of a lot of small files, by one call of a thread; None for what has to be read alone."""
        if len(lot) == 1:
            return [None]
        return await asyncio.to_thread(lambda: [_digest_now(self._directory, path, local) for path, local in lot])

    async def _settle(self, path: str, local: Local, digest: bytes | None) -> None:
        if digest is not None and isinstance(local.side, Entry) and digest == local.side.digest:
            return
        for left in reversed(range(TRIES)):
            if await self._check(path, local, again=left > 0):
                break
            await asyncio.sleep(NAP)

    async def _page(self, after: str) -> list[tuple[str, Local]]:
        return await self._db(lambda store: store.local_files(after, PAGE))

    async def _keep(self, path: str) -> None:
        def keep(store: StateStore) -> None:
            with store.transaction(durable=False):
                store.kv_set(KEY, path)

        await self._db(keep)

    async def _wait_for(self, cost: int) -> None:
        """Until the interval's share of `cost` has passed."""
        while self._credit < cost:
            await self._measure()
            self._rate = max(self._rate, cost / self._interval)
            nap = min(NAP, (cost - self._credit) / self._rate)
            await asyncio.sleep(nap)
            self._credit += nap * self._rate
            if nap < NAP:
                break
        self._credit = max(0.0, self._credit - cost)

    async def _measure(self) -> None:
        """How much has to be read in a second."""
        counts = await self._db(lambda store: store.counts())
        self._rate = max(counts.local_bytes + FILE_COST * counts.local_objects, 1) / self._interval

    async def _check(self, path: str, local: Local, *, again: bool) -> bool:
        """Whether the path is done with."""
        if local.racy or local.signature is None or not isinstance(local.side, Entry):
            self._changed([path])
            return True
        try:
            digest = await digest_of(self._directory, path, local.signature, pause=self._pause)
        except StaleError:
            self._changed([path])
        except PathError as error:
            return await self._found(
                path, local, Local(Obstacle(Reason.UNREADABLE, error.message), local.signature), again
            )
        except JetsyncError:
            pass  # the machine is short of something: the next pass
        else:
            if digest != local.side.digest:
                return await self._found(path, local, Local(DAMAGED, local.signature), again)
        return True

    async def _pause(self, length: int) -> None:
        await asyncio.sleep(length / max(GENTLE, 2 * self._rate))


async def digest_of(
    directory: Directory, path: str, signature: Signature, *, pause: Callable[[int], Awaitable[None]]
) -> bytes:
    """Read a file as the device has it, not as memory has it. pause: awaited with the length of each block.

    :raises StaleError, PathError, SpaceError: as `Directory.open_read`; StaleError too when it changed meanwhile
    """
    hasher = hashlib.sha256()
    file = await _open(directory, path, signature)
    try:
        await asyncio.to_thread(os.posix_fadvise, file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while length := await asyncio.to_thread(_read, file, hasher.update):
            await pause(length)
        await asyncio.to_thread(file.confirm)
    except OSError as error:
        raise PathError(f"{path}: {error.strerror}", reason=Reason.UNREADABLE) from error
    finally:
        file.close()
    return hasher.digest()


async def _open(directory: Directory, path: str, signature: Signature) -> OpenFile:
    """Open a file; one that is open only after we were cancelled is closed."""
    opening = asyncio.create_task(asyncio.to_thread(directory.open_read, path, signature), name="rehash open")
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        with suppress(JetsyncError):
            (await opening).close()
        raise


def store_found(store: StateStore, path: str, known: Local, found: Local) -> bool:
    """Write what was found into the row, unless the row has moved on; the row is planned again."""
    row = store.row(path)
    if row.local != known:
        return False
    with store.transaction():
        store.put([replace(row, local=found)], dirty=True)
    return True


def _cost(local: Local) -> int:
    return FILE_COST + (local.signature.size if local.signature else 0)


def _digest_now(directory: Directory, path: str, local: Local) -> bytes | None:
    """In a thread: the digest of a small file, as `digest_of` gives it; None when anything is odd about it."""
    if local.racy or local.signature is None:
        return None
    try:
        file = directory.open_read(path, local.signature)
    except JetsyncError:
        return None
    hasher = hashlib.sha256()
    try:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while _read(file, hasher.update):
            pass
        file.confirm()
    except (JetsyncError, OSError):
        return None
    finally:
        file.close()
    return hasher.digest()


def _read(file: OpenFile, update: Callable[[bytes], None]) -> int:
    """Read and hash a block; how long it was, 0 at the end."""
    block = file.read(BLOCK)
    update(block)
    return len(block)
