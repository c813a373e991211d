"""The local side of one mapping: hints come in, rows go out.

Hints come from the watcher (which paths, after they have settled) and from scans (which paths differ from their rows).
Neither is believed: a job in a thread looks at each path (`looks.survey`), and what it found is written into the rows,
which are then dirty. A path is in `looking` from the start of its job until its row is written; no plan is made for it
meanwhile. Jobs run beside the mapping's loop, so hashing a large file holds nothing else up.

A scan walks the directory in the order of the rows and merges both (`directory.scan`); it runs in a thread with a
read-only connection of its own to the state store. It begins with the watcher armed, so what changes behind it is
hinted. It also meets the .jetsyncignore files; when they changed, the filters are made anew and rows are sorted again.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import nullcontext
from typing import Any

from agent.config.model import Mapping
from agent.core.entries import Local, Obstacle, Row, Signature
from agent.core.filters import Filters
from agent.directory import Contents, Directory, Scan, render
from agent.observe.meter import Meter
from agent.state import StateReader, StateStore
from agent.sync.db import Db
from agent.sync.hints import Absent, Hints, Looking
from agent.sync.looks import Survey, differing, other_names, survey
from agent.sync.rehash import store_found

# Paths in one look job; small enough that results come early, large enough that thread hops don't matter.
LOT = 512
JOBS = 4
# Large files hashed at once: the worker threads are for small changes too.
LARGE_AT_ONCE = 2
# Directories that wait to be scanned, beyond which everything is scanned instead.
MANY_SCANS = 200
IGNORE_FILE = ".jetsyncignore"

Step = Callable[[], Awaitable[None]]
Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class LocalSide:
    """Owned by the mapping's loop: every method but the jobs themselves runs there."""

    def __init__(
        self,
        *,
        config: Mapping,
        directory: Directory,
        db: Db,
        post: Callable[[Step], None],
        spawn: Spawn,
        metrics: Meter,
        filters: Filters,
        contents: Contents | None = None,
    ) -> None:
        """contents: of small new files, for their upload."""
        self._config = config
        self._directory = directory
        self._db = db
        self._post = post
        self._spawn = spawn
        self._metrics = metrics
        self._contents = contents
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[str, None] = {}
        self._entries: dict[str, None] = {}  # directories that may be an entry themselves ("a/"), to be looked at
        self._scanning = False
        self._stop = False
        self._jobs = 0
        self._looks = 0  # jobs that have ended
        self._linked: dict[int, tuple[int, int, int]] = {}  # files whose other names are to be looked at
        self._finding = False  # these names
        self.filters = filters
        self.hints = Hints(settle=config.settle, settle_max=config.settle_max)
        self.looking: set[str] = set()
        self._placed: dict[str, Signature] = {}  # files that we have put in place, and that are hinted
        self._large: set[str] = set()  # of these, the files that are hashed in jobs of their own
        self._hashing = asyncio.Semaphore(LARGE_AT_ONCE)
        # Paths that have no row (names that aren't UTF-8, unreadable directories): what the last scan said of them.
        self.strays: dict[str, Obstacle] = {}
        self.on_filters: Callable[[Filters], Awaitable[None]] | None = None
        self.on_scanned: Callable[[], None] = lambda: None  # a full scan has come to its end
        self.scan_seconds = 0.0  # how long it took
        self.scanned = 0  # full scans that came to their end
        self.wanted_scans = 0  # full scans that were asked for
        self._filters_due = 0  # the full scan after which the filters are known again

    # -- hints ---------------------------------------------------------------------------------------------------

    def hint(self, paths: Iterable[str]) -> None:
        """From the watcher, in the loop: something happened at each ("a/" = in that directory, "" = anywhere)."""
        now, add = self._loop.time(), self.hints.add
        for path in paths:
            if not path:
                self.scan()
                continue
            shown = render(path)
            add(shown, now)
            if shown.endswith(IGNORE_FILE) and _is_ignore_file(shown) and self._visible(shown):
                self._filters_may_change()

    def placed(self, path: str, local: Local) -> None:
        """We have put a file at `path` ourselves: what is hinted of it by now is mostly that."""
        if path in self.hints and local.signature is not None and not local.racy:
            self._placed[path] = local.signature
            self.hints.hasten(path)

    def filled(self, path: str) -> None:
        """We have put something at `path`: the directory above it isn't empty now, whenever the kernel tells."""
        parent = path.rstrip("/").rpartition("/")[0]
        if self._config.empty_directories and parent:
            self._entries[parent + "/"] = None

    def scan(self, below: str = "") -> None:
        """Ask for a scan; "" is the whole directory."""
        if not below:
            self.wanted_scans += 1
        self._wanted[below] = None
        if len(self._wanted) > MANY_SCANS and "" not in self._wanted:
            self.scan()

    def _filters_may_change(self) -> None:
        """A .jetsyncignore is new, different or gone: what it is meant to keep at home must not be sent meanwhile."""
        self.scan()
        if self.filters_known:
            self._filters_due = self.wanted_scans

    @property
    def filters_known(self) -> bool:
        """Whether the filters are those of the .jetsyncignore files that were last hinted. Else nothing is planned."""
        return self.scanned >= self._filters_due

    @property
    def idle(self) -> bool:
        """Nothing is being looked at or waits to be."""
        looking = self.looking or self._linked or self._finding
        return not (looking or self.hints or self._entries or self._wanted or self._scanning)

    @property
    def searching(self) -> bool:
        """Something is being looked at, or has settled and waits for it.

        Not: a file that is being written, and not a large one that is being hashed. Where a rename has taken it from is
        seen long before its digest is known.
        """
        soon = len(self.looking) > len(self._large)
        return bool(soon or self.hints.ready or self._entries or self._wanted or self._scanning)

    def state(self) -> Looking:
        """What is being looked at, for the planning."""
        return Looking(
            paths=Absent(self.looking, self.hints),
            looks=self._looks,
            hints=len(self.hints),
            searching=self.searching,
            quiet=self.idle,
        )

    @property
    def scanning(self) -> bool:
        return self._scanning

    def stop(self) -> None:
        self._stop = True

    # -- looks ---------------------------------------------------------------------------------------------------

    async def advance(self, busy: set[str]) -> None:
        """Start what can be started: a scan, and look jobs for the hints that have settled."""
        while self._jobs < JOBS:
            hinted = self.hints.take(self._loop.time(), LOT, Absent(busy, self.looking))
            if not hinted and not self._entries:
                break
            paths = self._to_look_at(path for path in hinted if self._visible(path))
            if any(map(_is_ignore_file, paths)):
                self._filters_may_change()
            await self._start_look(paths, large=False)
        if self._wanted and not self._scanning:
            await self._start_scan()
        if self._linked and not self._finding:
            self._finding = True
            linked, self._linked = self._linked, {}
            self._spawn(self._find_linked(linked), f"hard links {self._config.name}")

    def _visible(self, path: str) -> bool:
        """Whether a hint can concern this mapping: an allowed file, or a directory that may hold some."""
        return self.filters.allows(path) or not self.filters.prunes(path.rstrip("/"))

    def _to_look_at(self, hinted: Iterable[str]) -> list[str]:
        """Directories are scanned instead; with `empty_directories` they and the parents of files are looked at too,
        since they may have become empty, or not empty any more."""
        paths, self._entries = self._entries, {}
        for path in hinted:
            if path.endswith("/"):
                self.scan(path[:-1])
            else:
                paths[path] = None
            if self._config.empty_directories:
                parent = path.rstrip("/").rpartition("/")[0]
                candidates = [parent + "/"] if parent else []
                paths |= dict.fromkeys(candidates + ([path] if path.endswith("/") else []))
        return [path for path in paths if path not in self.looking]

    async def _start_look(self, paths: list[str], *, large: bool) -> None:
        if not paths:
            return
        self.looking.update(paths)
        self._jobs += not large
        if self._placed and not large:
            ours = {path: self._placed.pop(path) for path in paths if path in self._placed}
            if ours:
                self._spawn(self._compare(ours), f"compare {self._config.name}")
                paths = [path for path in paths if path not in ours]
                if not paths:
                    return
                self._jobs += 1
        rows = await self._db(lambda store: store.rows(paths))
        lot = [rows[path] for path in paths]
        self._spawn(self._look(lot, large=large), f"look {self._config.name}")

    async def _look(self, rows: list[Row], *, large: bool) -> None:
        async with self._hashing if large else nullcontext():
            look = functools.partial(survey, self._directory, rows, large_too=large, contents=self._contents)
            found = await asyncio.to_thread(look, stop=lambda: self._stop)
        self._post(lambda: self._looked(rows, found, large))

    async def _compare(self, ours: dict[str, Signature]) -> None:
        """See that files that we have put in place are as we have left them; those that aren't are looked at."""
        others = await asyncio.to_thread(differing, self._directory, ours)

        async def compared() -> None:
            self._jobs -= 1
            self._looks += 1
            self.looking.difference_update(ours)
            for path in ours:
                self.strays.pop(path, None)
            for path in others:
                self.hints.add(path, self._loop.time())

        self._post(compared)

    async def rehashed(self, path: str, known: Local, found: Local) -> None:
        """The content isn't what the row says, though the stat is. A step, as all that writes rows."""
        if path in self.looking or not await self._db(lambda store: store_found(store, path, known, found)):
            self.hints.add_ready([path])

    async def _looked(self, rows: list[Row], found: Survey, large: bool) -> None:
        """Write what a look job found into the rows."""
        self._jobs -= not large
        self._looks += 1
        below: list[str] = []
        if found.changed or found.refreshed or found.hollow:
            below = await self._db(lambda store: _write(store, found, self.filters.allows))
        for row in rows:
            self.looking.discard(row.path)
            self.strays.pop(row.path, None)  # if it still is one, its row says so now
        if large:
            self._large.difference_update(row.path for row in rows)
        else:
            self._large.update(found.large)
            for path in found.large:
                await self._start_look([path], large=True)
        for path in found.directories:
            if not path.endswith("/"):
                self.scan(path)
        if below:
            hollow = set(found.hollow)
            await self._hinted([path for path in below if path not in self.looking and path not in hollow])
        if any(map(_is_ignore_file, found.changed)):
            self._filters_may_change()
        self._linked |= found.linked

    async def _find_linked(self, linked: dict[int, tuple[int, int, int]]) -> None:
        """Look at the other names of files that were changed in place."""

        def find() -> list[str]:
            with self._db.reader() as reader:
                return other_names(reader, linked)

        paths = await asyncio.to_thread(find)

        async def found() -> None:
            self._finding = False
            await self._hinted(paths)

        self._post(found)

    # -- scans ---------------------------------------------------------------------------------------------------

    async def _start_scan(self) -> None:
        """One scan of everything, or of all the directories that wait for theirs."""
        below = [""] if "" in self._wanted else list(self._wanted)
        self._wanted.clear()
        self._scanning = True
        asked = self.wanted_scans
        self._spawn(self._scan(below, asked), f"scan {self._config.name}")

    async def _scan(self, below: list[str], asked: int) -> None:
        began = self._loop.time()
        results = await asyncio.to_thread(self._walk_all, below)
        if "" in results:
            self.scan_seconds = self._loop.time() - began
        self._post(lambda: self._scanned(asked, results))

    def _walk_all(self, below: list[str]) -> dict[str, Scan]:
        """In a thread: with one connection to the state for all of them."""
        with self._db.reader() as reader:
            return {directory: self._walk(directory, reader) for directory in below}

    def _walk(self, below: str, reader: StateReader) -> Scan:
        """Merge the directory with the rows and pass on what differs."""
        scan = self._directory.scan(reader, self.filters, below=below, stop=lambda: self._stop)
        paths: list[str] = []
        excluded: list[str] = []
        problems: list[tuple[str, Obstacle]] = []
        for hint in scan:
            if hint.obstacle is not None:
                problems.append((hint.path, hint.obstacle))
            elif hint.kind == "excluded":
                excluded.append(hint.path)
            else:
                paths.append(hint.path)
            if len(paths) >= LOT * 4:
                self._pass_on(paths)
                paths = []
        self._pass_on(paths)
        self._loop.call_soon_threadsafe(self._post, lambda: self._aside(below, problems, excluded))
        return scan

    def _pass_on(self, paths: list[str]) -> None:
        if paths:
            self._loop.call_soon_threadsafe(self._post, lambda: self._hinted(paths))

    async def _hinted(self, paths: list[str]) -> None:
        self.hints.add_ready(path for path in paths if not path.endswith("/"))
        self._entries |= dict.fromkeys(path for path in paths if path.endswith("/"))

    async def _aside(self, below: str, problems: list[tuple[str, Obstacle]], excluded: list[str]) -> None:
        """What the scan couldn't know: paths with rows become obstacles there, the others are strays.

        Paths that the filters have come to exclude lose their row: nothing is known of them any more.
        """
        if excluded:
            await self._db(lambda store: _drop(store, excluded))
        known = await self._db(lambda store: store.rows([path for path, _ in problems]))
        strays: dict[str, Obstacle] = {}
        for path, obstacle in problems:
            row = known[path]
            if row.local is None and row.remote is None and row.ancestor is None:
                strays[path] = obstacle
            elif row.local_side != obstacle:
                await self._db(functools.partial(_set_local, path=path, local=Local(obstacle)))
        inside = below + "/" if below else ""
        self.strays = {
            path: why for path, why in self.strays.items() if inside and not path.startswith(inside)
        } | strays

    async def _scanned(self, asked: int, results: dict[str, Scan]) -> None:
        self._scanning = False
        everything = results.get("")
        if everything is None:
            return
        self._metrics.full_scan("local")
        if everything.filters is not self.filters:
            self.filters = everything.filters
            if self.on_filters:
                await self.on_filters(everything.filters)
        self.scanned = max(self.scanned, asked)
        self.on_scanned()


def _is_ignore_file(path: str) -> bool:
    return path.endswith(IGNORE_FILE) and path.rpartition("/")[2] == IGNORE_FILE


def _write(store: StateStore, found: Survey, allows: Callable[[str], bool]) -> list[str]:
    """Store what was found; returns the paths of rows below what can't have anything below it any more."""
    with store.transaction(durable=False):
        rows = store.rows([*found.changed, *found.refreshed])
        changed = [_with_local(rows[path], local) for path, local in found.changed.items()]
        store.put([row for row in changed if allows(row.path) or row.local is None], dirty=True)
        store.put([_with_local(rows[path], local) for path, local in found.refreshed.items()], dirty=None)
    return store.below_any(found.hollow)


def _with_local(row: Row, local: Local | None) -> Row:
    return Row(row.path, row.ancestor, local, row.remote, row.verdict)


def _set_local(store: StateStore, *, path: str, local: Local) -> None:
    with store.transaction(durable=False):
        store.put([_with_local(store.row(path), local)], dirty=True)


def _drop(store: StateStore, paths: list[str]) -> None:
    with store.transaction():
        for path in paths:
            store.drop(path)
