"""The benchmarks run, small, and leave nothing behind. What they measure is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agent import environment

ROOT = Path(__file__).parents[2]


def bench(tmp_path: Path, name: str, *options: str) -> list[dict[str, object]]:
    """Run it, and give its JSON lines."""
    lines, work = tmp_path / "figures.jsonl", tmp_path / "work"
    work.mkdir()
    common: list[str | Path] = ["--quick", "--rounds", "1", "--dir", work, "--json", lines]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, *common, *options],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(work.iterdir())
    return [json.loads(line) for line in lines.read_text().splitlines()]


@pytest.mark.timeout(120)
def test_the_benchmark_of_small_files_measures_each_step_of_jetsync(tmp_path: Path):
    figures = bench(tmp_path, "small_files", "--files", "20")

    measured = [line["work"] for line in figures if line.get("who") == "jetsync"]
    assert measured == ["push", "nothing to do", "pull"]


@pytest.mark.timeout(120)
def test_the_benchmark_of_the_library_compares_with_the_limit(tmp_path: Path):
    figures = bench(tmp_path, "library", "--mib", "10", "--no-peers")

    assert {line["who"] for line in figures if line.get("work") == "get"} == {"jetsync", "limit"}
