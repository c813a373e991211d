"""requirements.lock is what pyproject.toml asks for, every file by digest. `make lock` writes it."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-build.lock")
# Where the image runs; the lock is for any Python that jetsync takes.
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


def locked(lock: str) -> dict[str, Version]:
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


def wanted(lock: str) -> list[Requirement]:
    """What pyproject.toml wants of this lock, directly."""
    project = PROJECT["project"]
    texts: Iterable[str] = [*project["dependencies"], *project["optional-dependencies"]["speed"]]
    if lock == "requirements-build.lock":
        texts = [*PROJECT["dependency-groups"]["build"], *PROJECT["build-system"]["requires"]]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_satisfies_what_the_project_asks_for(lock: str):
    versions = locked(lock)
    wrong = [
        str(one) for one in wanted(lock) if not one.specifier.contains(versions.get(canonicalize_name(one.name), "0"))
    ]

    assert wrong == [], "run `make lock`"


def needs(name: str) -> list[Requirement]:
    """What an installed package needs on Linux, without extras."""
    found = map(Requirement, importlib.metadata.requires(name) or [])
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": "", **LINUX})]


def test_the_lock_has_everything_that_its_packages_need():
    """As far as the locked versions are installed here: pip takes the lock without asking further."""
    versions, missing = locked("requirements.lock"), set()
    for name, version in versions.items():
        try:
            same = Version(importlib.metadata.version(name)) == version
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        for need in needs(name) if same else []:
            if not need.specifier.contains(versions.get(canonicalize_name(need.name), "0")):
                missing.add(f"{name} needs {need}")

    assert missing == set(), "run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_the_lock_has_a_version_and_digests(lock: str):
    for entry in re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip()):
        assert re.match(r"[a-z0-9._-]+==\S+ ", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_nothing_but_what_the_image_runs_is_in_the_lock():
    direct = {canonicalize_name(one.name) for one in wanted("requirements.lock")}
    reached, queue = set(direct), list(direct)
    while queue:
        for need in needs(queue.pop()):
            name = canonicalize_name(need.name)
            if name not in reached:
                reached.add(name)
                queue.append(name)
    versions = locked("requirements.lock")
    if any(Version(importlib.metadata.version(name)) != versions.get(name) for name in reached):
        pytest.skip("other versions are installed here than the lock has")
    elsewhere = {"colorama"}  # for Windows, by a marker

    assert versions.keys() - elsewhere == reached
