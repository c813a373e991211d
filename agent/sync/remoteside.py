"""The remote side of one mapping: metas come in from the bucket's feed, rows go out.

Every batch is written in one transaction together with the cursor, so that a restart goes on exactly where the rows
are. A revision that a row already has is an echo of our own write, or old news: nothing is dirty then. Most echoes
don't come so far: see `echoes`.

Purges, renames by other clients and expiry leave no trace in the stream (PROTOCOL section 3c). Two checks find them:
after catching up, at the start, after a reconnect and at each rescan, the number of names on the server must equal the
number of names known, or everything is listed once and what wasn't seen has vanished (`check`); and a live meta whose
nuid is known under another name makes that name be read again (`suspect`), at once and, while both live, for a minute:
other clients rename in two steps. A name is taken for gone only when the leader has no meta of it, in the very stream
that the rows are of.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import replace

from agent.config.model import Mapping
from agent.core.entries import Gone, Obstacle, Reason, Remote, Row
from agent.errors import BucketReplacedError, JetsyncError, LinkError, ObjectNotFoundError, StoreUnavailableError
from agent.objectstore import Batch, Bucket, BucketStatus, MetaMessage, ObjectInfo
from agent.objectstore.listing import SILENCE
from agent.observe.meter import Meter
from agent.state import StateStore
from agent.sync.db import Db
from agent.sync.echoes import Echoes
from agent.sync.feed import Feed, Subscription
from agent.sync.remote import Outsider, Scope, place, remote_of, resolved
from agent.sync.retry import Backoff

# Seconds between two looks at a name whose nuid lives under another name too: another client renames in two steps.
_SUSPICION = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
# Seconds after a reconnect before names are counted: a listing is wanted only for what the follower isn't told.
_CATCH_UP = 1.0
# The key of: how many more metas than names the bucket had when its names were counted.
_SURPLUS = "meta_surplus"
# Damaged names that are looked at again with each check.
HEALED_AT_MOST = 1000

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
        echoes: Echoes,
        scope: Callable[[], Scope],
        metrics: Meter,
        heals: bool = True,
        progress: Callable[[], None] = lambda: None,
        failed: Callable[[JetsyncError], None] = lambda _: None,
    ) -> None:
        """heals: whether damaged objects are tried again.

        `progress` is called when the bucket has told something that was waited for, `failed` when it hasn't.
        """
        self._config = config
        self._bucket = bucket
        self._feed = feed
        self._db = db
        self._call = call
        self._lost = lost
        self._scope = scope
        self._metrics = metrics
        self._echoes = echoes
        self._heals = heals
        self._progress = progress
        self._failed = failed
        self._subscription: Subscription | None = None
        self._created = bucket.created if bucket is not None else ""
        self._suspects: dict[str, tuple[float, int]] = {}  # path -> when to read it, and how often that was done
        self._listing_wanted = False
        self._tried: set[tuple[str, Remote]] = set()
        self._check_at = 0.0
        self._backoff = Backoff(ceiling=10.0)
        self.caught_up = False
        self.checked = 0
        self.wanted_checks = 1
        self.last_seq = 0
        self._cursor = 0

    async def start(self) -> None:
        """Follow the bucket from the stored cursor. A stream with another `created` is a first contact."""
        if self._bucket is None or self._feed is None:
            self.caught_up = True  # a dry run on a bucket that would be created: empty
            return
        created = self._created
        cursor = await self._db(lambda store: _adopt_stream(store, created))
        self._subscription = await self._feed.subscribe(
            cursor=cursor, created=created, deliver=self._deliver, lost=self._lost
        )

    async def stop(self) -> None:
        if self._subscription is not None and self._feed is not None:
            await self._feed.unsubscribe(self._subscription)

    @property
    def idle(self) -> bool:
        return self.ready and self.checked >= self.wanted_checks and not self._echoes.late

    @property
    def ready(self) -> bool:
        """Whether the rows have every name of the bucket, as far as anybody can know."""
        return self.caught_up and self.checked > 0 and not self._listing_wanted

    def check_wanted(self) -> None:
        """Ask for the count of names to be compared (after catching up)."""
        self.wanted_checks += 1

    def connection_is_back(self) -> None:
        """Names may have gone meanwhile without a message. The follower gets a moment to bring what it is told."""
        self.check_wanted()
        self._check_at = max(self._check_at, time.monotonic() + _CATCH_UP)

    def listing_wanted(self) -> None:
        """Ask for every meta to be read again: what is a path of the mapping has changed."""
        self._listing_wanted = True
        self.check_wanted()

    def suspect(self, paths: Iterable[str]) -> None:
        """These names may be gone, or may be about to go, without a message: read them."""
        now = time.monotonic()
        for path in paths:
            self._suspects.setdefault(path, (now, 0))

    def next_due(self) -> float | None:
        """Seconds until `advance` has something to do that waits for its time."""
        dues = [due for due, _ in self._suspects.values()]
        if self.caught_up and self.checked < self.wanted_checks:
            dues.append(self._check_at)
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    async def advance(self) -> None:
        """Read the suspects, and compare the number of names when that was asked for."""
        if self._bucket is None:
            self.checked = self.wanted_checks
            return
        await self._store_late()
        await self._read_suspects()
        if not self.caught_up or self.checked >= self.wanted_checks or time.monotonic() < self._check_at:
            return
        asked = self.wanted_checks
        try:
            await self._check(self._bucket)
        except StoreUnavailableError as error:
            self._check_at = time.monotonic() + self._backoff.next()
            self._failed(error)
            return
        self._backoff.reset()
        self.checked = asked
        self._progress()

    # -- metas ---------------------------------------------------------------------------------------------------

    async def _deliver(self, batch: Batch) -> None:
        await self._call(lambda: self._absorb(batch))

    async def _absorb(self, batch: Batch) -> None:
        live = self.caught_up
        # What was renamed while we were away shows in the count of names; what is being renamed right now doesn't.
        recent = live or batch.caught_up
        self.last_seq = max(self.last_seq, batch.last_seq)
        self._metrics.watch(len(batch.metas), source="remote")
        metas = self._echoes.sift(batch.metas, self.last_seq)
        suspects = await self._store_up_to_here(metas, look_for_renames=recent)
        if not live:
            self._progress()
        if batch.caught_up:
            self.caught_up = True
        self.suspect(suspects)

    async def _store_up_to_here(self, metas: list[MetaMessage], *, look_for_renames: bool) -> list[str]:
        cursor = self._echoes.cursor(self.last_seq)
        suspects = await self.store(metas, cursor=cursor, look_for_renames=look_for_renames)
        self._cursor = cursor
        return suspects

    async def _store_late(self) -> None:
        """What waited for an outcome, and the cursor, which waited with it."""
        late, self._echoes.late = self._echoes.late, []
        if late or (self._echoes.cursor(self.last_seq) == self.last_seq > self._cursor):
            self.suspect(await self._store_up_to_here(late, look_for_renames=True))

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
        unresolved = isinstance(remote.side, Obstacle) and remote.side.reason is Reason.BROKEN_LINK
        if not (remote.via_link and unresolved):
            return remote
        assert self._bucket is not None
        try:
            _, target = await self._bucket.resolve(link)
        except (LinkError, ObjectNotFoundError) as error:
            return replace(remote, side=Obstacle(Reason.BROKEN_LINK, str(error)))
        return resolved(remote, link, target, scope)

    async def _read_suspects(self) -> None:
        now = time.monotonic()
        for path, (due, times) in list(self._suspects.items()):
            if due > now:
                continue
            if times < len(_SUSPICION) and not await self._refresh(path):
                self._suspects[path] = (now + _SUSPICION[times], times + 1)
            else:
                del self._suspects[path]

    async def _refresh(self, path: str) -> bool:
        """Read a name's newest meta from the leader; a name without one has vanished. False: it is as it was."""
        scope, bucket = self._scope(), self._bucket
        assert bucket is not None
        try:
            info = await bucket.info(scope.name_of(path), show_deleted=True)
            remote = await self._resolve(remote_of(info, path, scope), info, scope)
        except ObjectNotFoundError:
            remote = None
            try:
                await self._same_stream(bucket)
            except StoreUnavailableError:
                return False
        except StoreUnavailableError:
            return False
        except JetsyncError:
            return True  # a broken meta: the follower tells
        gone = Gone.EXPIRED if bucket.has_ttl else Gone.VANISHED
        return await self._db(lambda store: _refreshed(store, path, remote, gone))

    async def _same_stream(self, bucket: Bucket) -> BucketStatus:
        """:raises BucketReplacedError: the bucket isn't the one any more that the rows are of"""
        status = await bucket.status()
        if status.created != self._created:
            raise BucketReplacedError(
                f"bucket {bucket.name!r} was deleted and made again ({status.created}, before: {self._created})"
            )
        return status

    # -- the count of names --------------------------------------------------------------------------------------

    async def _check(self, bucket: Bucket) -> None:
        known = await self._all_are_known(bucket) if not self._listing_wanted else True
        if self._listing_wanted or not known:
            self._metrics.watch(0, 0 if known else 1, source="remote")
            self._metrics.full_scan("remote")
            self._listing_wanted = True
            await self._list_all(bucket)
            self._listing_wanted = False
        await self._look_for_healed(bucket)

    async def _all_are_known(self, bucket: Bucket) -> bool:
        """Whether the bucket has as many names as are known.

        The server counts messages fifty times faster than names, and a name has one message, unless somebody has
        written without the rollup header. So the messages are counted first, and how many more than names there were
        when names were counted last is kept: as long as they differ by that, no name can have gone.
        """
        known, surplus = await self._db(lambda store: (store.known_names(), int(store.kv_get(_SURPLUS) or 0)))
        messages = await bucket.metas_count()
        if messages == known + surplus:
            return True
        names = await bucket.names_count()
        if names == known and await bucket.metas_count() == messages:  # else somebody is writing just now
            await self._db(lambda store: store.kv_set(_SURPLUS, str(messages - names)))
        return names == known

    async def _list_all(self, bucket: Bucket) -> None:
        """Read every meta of the bucket; names that are known but weren't seen have vanished or expired.

        :raises StoreUnavailableError: the listing isn't whole; nothing follows from it
        :raises BucketReplacedError: the stream isn't the one any more that the rows are of
        """
        status = await self._same_stream(bucket)
        await self._db(lambda store: store.begin_listing())
        async with aclosing(bucket.follow(after=0, created=self._created)) as batches:
            caught_up = False
            while not caught_up:
                try:
                    async with asyncio.timeout(SILENCE):
                        batch = await anext(batches)
                except TimeoutError as error:
                    raise StoreUnavailableError(f"the listing of bucket {bucket.name!r} came to a stop") from error
                await self.store(batch.metas, cursor=None)
                names = [message.key for message in batch.metas]
                await self._db(functools.partial(StateStore.seen, listed=names))
                caught_up = batch.caught_up
                self._progress()
        gone = Gone.EXPIRED if bucket.has_ttl else Gone.VANISHED
        await self._db(lambda store: _sweep(store, gone, status.last_seq))

    async def _look_for_healed(self, bucket: Bucket) -> None:
        """Chunks that were missing may be back, and a link's target be there now, without a new meta of the name."""
        if not self._heals:
            return
        problems = await self._db(lambda store: store.problems(HEALED_AT_MOST))
        for path, obstacle in problems:
            if obstacle.reason in (Reason.MISSING_CHUNKS, Reason.BROKEN_LINK):
                with suppress(JetsyncError):
                    await self._heal(bucket, path)

    async def _heal(self, bucket: Bucket, path: str) -> None:
        scope = self._scope()
        info = await bucket.info(scope.name_of(path))
        remote = remote_of(info, path, scope)
        remote = await self._resolve(remote, info, scope)
        if isinstance(remote.side, Obstacle) or (info.chunks and await bucket.chunk_count(info.nuid) != info.chunks):
            return
        if (path, remote) not in self._tried:  # what fails again isn't fetched with each check
            self._tried.add((path, remote))
            await self._db(lambda store: _healed(store, path, remote))


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
    suspects: dict[str, str] = {}
    changed: dict[str, Row] = {}
    latest: dict[str, str] = {}  # nuid -> the path that has it by this batch, which no row in the store tells yet
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
                others = (name[len(prefix) :] for name in names if name.startswith(prefix) and name != prefix + path)
                suspects |= dict.fromkeys(others, remote.nuid)
                if latest.get(remote.nuid, path) != path:
                    suspects[latest[remote.nuid]] = remote.nuid
            if remote.nuid:
                latest[remote.nuid] = path
            rows[path] = changed[path] = Row(path, row.ancestor, row.local, remote, row.verdict)
        store.put(changed.values(), dirty=True)
        if cursor is not None:
            store.cursor = max(store.cursor, cursor)
    # In the same batch the other name may have been told to be gone: a rename as one batch does so.
    told = {path for path, row in changed.items() if row.remote is None or row.remote.nuid != suspects.get(path)}
    return [path for path in suspects if path not in told]


def _refreshed(store: StateStore, path: str, remote: Remote | None, gone: Gone) -> bool:
    with store.transaction(durable=False):
        row = store.row(path)
        if remote is None:
            remote = Remote(None, 0, gone=gone)
        elif remote.revision <= row.revision:
            return row.remote is None or row.remote.side is None
        store.put([replace(row, remote=remote)], dirty=True)
        return True


def _healed(store: StateStore, path: str, remote: Remote) -> None:
    with store.transaction(durable=False):
        row = store.row(path)
        if remote.revision >= row.revision and isinstance(row.remote_side, Obstacle):
            store.put([replace(row, remote=remote)], dirty=True)


def _sweep(store: StateStore, gone: Gone, up_to: int) -> None:
    """Names that the listing didn't meet, and that aren't newer than its start, are gone."""
    with store.transaction(durable=False):
        for path in store.unseen(up_to=up_to):
            row = store.row(path)
            store.put([replace(row, remote=Remote(None, 0, gone=gone))], dirty=True)
