"""kill -9 in the middle of writing, again and again: what is there is whole, and the numbers are right."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from agent.state import StateStore, counts

# Each transaction writes the same revision into a row of each half, and moves the cursor to it.
WRITER = """
import itertools, sys
from pathlib import Path
from agent.core.entries import Row
from agent.state import StateStore
from tests.support.rows import remote_only

store = StateStore.open(Path(sys.argv[1]))
assert not store.recovered, store.recovered
print("writing", flush=True)
for revision in itertools.count(store.cursor + 1):
    with store.transaction(durable=revision % 10 == 0):
        names = [f"{half}/{number % 997:04}" for half in "ab" for number in range(revision, revision + 20)]
        store.put([remote_only(name, revision=revision) for name in names[:-1]], dirty=revision % 2 == 0)
        store.put([remote_only(names[-1], revision=revision)], dirty=revision % 2 == 0)
        store.put([Row(f"{half}/{(revision * 7) % 997:04}") for half in "ab"], dirty=False)
        store.cursor = revision
"""


def test_kill_at_any_instant_leaves_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    last = 0
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            time.sleep(random.uniform(0.0, 0.3))
            writer.kill()

        store = StateStore.open(path)
        assert store.recovered == ""
        assert store._db.all("PRAGMA integrity_check") == [("ok",)]
        assert store.cursor >= last
        last = store.cursor
        halves = [[(row.path[1:], row.revision) for row in store.all_rows(half)] for half in "ab"]
        assert halves[0] == halves[1]
        assert max((revision for _, revision in halves[0]), default=0) == last
        assert store._numbers == counts.recount(store._db)
        store.close()
    assert last > 0
