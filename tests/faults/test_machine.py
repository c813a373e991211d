"""Whole agents under fire (`machine`): one seed, one run. `make faults SEED=x` repeats one, with its story."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, of_bytes
from tests.faults.machine import isolated


@pytest.mark.timeout(300)
def test_agents_converge_and_lose_nothing_whatever_breaks(machine_seed: int, tmp_path: Path):
    run = isolated(machine_seed, tmp_path)
    assert run.returncode == 0, run.stdout


def test_the_ledger_knows_what_is_lost(tmp_path: Path):
    ledger = Ledger()
    for content in (b"kept", b"in the trash", b"given up", b"gone"):
        ledger.wrote(of_bytes(content), content.decode())
    (tmp_path / ".jetsync/trash/batch").mkdir(parents=True)
    (tmp_path / ".jetsync/staging").mkdir()
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / ".jetsync/trash/batch/file").write_bytes(b"in the trash")
    (tmp_path / ".jetsync/staging/gone").write_bytes(b"gone")
    ledger.saw(of_bytes(b"given up"), "somebody deleted it")
    assert list(ledger.lost([tmp_path, tmp_path / ".jetsync/trash"]).values()) == ["gone"]
