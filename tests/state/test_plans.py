"""What one change costs does not depend on the number of rows: no statement of the daily work reads a whole table."""

from __future__ import annotations

from agent.core.entries import Row
from agent.state import StateStore
from tests.support.rows import agreed, local_only, marker


def test_no_statement_of_the_daily_work_scans_a_table(store: StateStore) -> None:
    store.set_identity({"prefix": "in/"})
    store.put([agreed("a"), local_only("b/c"), Row("m", remote=marker())], dirty=True)
    store.put_other("elsewhere", 5, "N")
    statements: set[str] = set()
    store._db.connection.set_trace_callback(statements.add)

    store.put([agreed("a")], dirty=True)
    store.put([agreed("b")], dirty=None)
    store.put([Row("m")], dirty=False)
    store.mark_dirty(["a"])
    store.put_other("in/a", 5, "N")
    store.row("a")
    store.rows(["a", "b"])
    store.dirty(10)
    store.clashes(["a", "b"])
    store.live_copies("a")
    store.find_nuid("N")
    store.known_names()
    store.counts()
    store.conflicts()
    store.problems(10)
    store.journal_due(1)
    list(store.below("b"))
    store.below_any(["a", "b"])
    list(store.local_signatures("b"))

    store._db.connection.set_trace_callback(None)
    looked_at = [sql for sql in statements if sql.lstrip().startswith(("SELECT", "DELETE", "UPDATE", "INSERT"))]
    assert len(looked_at) > 20
    for sql in looked_at:
        plan = [detail for *_, detail in store._db.all(f"EXPLAIN QUERY PLAN {sql}")]
        scans = [step for step in plan if "SCAN" in step and "json_each" not in step]
        # A scan of a partial index reads only the few rows it has.
        assert all(("USING" in step and "paths_" in step) or "others_reason" in step for step in scans), (sql, plan)
