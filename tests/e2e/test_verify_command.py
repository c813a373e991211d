"""`verify` from the command line: what it tells, its exit codes, and its progress bar on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading

import pytest

from tests.e2e.test_rehash import damage
from tests.support.agent import Agent, environment, validate, write_tree
from tests.support.stock import Stock

pytestmark = pytest.mark.timeout(180)


def damaged(agent: Agent, stock: Stock, bucket: str) -> None:
    """A file has other bytes than the agent and the bucket know, behind an unchanged stat."""
    write_tree(agent.directory(), {"whole": b"whole", "damaged": b"as it was"})
    agent.sync()
    assert agent.cli("verify", exit=0).out.startswith("files: ok: 2 files and 2 objects read")
    damage(agent, "damaged", b"as it is ")


def test_damage_is_told_and_repaired_when_that_is_asked_for(agent: Agent, stock: Stock, bucket: str):
    damaged(agent, stock, bucket)

    told = agent.cli("verify", exit=3).out
    assert "files: damaged" in told and "damaged" in told.splitlines()[2]
    page = agent.cli("verify", "--repair", "--json", exit=0).json

    validate(page, "verify")
    (report,) = page["mappings"]
    assert (report["state"], report["repaired"]) == ("repaired", ["damaged"])
    assert (agent.directory() / "damaged").read_bytes() == b"as it was"
    assert stock.contents(bucket) == {"whole": b"whole", "damaged": b"as it was"}


def test_a_running_agent_verifies_and_repairs(agent: Agent, stock: Stock, bucket: str):
    damaged(agent, stock, bucket)

    with agent.run():
        assert agent.cli("verify", "files", "--json", exit=3).json["mappings"][0]["state"] == "damaged"
        assert agent.cli("verify", "--repair", exit=0).out.startswith("files: repaired")

    assert (agent.directory() / "damaged").read_bytes() == b"as it was"


def test_without_a_server_nothing_can_be_verified(agent: Agent):
    agent.config["nats"] = {"servers": ["nats://127.0.0.1:1"]}
    agent.write()

    result = agent.cli("verify", "--timeout", "1s", "--json", exit=5)

    assert result.json["mappings"][0]["state"] == "failed"
    assert "127.0.0.1:1" in result.json["mappings"][0]["errors"][0]
    assert "known are: files" in agent.cli("verify", "nope", exit=2).err


def test_a_terminal_gets_a_progress_bar_and_stdout_stays_clean(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"large": bytes(8 << 20)})
    agent.sync()
    master, slave = pty.openpty()
    said = bytearray()

    def read() -> None:
        try:
            while block := os.read(master, 1 << 16):
                said.extend(block)
        except OSError:
            pass  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "agent", "-c", str(agent.config_file), "verify", "--json"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=slave, env=environment({"TERM": "xterm"}), timeout=120, check=False
    )
    os.close(slave)
    reader.join()
    os.close(master)

    assert done.returncode == 0
    assert done.stdout.startswith(b'{"version"')
    assert b"files" in said and "━".encode() in said
