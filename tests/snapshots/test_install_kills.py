"""Promises 6 and 10 for an install: the process dies at each of its steps, and the next run finishes the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import NatsServer

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_an_install_that_dies_at_any_step_leaves_a_whole_version_current_and_is_finished_by_the_next(
    nats_server: NatsServer, bucket_name: str, tmp_path: Path, stride: int
):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dying", nats_server.url, bucket_name, tmp_path / "live", str(stride)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=170 if stride > 1 else 600,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert int(done.stdout.splitlines()[-1]) > 20
