"""Metrics of a one-shot run, in a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.core.entries import Mode
from agent.errors import JetsyncError
from agent.observe.metrics import Metrics
from agent.observe.textfile import write_textfile


def test_the_file_has_our_series_only_is_readable_by_all_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    metrics = Metrics("1.2.3")
    metrics.mapping("inbox", bucket="b", mode=Mode.TWO_WAY).success(17.5)
    before = os.umask(0o077)
    try:
        for _ in range(2):
            write_textfile(tmp_path / "jetsync.prom", metrics.render_own())
    finally:
        os.umask(before)
    text = (tmp_path / "jetsync.prom").read_text()
    assert 'jetsync_mapping_last_success_timestamp_seconds{mapping="inbox"} 17.5' in text
    assert all(line.split()[2].startswith("jetsync_") for line in text.splitlines() if line.startswith("# TYPE"))
    assert stat.S_IMODE((tmp_path / "jetsync.prom").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["jetsync.prom"]


def test_a_file_that_can_not_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(JetsyncError, match=r"missing/jetsync.prom.*No such file") as caught:
        write_textfile(tmp_path / "missing" / "jetsync.prom", b"")
    assert caught.value.remedy
    (tmp_path / "jetsync.prom").mkdir()
    with pytest.raises(JetsyncError):
        write_textfile(tmp_path / "jetsync.prom", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["jetsync.prom"]
