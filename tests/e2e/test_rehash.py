"""`rehash`: a file whose content changed behind an unchanged stat is told, and spoils nothing."""

from __future__ import annotations

from dataclasses import replace

from agent.directory import signature_of
from agent.state import StateStore
from tests.e2e.conftest import MakeAgent
from tests.support.agent import eventually, read_tree, write_tree
from tests.support.stock import Stock


def test_a_damaged_file_is_told_and_nothing_is_sent_or_overwritten(
    make_agent: MakeAgent, stock: Stock, bucket_name: str
):
    agent = make_agent("a", rehash="1s", rescan="1s")
    write_tree(agent.directory(), {"good": b"good", "damaged": b"as it was"})
    agent.sync()
    file = agent.directory() / "damaged"
    file.write_bytes(b"as it is ")
    store = StateStore.open(agent.state_dir / "mappings" / "files.db")  # no test can set a ctime back
    row = store.row("damaged")
    assert row.local is not None
    store.put([replace(row, local=replace(row.local, signature=signature_of(file.stat()), racy=False))], dirty=False)
    store.close()

    with agent.run() as running:
        eventually(lambda: running.metrics()['jetsync_mapping_problems{mapping="files",reason="bad_digest"}'] == 1)
        stock.put(bucket_name, "damaged", b"newer")
        stock.put(bucket_name, "other", b"other")
        eventually((agent.directory() / "other").exists)
        status = agent.sync(exit=3)
        assert [(problem["path"], problem["reason"]) for problem in status["problems"]] == [("damaged", "bad_digest")]
        assert file.read_bytes() == b"as it is "
        assert stock.get(bucket_name, "damaged") == b"newer"
        assert running.metrics()['jetsync_integrity_failures_total{mapping="files"}'] == 1
        file.unlink()  # the remedy: the bucket has a good copy
        eventually(lambda: file.read_bytes() == b"newer")
        assert agent.sync()["problems"] == []
    assert len(read_tree(agent.directory())) == 3
