"""A store of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.state import StateStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "inbox.db"


@pytest.fixture
def store(path: Path) -> Iterator[StateStore]:
    store = StateStore.open(path)
    yield store
    store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateStore]:
    """A store for the many examples of one property, which empties it itself (`forget_all`)."""
    store = StateStore.open(tmp_path_factory.mktemp("state") / "s.db")
    yield store
    store.close()
