"""The remote side of one mapping: metas come in from the bucket's feed, rows go out.

Every batch is written in one transaction together with the cursor, so that a restart goes on exactly where the rows
are. A revision that a row already has is an echo of our own write, or old news: nothing is dirty then.

Purges, renames by other clients and expiry leave no trace in the stream (PROTOCOL section 3c). Two checks find them:
after catching up, at the start and at each rescan, the number of names on the server must equal the number of names
known, or everything is listed once and what wasn't seen has vanished (`check`); and a live meta whose nuid is known
under another name makes that name be read again at once (`_suspects`).
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from agent.config.model import Mapping
from agent.core.entries import Gone, Obstacle, Reason, Remote, Row
from agent.errors import JetsyncError, LinkError, ObjectNotFoundError, StoreUnavailableError
from agent.objectstore import Batch, Bucket, MetaMessage, ObjectInfo
from agent.observe.metrics import MappingMetrics
from agent.state import StateStore
from agent.sync.db import Db
from agent.sync.feed import Feed, Subscription
from agent.sync.remote import Outsider, Scope, place, remote_of, resolved

Placed = tuple[str, Remote] | Outsider


class RemoteSide:
    """Owned by the mapping's loop; `deliver` is called by the feed and waits until the loop has stored the batch."""

    def __init__(
        self,
        *,
        config: Mapping,
        bucket: Bucket | None,
        feed: Feed | None,
        db: Db,
        call: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
        lost: Callable[[JetsyncError], None],
        scope: Callable[[], Scope],
        metrics: MappingMetrics,
    ) -> None:
        self._config = config
        self._bucket = bucket
        self._feed = feed
        self._db = db
        self._call = call
        self._lost = lost
        self._scope = scope
        self._metrics = metrics
        self._subscription: Subscription | None = None
        self.caught_up = False
        self.checked = 0
        self.wanted_checks = 1
        self.last_seq = 0

    async def start(self) -> None:
        """Follow the bucket from the stored cursor. A stream with another `created` is a first contact."""
        if self._bucket is None or self._feed is None:
            self.caught_up = True  # a dry run on a bucket that would be created: empty
            return
        created = self._bucket.created
        cursor = await self._db(lambda store: _adopt_stream(store, created))
        self._subscription = await self._feed.subscribe(
            cursor=cursor, created=created, deliver=self._deliver, lost=self._lost
        )

    async def stop(self) -> None:
        if self._subscription is not None and self._feed is not None:
            await self._feed.unsubscribe(self._subscription)

    @property
    def idle(self) -> bool:
        return self.caught_up and self.checked >= self.wanted_checks

    def check_wanted(self) -> None:
        """Ask for the count of names to be compared (after catching up)."""
        self.wanted_checks += 1

    async def advance(self) -> None:
        """Compare the number of names when that was asked for."""
        if self.caught_up and self.checked < self.wanted_checks:
            asked = self.wanted_checks
            if self._bucket is not None:
                await self._check(self._bucket)
            self.checked = asked

    # -- metas ---------------------------------------------------------------------------------------------------

    async def _deliver(self, batch: Batch) -> None:
        await self._call(lambda: self._absorb(batch))

    async def _absorb(self, batch: Batch) -> None:
        live = self.caught_up
        suspects = await self.store(batch.metas, cursor=batch.last_seq, look_for_renames=live)
        self.last_seq = max(self.last_seq, batch.last_seq)
        if batch.caught_up:
            self.caught_up = True
        for path in suspects:
            await self.refresh(path)

    async def store(self, metas: list[MetaMessage], *, cursor: int | None, look_for_renames: bool = False) -> list[str]:
        """Write metas into the rows; returns the paths whose nuid turned up under another name."""
        scope = self._scope()
        placed: list[Placed] = [place(message, scope) for message in metas]
        for index, message in enumerate(metas):
            item = placed[index]
            if not isinstance(item, Outsider) and item[1].via_link and message.info is not None:
                placed[index] = (item[0], await self._resolve(item[1], message.info, scope))
        return await self._db(lambda store: _store(store, placed, cursor, look_for_renames, self._config.prefix))

    async def _resolve(self, remote: Remote, link: ObjectInfo, scope: Scope) -> Remote:
        """What a link that leads out of the mapping stands for."""
        if not (isinstance(remote.side, Obstacle) and remote.side.reason is Reason.BROKEN_LINK):
            return remote
        assert self._bucket is not None
        try:
            _, target = await self._bucket.resolve(link)
        except (LinkError, ObjectNotFoundError) as error:
            return replace(remote, side=Obstacle(Reason.BROKEN_LINK, str(error)))
        return resolved(remote, link, target, scope)

    async def refresh(self, path: str) -> None:
        """Read a name's newest meta from the leader; a name without one has vanished."""
        scope, bucket = self._scope(), self._bucket
        assert bucket is not None
        try:
            info = await bucket.info(scope.name_of(path), show_deleted=True)
            remote = remote_of(info, path, scope)
        except ObjectNotFoundError:
            remote = None
        except StoreUnavailableError:
            self.check_wanted()
            return
        except JetsyncError:
            return
        gone = Gone.EXPIRED if bucket.has_ttl else Gone.VANISHED
        await self._db(lambda store: _refreshed(store, path, remote, gone))

    # -- the count of names --------------------------------------------------------------------------------------

    async def _check(self, bucket: Bucket) -> None:
        known = await self._db(lambda store: store.known_names())
        if await bucket.names_count() == known:
            return
        self._metrics.full_scan("remote")
        await self.list_all()

    async def list_all(self) -> None:
        """Read every meta of the bucket; names that are known but weren't seen have vanished or expired."""
        bucket = self._bucket
        if bucket is None:
            return
        status = await bucket.status()
        await self._db(lambda store: store.begin_listing())
        async with aclosing(bucket.follow(after=0)) as batches:
            async for batch in batches:
                await self.store(batch.metas, cursor=None)
                names = [message.name for message in batch.metas]
                await self._db(functools.partial(StateStore.seen, listed=names))
                if batch.caught_up:
                    break
        gone = Gone.EXPIRED if bucket.has_ttl else Gone.VANISHED
        await self._db(lambda store: _sweep(store, gone, status.last_seq))


def _adopt_stream(store: StateStore, created: str) -> int:
    """The cursor to go on from: 0 when the stream isn't the one that the rows are of."""
    with store.transaction():
        known = store.kv_get("stream_created")
        if known == created:
            return store.cursor
        if known is not None:
            store.forget_remote()
        store.kv_set("stream_created", created)
        store.cursor = 0
    return 0


def _store(
    store: StateStore, placed: list[Placed], cursor: int | None, look_for_renames: bool, prefix: str
) -> list[str]:
    suspects: list[str] = []
    changed: dict[str, Row] = {}
    with store.transaction(durable=False):
        rows = store.rows([item[0] for item in placed if not isinstance(item, Outsider)])
        for item in placed:
            if isinstance(item, Outsider):
                store.put_other(item.name, item.revision, item.nuid, item.reason, item.detail)
                continue
            path, remote = item
            row = rows.get(path) or Row(path)
            if remote.revision <= row.revision:
                continue
            if look_for_renames and remote.nuid and (row.remote is None or row.remote.nuid != remote.nuid):
                names = store.find_nuid(remote.nuid)
                suspects += [name[len(prefix) :] for name in names if name.startswith(prefix) and name != prefix + path]
            rows[path] = changed[path] = replace(row, remote=remote)
        store.put(changed.values(), dirty=True)
        if cursor is not None:
            store.cursor = max(store.cursor, cursor)
    return suspects


def _refreshed(store: StateStore, path: str, remote: Remote | None, gone: Gone) -> None:
    with store.transaction(durable=False):
        row = store.row(path)
        if remote is None:
            remote = Remote(None, 0, gone=gone)
        elif remote.revision <= row.revision:
            return
        store.put([replace(row, remote=remote)], dirty=True)


def _sweep(store: StateStore, gone: Gone, up_to: int) -> None:
    """Names that the listing didn't meet, and that aren't newer than its start, are gone."""
    with store.transaction(durable=False):
        for path in store.unseen(up_to=up_to):
            row = store.row(path)
            store.put([replace(row, remote=Remote(None, 0, gone=gone))], dirty=True)
