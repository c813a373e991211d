"""`trash list` and `trash restore`: what sync has overwritten or deleted is found and brought back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually, files, read_tree, validate, write_tree
from tests.support.stock import Stock

pytestmark = pytest.mark.timeout(180)


def listed(agent: Agent, *names: str) -> list[dict[str, Any]]:
    page = agent.cli("trash", "list", *names, "--json", exit=0).json
    validate(page, "trash")
    assert page["errors"] == []
    versions: list[dict[str, Any]] = page["versions"]
    return versions


@pytest.fixture
def overwritten(agent: Agent, stock: Stock, bucket: str) -> Agent:
    """dir/a.txt was overwritten twice from the bucket, and `gone` deleted there. No agent runs."""
    write_tree(agent.directory(), {"dir/a.txt": b"1", "gone": b"was here"})
    agent.sync()
    stock.put(bucket, "dir/a.txt", b"22")
    stock.delete(bucket, "gone")
    agent.sync()
    stock.put(bucket, "dir/a.txt", b"333")
    agent.sync()
    assert read_tree(agent.directory()) == files({"dir/a.txt": b"333"})
    return agent


def away(agent: Agent) -> None:
    """There is no server any more."""
    agent.config["nats"] = {"servers": ["nats://127.0.0.1:1"]}
    agent.write()


def test_versions_are_listed_newest_first_without_a_server(overwritten: Agent):
    away(overwritten)

    versions = listed(overwritten, "files")

    assert versions[0]["path"] == "dir/a.txt" and versions[0]["size"] == 2
    assert sorted((version["path"], version["size"]) for version in versions) == [
        ("dir/a.txt", 1),
        ("dir/a.txt", 2),
        ("gone", 8),
    ]
    assert {version["name"] for version in versions} == {"files"}
    shown = overwritten.cli("trash", "list", exit=0).out
    assert "files: gone" in shown and versions[0]["batch"] in shown


def test_the_newest_version_is_restored_and_sent_like_any_file(overwritten: Agent, stock: Stock, bucket: str):
    (overwritten.directory() / "dir" / "a.txt").unlink()

    result = overwritten.cli("trash", "restore", "files", "dir/a.txt", "--json", exit=0).json

    assert (result["path"], (overwritten.directory() / "dir" / "a.txt").read_bytes()) == ("dir/a.txt", b"22")
    assert [version["size"] for version in listed(overwritten) if version["path"] == "dir/a.txt"] == [1]
    overwritten.sync()
    assert stock.contents(bucket) == {"dir/a.txt": b"22"}


def test_an_older_version_is_restored_by_its_batch_and_an_absolute_path(overwritten: Agent):
    path = overwritten.directory() / "dir" / "a.txt"
    path.unlink()
    oldest = listed(overwritten)[-1]["batch"]
    assert [version["size"] for version in listed(overwritten) if version["batch"] == oldest and version["size"] == 1]

    overwritten.cli("trash", "restore", "files", str(path), "--batch", oldest, exit=0)

    assert path.read_bytes() == b"1"


def test_nothing_is_restored_over_what_is_there(overwritten: Agent):
    said = overwritten.cli("trash", "restore", "files", "dir/a.txt", exit=1).err

    assert "something is there already" in said and "move it away first" in said
    assert read_tree(overwritten.directory()) == files({"dir/a.txt": b"333"})
    assert len(listed(overwritten)) == 3


def test_a_file_or_a_link_in_the_place_of_its_directory_is_told(overwritten: Agent, tmp_path: Path):
    place = overwritten.directory() / "dir"
    shutil.rmtree(place)
    for make in (place.touch, lambda: place.symlink_to(tmp_path)):
        make()
        said = overwritten.cli("trash", "restore", "files", "dir/a.txt", exit=1).err
        assert "a file is where a directory is needed" in said
        place.unlink()
    assert not (tmp_path / "a.txt").exists()
    overwritten.cli("trash", "restore", "files", "dir/a.txt", exit=0)


def test_what_is_not_in_the_trash_and_bad_paths_are_told(overwritten: Agent):
    assert "trash list files" in overwritten.cli("trash", "restore", "files", "never", exit=1).err
    wrong = overwritten.cli("trash", "restore", "files", "gone", "--batch", "20200101T000000Z-0", exit=1).err
    assert listed(overwritten)[-1]["batch"] in wrong
    for path in ("../gone", "/etc/gone", ".jetsync/../../gone"):
        assert "isn't" in overwritten.cli("trash", "restore", "files", path, exit=2).err
    assert "known are: files" in overwritten.cli("trash", "restore", "nope", "gone", exit=2).err


def test_a_running_agent_lists_and_restores_and_sends_it(overwritten: Agent, stock: Stock, bucket: str):
    with overwritten.run():
        assert len(listed(overwritten)) == 3
        overwritten.cli("trash", "restore", "files", "gone", exit=0)
        eventually(lambda: stock.contents(bucket) == {"dir/a.txt": b"333", "gone": b"was here"})
        assert len(listed(overwritten)) == 2


def test_an_empty_trash_and_a_missing_directory(make_agent: MakeAgent, bucket: str, tmp_path: Path):
    agent = make_agent()
    assert listed(agent) == []
    assert agent.cli("trash", "list", exit=0).out == "the trash is empty\n"
    assert not (agent.directory() / ".jetsync").exists()

    agent.directory().rmdir()
    result = agent.cli("trash", "list", "--json", exit=1)

    assert json.loads(result.out)["errors"][0]["name"] == "files"
    assert str(agent.directory()) in result.err
