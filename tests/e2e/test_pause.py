"""`pause`, `resume` and `approve`: a person says whether a mapping may go on."""

from __future__ import annotations

import json

import pytest

from tests.support.agent import Agent, eventually, read_tree, write_tree
from tests.support.stock import Stock

pytestmark = pytest.mark.timeout(300)


def state_of(agent: Agent) -> str:
    state: str = agent.cli("status", "--json", exit=0).json["mappings"][0]["state"]
    return state


def test_a_paused_mapping_starts_nothing_until_it_is_resumed(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"before": b"1"})
    with agent.run(wait=False) as running:
        running.wait_ready(timeout=90)
        assert agent.cli("pause", "files", exit=0).out == "files: paused\n"
        write_tree(agent.directory(), {"while": b"2"})
        stock.put(bucket, "there", b"3")
        eventually(lambda: state_of(agent) == "paused", timeout=90)
        gauge = 'jetsync_mapping_state{mapping="files",state="paused"}'
        eventually(lambda: running.metrics()[gauge] == 1)
        eventually(lambda: agent.cli("status", "--json").json["mappings"][0]["pending"]["objects"] == 2, timeout=90)
        assert stock.names(bucket) == {"before", "there"}
        assert set(read_tree(agent.directory())) == {"before", "while"}

        result = agent.sync(exit=3)
        assert result["state"] == "partial" and any("paused" in error for error in result["errors"])
        assert agent.cli("pause", "files", exit=0).out == "files: was paused already\n"

        assert agent.cli("resume", "files", exit=0).out == "files: goes on\n"
        eventually(lambda: stock.names(bucket) == {"before", "there", "while"})
        eventually(lambda: set(read_tree(agent.directory())) == {"before", "there", "while"})
        eventually(lambda: state_of(agent) == "idle", timeout=90)


def test_a_pause_outlives_the_agent_and_needs_no_server(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"before": b"1"})
    agent.sync()
    nats = agent.config["nats"]
    agent.config["nats"] = {"servers": ["nats://127.0.0.1:1"]}
    agent.write()
    assert json.loads(agent.cli("pause", "files", "--json", exit=0).out) == {
        "version": 1,
        "name": "files",
        "paused": True,
        "changed": True,
    }
    agent.config["nats"] = nats
    agent.write()
    write_tree(agent.directory(), {"while": b"2"})

    assert any("paused" in error for error in agent.sync(exit=3)["errors"])
    with agent.run(wait=False) as running:
        eventually(lambda: running.get("/readyz")[0] == 503 and "paused" in running.get("/readyz")[1])
        assert stock.names(bucket) == {"before"}
    agent.cli("resume", "files", exit=0)
    assert agent.cli("resume", "files", exit=0).out == "files: was not paused\n"

    assert agent.sync()["uploads"] == 1


def test_a_mapping_that_was_never_run_can_be_paused(agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {"a": b"1"})

    agent.cli("pause", "files", exit=0)

    agent.sync(exit=3)
    assert stock.names(bucket) == set()


def test_approving_what_is_not_halted_says_so(agent: Agent):
    agent.sync()

    said = agent.cli("approve", "files", exit=0)

    assert said.out == "files: is not halted; there is nothing to approve\n"
    assert "known are: files" in agent.cli("approve", "nope", exit=2).err


@pytest.mark.parametrize("how", ["alone", "by the agent"])
def test_an_approved_halt_is_told_and_carried_out(how: str, agent: Agent, stock: Stock, bucket: str):
    write_tree(agent.directory(), {f"{number}": b"x" for number in range(20)})
    agent.sync()
    for number in range(15):
        (agent.directory() / f"{number}").unlink()
    assert agent.sync(exit=3)["halt"]["reason"] == "max_delete"
    assert len(stock.names(bucket)) == 20

    if how == "alone":
        said = agent.cli("approve", "files", "--json", exit=0).json
        assert agent.sync()["deletes_remote"] == 15
    else:
        with agent.run(wait=False) as running:
            eventually(lambda: running.get("/livez")[0] == 200, timeout=90)
            eventually(lambda: state_of(agent) == "halted", timeout=90)
            said = agent.cli("approve", "files", "--json", exit=0).json
            eventually(lambda: len(stock.names(bucket)) == 5)

    assert said["approved"]["reason"] == "max_delete" and "15" in said["approved"]["detail"]
    assert len(stock.names(bucket)) == 5
