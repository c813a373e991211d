"""The container engine and the image, once per session; tests that need them are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engine import Engine, UnavailableError


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    try:
        engine = Engine.start(tmp_path_factory.mktemp("engine"))
    except UnavailableError as why:
        pytest.skip(str(why))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    try:
        return engine.build(VERSION="1.2.3", REVISION="abc", CREATED="2026-11-28T10:00:00Z")
    except UnavailableError as why:
        pytest.skip(str(why))
