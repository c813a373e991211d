"""Fixtures of the directory's tests: a root, and it opened with all, some, or none of the modern system calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.directory import Capabilities, Directory, DirectoryOptions

Open = Callable[..., Directory]

POORER = {
    "modern": Capabilities(),
    "no-openat2": Capabilities(openat2=False),
    "no-exchange": Capabilities(exchange=False),
    "links-only": Capabilities(openat2=False, exchange=False, noreplace=False),
    "moves-only": Capabilities(openat2=False, exchange=False, noreplace=False, hard_links=False),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def opener(root: Path) -> Iterator[Open]:
    opened: list[Directory] = []

    def open_it(path: Path = root, *, capabilities: Capabilities | None = None, **options) -> Directory:
        directory = Directory.open(path, options=DirectoryOptions(**options), capabilities=capabilities)
        opened.append(directory)
        return directory

    yield open_it
    for directory in opened:
        directory.close()


@pytest.fixture
def directory(opener: Open) -> Directory:
    return opener()


@pytest.fixture(params=POORER)
def any_directory(request: pytest.FixtureRequest, opener: Open) -> Directory:
    """The directory as each kind of system would let us have it."""
    poorer = POORER[request.param]
    return opener(
        capabilities=Capabilities(
            openat2=poorer.openat2,
            exchange=poorer.exchange,
            noreplace=poorer.noreplace,
            hard_links=poorer.hard_links,
        )
    )
