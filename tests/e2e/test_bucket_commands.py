"""`bucket list|show|apply`, by the command itself and by the running agent."""

from __future__ import annotations

from pathlib import Path

from tests.support.agent import Agent, mapping


def embedded(home: Path, bucket: str = "box") -> Agent:
    return Agent(home, {"embedded": {"store_dir": "./nats", "port": 0}}, [mapping(bucket)])


def test_declared_buckets_are_made_and_brought_to_their_shape(tmp_path: Path):
    agent = embedded(tmp_path / "a")

    assert agent.cli("bucket", "apply", "--json", exit=0).json["buckets"] == [
        {"name": "box", "changes": ["created"], "warnings": []}
    ]
    agent.config["buckets"]["box"] = {"description": "for tests"}
    agent.write()
    changed = agent.cli("bucket", "apply", "--json", exit=0).json["buckets"]
    assert len(changed[0]["changes"]) == 1
    assert agent.cli("bucket", "show", "box", "--json", exit=0).json["description"] == "for tests"
    assert "box" in agent.cli("bucket", "list", exit=0).out


def test_with_an_agent_running_on_the_embedded_server_it_answers(tmp_path: Path):
    agent = embedded(tmp_path / "a")
    with agent.run():
        listed = agent.cli("bucket", "list", "--json", exit=0).json

        assert [bucket["name"] for bucket in listed["buckets"]] == ["box"]
        assert agent.cli("bucket", "show", "box", "--json", exit=0).json["storage"] == "file"
        assert agent.cli("bucket", "apply", "--json", exit=0).json["buckets"][0]["changes"] == []
        assert "nothing" in agent.cli("bucket", "show", "nothing", exit=1).err


def test_a_bucket_that_isnt_declared_cant_be_applied(tmp_path: Path):
    result = embedded(tmp_path / "a").cli("bucket", "apply", "other", exit=2)

    assert "'other'" in result.err
