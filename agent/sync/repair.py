"""Repairs: what is damaged on one side is made again from the whole one. Used by `verify` and by `rehash`.

A repair is an ordinary action that no plan would make, since the rows don't show the damage: a download over a file
that says it is what the object is, an upload over an object that says it is what the file is. It runs as any action
does (`Batches.start_alone`), under the same expectations: the file's signature, the object's revision. What it
replaces goes the usual ways: damaged files to the trash, damaged objects' chunks to the journal.

A side is only ever replaced by content of the digest that it was known to have itself. Which side may be changed is
the mode's business; and a row whose two sides differ is nobody's good copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from agent.core.entries import Entry, Kind, Local, Mode, Row
from agent.core.plan import Action, Verb
from agent.sync.batches import Batches
from agent.sync.local import Step
from agent.sync.outcome import Outcome

# How often somebody who waits for a repair looks whether the session still lives (seconds).
_LOOK = 1.0


def of_file(row: Row, known: Local, mode: Mode) -> Action | None:
    """Fetch the object again over a damaged file. None: there is no good copy, or the mode doesn't change files.

    known: the local side whose digest isn't true any more; the row has to be as it was when that was found.
    """
    mine, theirs = row.local_side, row.remote_side
    if not mode.pulls or row.local != known or not (isinstance(mine, Entry) and isinstance(theirs, Entry)):
        return None
    if mine.kind is not Kind.FILE or not mine.same_content(theirs):
        return None
    entry = replace(theirs, executable=mine.executable, mtime_ns=mine.mtime_ns)
    return Action(verb=Verb.DOWNLOAD, row=row, reason="the local file is damaged", entry=entry, bytes=entry.size)


def of_object(row: Row, promised: Entry | None, mode: Mode) -> Action | None:
    """Upload the file again over a damaged object. None: there is no good copy, or the mode doesn't change objects.

    promised: what the object's meta of the row's revision says that it is. The upload reads the file once more, and
    stores nothing when its bytes aren't those of the row.
    """
    mine = row.local_side
    if not mode.pushes or promised is None or row.remote is None or row.remote.via_link:
        return None
    if not isinstance(mine, Entry) or mine.kind is not Kind.FILE or not mine.same_content(promised):
        return None
    return Action(verb=Verb.UPLOAD, row=row, reason="the object is damaged", entry=mine, bytes=mine.size)


async def run(action: Action, *, batches: Batches, call: Callable[[Step], Awaitable[None]]) -> Outcome | None:
    """Run a repair, from outside the loop, and wait for its outcome. None: it wasn't run (the path is busy, the server
    is away, the mapping drains): try again later.

    :raises EndedError: the session has ended
    """
    started: list[asyncio.Future[Outcome | None] | None] = []

    async def start() -> None:
        started.append(await batches.start_alone(action))

    async def nothing() -> None:
        pass

    await call(start)
    done = started[0]
    if done is None:
        return None
    while not done.done():
        await asyncio.wait([done], timeout=_LOOK)
        await call(nothing)  # raises when nobody will ever tell
    return done.result()
