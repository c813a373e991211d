"""The documentation says what the program does: commands, reasons, exit codes, links, the map of rooms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from agent.cli import app
from agent.core.entries import Reason
from agent.errors import JetsyncError

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "charts").rglob("*.md")])

LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#|mailto:)([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"`jetsync ([a-z]+(?: [a-z]+)?)")


def commands() -> Iterator[tuple[str, Any]]:
    """("sync", ...), ("bucket list", ...): every command of the command line."""
    root = typer.main.get_command(app)
    for name, command in getattr(root, "commands").items():  # noqa: B009 - typer's group isn't typed as click's
        children = getattr(command, "commands", None)
        if children:
            yield from ((f"{name} {child}", below) for child, below in children.items())
        else:
            yield name, command


def text(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path):
    broken = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]

    assert broken == []


def test_every_command_is_in_the_table_of_commands():
    table = text("docs/operations.md").partition("## Exit codes")[0]
    missing = [name for name, _ in commands() if f"`jetsync {name}" not in table]

    assert missing == []


def test_every_option_in_the_table_of_commands_exists_and_the_other_way_round():
    known = dict(commands())
    for line in text("docs/operations.md").splitlines():
        if not line.startswith("| `jetsync "):
            continue
        match = COMMAND.search(line)
        assert match is not None
        command = known[match[1].strip()]
        real = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert set(re.findall(r"--[a-z-]+", line.split("|")[1])) == real - {"--help", "--config"}, match[1]


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md", "docs/kubernetes.md", "docs/edge-to-core.md"])
def test_every_command_that_a_page_tells_to_run_exists(page: str):
    known = {name for name, _ in commands()}
    groups = {name.split()[0] for name in known if " " in name}
    for words in COMMAND.findall(text(page)):
        first = words.split()[0]
        assert first in known or words in known, f"{page}: jetsync {words}"
        assert first not in groups or words in known, f"{page}: jetsync {words}"


def test_every_reason_has_a_remedy_in_the_operations_page():
    page = text("docs/operations.md")

    assert [reason.value for reason in Reason if not reason.skipped and f"`{reason.value}`" not in page] == []


def test_every_exit_code_of_an_error_is_in_the_table():
    def codes(error: type[JetsyncError]) -> set[int]:
        return {error.exit_code}.union(*(codes(below) for below in error.__subclasses__()))

    table = text("docs/operations.md").partition("## Exit codes")[2].partition("## Running")[0]
    told = {
        int(number)
        for line in table.splitlines()
        for number in re.findall(r"\b\d+\b", line.split("|")[1] if "|" in line else "")
    }

    assert codes(JetsyncError) <= told


def test_every_room_is_on_the_map():
    rooms = {
        path.stem for path in (ROOT / "agent").iterdir() if not path.name.startswith("_") and path.name != "py.typed"
    }
    agents_md = text("AGENTS.md")

    assert [room for room in sorted(rooms) if f"`agent/{room}" not in agents_md] == []


def test_the_promises_name_tests_that_exist():
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", text("docs/INVARIANTS.md"))
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()]

    assert named
    assert missing == []


def test_agents_md_stays_short():
    assert len(text("AGENTS.md").splitlines()) < 80


def test_the_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z]+)|^make ([a-z]+)", page.read_text(), re.MULTILINE):
            name = target[0] or target[1]
            assert name in targets, f"{page.name}: make {name}"
