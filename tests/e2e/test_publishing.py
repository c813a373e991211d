"""`snapshot publish` and what can be asked of a repository, by the command alone and through a running agent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest

from tests.support.agent import Agent, eventually, write_tree
from tests.support.stock import Stock


@pytest.fixture
def publisher(tmp_path: Path, nats_url: str, bucket_name: str) -> Agent:
    """An agent with one publication, `models`, of ./tree."""
    publication = {"name": "models", "directory": "./tree", "repository": bucket_name, "channel": "stable"}
    agent = Agent(tmp_path / "publisher", nats_url, [], buckets={bucket_name: {}}, publications=[publication])
    write_tree(agent.home / "tree", {"a": b"one", "deep/b": b"two"})
    return agent


@pytest.fixture(params=["alone", "agent"])
def asked(request: pytest.FixtureRequest, publisher: Agent) -> Iterator[Agent]:
    """The same, asked while no agent runs and while one does."""
    if request.param == "alone":
        yield publisher
        return
    with publisher.run() as running:
        yield publisher
        assert running.stop() == 143


def publish(agent: Agent) -> dict[str, Any]:
    return agent.cli("snapshot", "publish", "models", "--json", exit=0).json


def test_a_tree_is_published_compared_moved_and_pruned(asked: Agent, bucket_name: str, stock: Stock):
    first = publish(asked)
    assert (first["state"], first["uploads"], first["links"], first["previous"]) == ("converged", 2, 2, None)
    assert publish(asked)["id"] == first["id"]
    write_tree(asked.home / "tree", {"a": b"changed", "new": b"two"})
    second = publish(asked)
    assert (second["uploads"], second["previous"]) == (1, first["id"])

    listed = asked.cli("snapshot", "list", bucket_name, "--json", exit=0).json
    assert [(one["id"], one["sealed"], one["channels"]) for one in listed["snapshots"]] == [
        (first["id"], True, []),
        (second["id"], True, ["stable"]),
    ]
    assert listed["channels"][0]["snapshot"] == second["id"] and listed["channels"][0]["counter"] > 1
    shown = asked.cli("snapshot", "show", bucket_name, "stable", "--json", exit=0).json
    assert [entry["path"] for entry in shown["entries"]] == ["a", "deep/b", "new"] and shown["files"] == 3
    compared = asked.cli("snapshot", "diff", bucket_name, first["id"], "stable", "--json", exit=0).json
    assert [(one["path"], one["change"]) for one in compared["changes"]] == [("a", "changed"), ("new", "added")]
    assert stock.get(f"{bucket_name}_{first['id']}", "a") == b"one"

    back = asked.cli("snapshot", "rollback", bucket_name, "stable", "--json", exit=0).json
    assert (back["snapshot"], back["previous"]) == (first["id"], second["id"])
    assert back["counter"] > listed["channels"][0]["counter"]
    assert publish(asked)["id"] == second["id"]  # nothing new: the rollback stays
    asked.cli("snapshot", "promote", bucket_name, second["id"], "beta", exit=0)
    checked = asked.cli("snapshot", "verify", bucket_name, "beta", "--json", exit=0).json
    assert (checked["problems"], checked["files"]) == ([], 3)

    planned = asked.cli("snapshot", "prune", bucket_name, "--keep", "1", "--dry-run", "--json", exit=0).json
    assert planned["snapshots"] == []  # both are on a channel
    asked.cli("snapshot", "promote", bucket_name, second["id"], "stable", exit=0)
    pruned = asked.cli("snapshot", "prune", bucket_name, "--keep", "1", "--grace", "0s", "--json", exit=0).json
    assert (pruned["snapshots"], pruned["contents"], pruned["kept"]) == ([first["id"]], 1, 1)


def test_what_people_read_names_the_snapshot_and_what_was_sent(publisher: Agent, bucket_name: str):
    identity = publish(publisher)["id"]
    write_tree(publisher.home / "tree", {"a": b"three"})

    assert "1 contents sent (5 B)" in publisher.cli("snapshot", "publish", "models", exit=0).out
    assert "as before" in publisher.cli("snapshot", "publish", "models", exit=0).out
    assert identity in publisher.cli("snapshot", "list", bucket_name, exit=0).out
    assert "deep/b" in publisher.cli("snapshot", "show", bucket_name, identity, exit=0).out
    assert "changed  a" in publisher.cli("snapshot", "diff", bucket_name, identity, "stable", exit=0).out
    assert "whole" in publisher.cli("snapshot", "verify", bucket_name, "stable", exit=0).out
    assert identity in publisher.cli("snapshot", "rollback", bucket_name, "stable", exit=0).out
    assert "would be removed" in publisher.cli("snapshot", "prune", bucket_name, "--dry-run", exit=0).out


def test_damage_is_told_and_the_next_publish_heals_it(publisher: Agent, bucket_name: str, stock: Stock):
    identity = publish(publisher)["id"]
    shown = publisher.cli("snapshot", "show", bucket_name, identity, "--json", exit=0).json
    stock.put(bucket_name, f"sha256/{shown['entries'][0]['digest']}", b"eno")

    told = publisher.cli("snapshot", "verify", bucket_name, identity, "--json", exit=3).json
    assert [problem["path"] for problem in told["problems"]] == ["a"]
    assert publish(publisher)["uploads"] == 1
    publisher.cli("snapshot", "verify", bucket_name, identity, exit=0)


@pytest.mark.parametrize(
    ("arguments", "exit", "words"),
    [
        (("publish", "none"), 2, "known are: models"),
        (("install", "none"), 2, "the configuration has no subscriptions"),
        (("show", "BUCKET", "nowhere"), 2, "neither a snapshot nor a channel"),
        (("show", "BUCKET", "20260101T000000Z-0123456789ab"), 1, "there is no snapshot"),
        (("list", "no-such-bucket"), 1, "does not exist"),
        (("promote", "BUCKET", "20260101T000000Z-0123456789ab", "not a channel"), 2, "can't be a channel"),
        (("promote", "BUCKET", "20260101T000000Z-0123456789ab", "stable"), 1, "there is no snapshot"),
        (("rollback", "BUCKET", "stable"), 1, "there is no channel"),
        (("rollback", "BUCKET", "stable", "--sign-with", "/no/such/key"), 1, "can't be read"),
        (("prune", "BUCKET", "--keep", "0"), 2, "--keep"),
        (("prune", "BUCKET", "--grace", "soon"), 2, "--grace"),
    ],
)
def test_what_is_wrong_is_told_with_a_remedy(
    publisher: Agent, bucket: str, arguments: tuple[str, ...], exit: int, words: str
):
    result = publisher.cli("snapshot", *(bucket if word == "BUCKET" else word for word in arguments), exit=exit)
    assert words in result.err


def test_a_path_that_cannot_be_published_fails_it_whole(publisher: Agent, bucket_name: str):
    (publisher.home / "tree/out").symlink_to("/etc/passwd")

    result = publisher.cli("snapshot", "publish", "models", "--json", exit=1)

    assert "link_outside" in result.json["errors"][0] and ".jetsyncignore" in result.json["errors"][0]
    assert publisher.cli("snapshot", "list", bucket_name, "--json", exit=0).json["snapshots"] == []


def test_sync_publishes_what_is_published_on_change(publisher: Agent):
    assert publisher.cli("sync", "--json", exit=0).json["snapshots"] == []  # `trigger: manual`
    publisher.config["publications"][0]["trigger"] = "on-change"
    publisher.write()

    (first,) = publisher.cli("sync", "--json", exit=0).json["snapshots"]
    (again,) = publisher.cli("sync", "models", "--json", exit=0).json["snapshots"]

    assert (first["kind"], first["name"], first["state"], first["uploads"]) == ("publication", "models", "converged", 2)
    assert (again["id"], again["uploads"]) == (first["id"], 0)
    assert "nothing in the configuration is named" in publisher.cli("sync", "none", exit=2).err


def test_a_running_agent_publishes_changes_and_says_so_in_its_status(publisher: Agent, bucket_name: str, stock: Stock):
    publisher.config["publications"][0]["trigger"] = "on-change"
    publisher.write()
    with publisher.run() as running:

        def current() -> str:
            (snapshot,) = publisher.cli("status", "--json", exit=0).json["snapshots"]
            assert snapshot["state"] == "idle" and snapshot["snapshot"]
            return str(snapshot["snapshot"])

        first = eventually(current)
        write_tree(publisher.home / "tree", {"a": b"changed"})
        eventually(lambda: current() != first)
        assert stock.get(f"{bucket_name}_{current()}", "a") == b"changed"
        assert running.stop() == 143


def test_a_publication_whose_server_is_away_waits_and_gives_up(publisher: Agent, tmp_path: Path):
    publisher.config["nats"] = {"servers": ["nats://127.0.0.1:9"]}
    publisher.write()
    result = publisher.cli("snapshot", "publish", "models", "--timeout", "1s", "--json", exit=5)
    assert result.json["state"] == "failed" and result.json["errors"]


def test_a_signed_publication_keeps_signing(publisher: Agent, bucket_name: str):
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (publisher.home / "key.nk").write_bytes(seed)
    (publisher.home / "key.nk").chmod(0o600)
    publisher.config["publications"][0]["sign_with"] = "key.nk"
    publisher.write()
    publish(publisher)
    write_tree(publisher.home / "tree", {"a": b"2"})
    publish(publisher)
    publisher.cli("snapshot", "rollback", bucket_name, "stable", exit=0)

    channel = publisher.cli("snapshot", "list", bucket_name, "--json", exit=0).json["channels"][0]
    assert channel["signer"] == nkeys.from_seed(bytearray(seed)).public_key.decode() and channel["counter"] > 2


def test_buckets_are_sealed_linked_and_deleted(agent: Agent, bucket: str, stock: Stock):
    stock.put(bucket, "target", b"bytes")
    agent.cli("bucket", "link", bucket, "alias", f"{bucket}/target", exit=0)
    agent.cli("bucket", "link", bucket, "whole", bucket, exit=0)
    assert stock.get(bucket, "alias") == b"bytes"
    assert "is a link itself" in agent.cli("bucket", "link", bucket, "target", f"{bucket}/alias", exit=1).err
    assert "there is an object" in agent.cli("bucket", "link", bucket, "target", bucket, exit=1).err
    assert "no object" in agent.cli("bucket", "link", bucket, "x", f"{bucket}/none", exit=1).err

    assert agent.cli("bucket", "seal", bucket, "--json", exit=0).json["sealed"]
    assert "sealed" in agent.cli("bucket", "link", bucket, "late", bucket, exit=1).err
    assert "--yes" in agent.cli("bucket", "delete", bucket, exit=2).err
    agent.cli("bucket", "delete", bucket, "--yes", exit=0)
    agent.cli("bucket", "show", bucket, exit=1)
