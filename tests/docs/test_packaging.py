"""The package declares what it needs, and carries what it needs."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def distribution(requirement: str) -> str:
    """The normalised name at the start of a requirement."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_import_of_the_package_is_a_declared_dependency():
    """A module that is there only because a development tool needs it would be missing at the user's."""
    project = pyproject()["project"]
    declared = {distribution(text) for text in project["dependencies"]}
    declared |= {distribution(text) for extra in project["optional-dependencies"].values() for text in extra}
    declared |= {"pydantic-core"} if "pydantic" in declared else set()  # documented as one, released together
    providers = importlib.metadata.packages_distributions()
    missing = set()
    for path in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - {"agent"} - sys.stdlib_module_names:
                if not {re.sub(r"[-_.]+", "-", found).lower() for found in providers.get(name, [])} & declared:
                    missing.add(f"{path.relative_to(ROOT)}: {name}")

    assert sorted(missing) == []


def test_the_changelog_has_a_place_for_what_is_unreleased():
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()
