"""How much is tried, and from which seed on: `make faults SEEDS=n SEED=x` sets the variables.

JETSYNC_FAULTS_SEEDS=n    n runs of the whole machine (25), and n thousand cases of the planner (at least 100,000)
JETSYNC_FAULTS_SEED=x     only this seed, of both
JETSYNC_FAULTS_FROM=x     the first seed (0): fresh ones for each round of `make soak`
"""

from __future__ import annotations

import os

import pytest

SEEDS = int(os.environ.get("JETSYNC_FAULTS_SEEDS") or 25)
SEED = os.environ.get("JETSYNC_FAULTS_SEED")
FROM = int(os.environ.get("JETSYNC_FAULTS_FROM") or 0)
CHUNKS = 20  # of the planner's cases: enough for every worker to get some


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "machine_seed" in metafunc.fixturenames:
        seeds = [int(SEED)] if SEED else range(FROM, FROM + SEEDS)
        metafunc.parametrize("machine_seed", seeds)
    if "planner_seeds" in metafunc.fixturenames:
        chunks = [range(int(SEED), int(SEED) + 1)] if SEED else _chunks(FROM, max(100_000, SEEDS * 1000))
        metafunc.parametrize("planner_seeds", chunks, ids=[f"{chunk.start}-{chunk.stop - 1}" for chunk in chunks])


def _chunks(first: int, number: int) -> list[range]:
    size = number // CHUNKS
    return [range(first + index * size, first + (index + 1) * size) for index in range(CHUNKS)]
