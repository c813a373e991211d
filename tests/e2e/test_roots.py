"""The mapping's directory itself: missing, coming later, removed, replaced, behind a link."""

from __future__ import annotations

import os
import shutil
import time

from tests.support.agent import Agent, eventually, files, read_tree, write_tree
from tests.support.stock import Stock

TREE = {f"f{number}": b"%d" % number for number in range(12)}


def test_a_running_agent_begins_when_the_directory_appears(agent: Agent, stock: Stock, bucket: str):
    agent.directory().rmdir()
    with agent.run(wait=False) as running:
        eventually(lambda: running.events("mapping_failed"))
        write_tree(agent.directory(), TREE)

        eventually(lambda: stock.contents(bucket) == TREE)


def test_sync_tries_at_once_when_the_directory_has_appeared(agent: Agent, stock: Stock, bucket: str):
    agent.directory().rmdir()
    with agent.run(wait=False) as running:
        eventually(lambda: running.events("mapping_failed"))
        assert agent.sync(exit=1)["state"] == "failed"
        write_tree(agent.directory(), TREE)

        agent.sync()
        assert stock.contents(bucket) == TREE


def test_nothing_is_deleted_when_the_directory_is_removed_and_made_anew_under_a_running_agent(
    agent: Agent, stock: Stock, bucket: str
):
    write_tree(agent.directory(), TREE)
    with agent.run() as running:
        agent.directory().rename(agent.home / "away")
        agent.directory().mkdir()
        eventually(lambda: running.events("halted"))
        assert agent.sync(exit=3)["halt"]["reason"] == "root_emptied"
        assert stock.contents(bucket) == TREE
        assert read_tree(agent.directory()) == {}

        agent.directory().rmdir()  # the old one comes back: it goes on by itself
        (agent.home / "away").rename(agent.directory())
        write_tree(agent.directory(), {"new": b"new"})
        eventually(lambda: stock.contents(bucket) == {**TREE, "new": b"new"})


def test_nothing_is_deleted_when_the_link_to_the_directory_leads_elsewhere(agent: Agent, stock: Stock, bucket: str):
    real, other = agent.home / "real", agent.home / "other"
    agent.directory().rename(real)
    other.mkdir()
    agent.directory().symlink_to(real)
    write_tree(real, TREE)
    with agent.run() as running:
        temporary = agent.home / "link"
        temporary.symlink_to(other)
        os.replace(temporary, agent.directory())
        eventually(lambda: running.events("halted"))
        time.sleep(1.0)

        assert stock.contents(bucket) == TREE
        assert read_tree(real) == files(TREE)


def test_nothing_is_deleted_when_the_directory_is_removed(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), TREE)
    with agent.run() as running:
        shutil.rmtree(agent.directory())
        eventually(lambda: running.events("halted"))
        time.sleep(1.0)

        assert stock.contents(bucket).keys() == TREE.keys()
