"""Brakes: what halts a mapping, what it says, what a person can do, and what ends a halt (DESIGN section 6)."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually, files, mapping, read_tree, write_tree
from tests.support.server import NatsServer
from tests.support.stock import Stock, meta_subject

TREE = {f"f{number:02}": b"content %d" % number for number in range(20)}


def halted(agent: Agent) -> str:
    """Sync; the reason of the halt, with which nothing was done."""
    result = agent.sync(exit=3)
    assert result["state"] == "halted"
    assert "jetsync approve files" in result["halt"]["remedy"]
    assert not [key for key, value in result.items() if key.startswith(("uploads", "downloads", "deletes")) and value]
    return str(result["halt"]["reason"])


def approve(agent: Agent) -> str:
    return agent.cli("approve", "files").out


def empty(directory: Path) -> None:
    """As `rm -rf directory/*` does: what begins with a dot stays."""
    for path in directory.iterdir():
        if not path.name.startswith("."):
            path.unlink()


@pytest.fixture
def synced(agent: Agent, stock: Stock, bucket: str) -> Agent:
    write_tree(agent.directory(), TREE)
    agent.sync()
    assert stock.contents(bucket) == TREE
    return agent


# -- the root ----------------------------------------------------------------------------------------------------------


def test_an_emptied_root_halts_and_approving_it_deletes(synced: Agent, stock: Stock, bucket: str):
    empty(synced.directory())
    assert halted(synced) == "root_emptied"
    assert halted(synced) == "root_emptied"
    assert stock.contents(bucket) == TREE

    assert "root_emptied" in approve(synced)
    assert synced.sync()["deletes_remote"] == len(TREE)
    assert stock.names(bucket) == set()


def test_an_emptied_root_goes_on_by_itself_when_its_content_is_back(synced: Agent, stock: Stock, bucket: str):
    empty(synced.directory())
    assert halted(synced) == "root_emptied"
    write_tree(synced.directory(), TREE)
    result = synced.sync()
    assert result["halt"] is None
    assert result["uploads"] == 0
    assert stock.contents(bucket) == TREE


def test_a_root_that_vanished_halts_and_goes_on_when_it_is_back(synced: Agent, stock: Stock, bucket: str):
    away = synced.home / "away"
    synced.directory().rename(away)
    assert halted(synced) == "root_vanished"
    away.rename(synced.directory())
    assert synced.sync()["halt"] is None
    assert stock.contents(bucket) == TREE


def test_a_root_in_whose_place_an_empty_directory_is_halts(synced: Agent, stock: Stock, bucket: str):
    synced.directory().rename(synced.home / "away")
    synced.directory().mkdir()
    assert halted(synced) == "root_emptied"
    assert stock.contents(bucket) == TREE
    assert read_tree(synced.directory()) == {}


def test_another_directory_in_the_roots_place_halts_and_approving_it_is_a_first_contact(
    synced: Agent, stock: Stock, bucket: str
):
    synced.directory().rename(synced.home / "away")
    synced.directory().mkdir()
    write_tree(synced.directory(), {"other": b"other"})
    assert halted(synced) == "root_replaced"
    assert stock.contents(bucket) == TREE
    assert read_tree(synced.directory()) == files({"other": b"other"})

    approve(synced)
    synced.sync()
    assert stock.contents(bucket) == {**TREE, "other": b"other"}
    assert read_tree(synced.directory()) == files({**TREE, "other": b"other"})


def test_another_root_with_an_id_of_its_own_halts(make_agent: MakeAgent, synced: Agent, stock: Stock, bucket: str):
    other = make_agent("other", bucket=f"{bucket}-2", buckets={f"{bucket}-2": {}})
    write_tree(other.directory(), {"other": b"other"})
    other.sync()
    synced.directory().rename(synced.home / "away")
    shutil.copytree(other.directory(), synced.directory())
    assert halted(synced) == "root_replaced"
    assert stock.contents(bucket) == TREE


def test_a_lost_state_adopts_the_root_and_deletes_nothing(synced: Agent, stock: Stock, bucket: str):
    root = json.loads((synced.directory() / ".jetsync/root.json").read_text())
    shutil.rmtree(synced.home / "state")
    (synced.directory() / "f00").unlink()
    synced.sync()
    assert stock.contents(bucket) == TREE
    again = json.loads((synced.directory() / ".jetsync/root.json").read_text())
    assert again["id"] == root["id"]
    assert again["generation"] > root["generation"]


def test_a_restored_backup_of_the_root_drops_what_was_agreed_on_and_does_not_halt(
    synced: Agent, stock: Stock, bucket: str
):
    backup = synced.home / "backup"
    shutil.copytree(synced.directory(), backup, symlinks=True)
    write_tree(synced.directory(), {"new": b"new"})
    synced.sync()
    shutil.rmtree(synced.directory())
    backup.rename(synced.directory())  # without "new", which nobody has deleted
    result = synced.sync()
    assert result["halt"] is None
    assert result["deletes_remote"] == 0
    assert stock.contents(bucket) == {**TREE, "new": b"new"}
    assert read_tree(synced.directory()) == files({**TREE, "new": b"new"})


def test_a_restored_backup_of_the_state_deletes_nothing(synced: Agent, stock: Stock, bucket: str):
    backup = synced.home / "backup"
    shutil.copytree(synced.home / "state", backup)
    (synced.directory() / "f00").unlink()
    synced.sync()
    write_tree(synced.directory(), {"f00": b"once more"})
    synced.sync()
    shutil.rmtree(synced.home / "state")
    backup.rename(synced.home / "state")
    (synced.directory() / "f01").unlink()  # the older state can't tell this from one that never came
    result = synced.sync()
    assert result["deletes_remote"] == 0
    assert stock.contents(bucket) == {**TREE, "f00": b"once more"}


def test_a_second_agent_on_the_same_root_is_told(make_agent: MakeAgent, synced: Agent, bucket: str):
    second = make_agent("second", directory=str(synced.directory()))
    with synced.run():
        result = second.sync(exit=1)
        assert "another agent" in str(result["errors"])
    second.sync()


def test_a_directory_that_was_never_there_is_an_error_and_no_halt(agent: Agent, bucket: str):
    agent.directory().rmdir()
    result = agent.sync(exit=1)
    assert result["halt"] is None
    assert "doesn't exist" in str(result["errors"])


# -- the bucket --------------------------------------------------------------------------------------------------------


MODES = ["two-way", "push-mirror", "pull-mirror"]


@pytest.fixture
def in_mode(make_agent: MakeAgent, stock: Stock, bucket: str, mode: str) -> Agent:
    """An agent that has converged in this mode, on a bucket that it may create."""
    agent = make_agent("a", mode=mode, buckets={bucket: {}})
    if mode.startswith("pull"):
        for name, content in TREE.items():
            stock.put(bucket, name, content)
    else:
        write_tree(agent.directory(), TREE)
    agent.sync()
    assert read_tree(agent.directory()) == files(TREE)
    return agent


@pytest.mark.parametrize("mode", MODES)
def test_a_purged_bucket_halts(in_mode: Agent, stock: Stock, bucket: str, mode: str):
    stock.api(f"STREAM.PURGE.OBJ_{bucket}")
    assert halted(in_mode) == "bucket_purged"
    assert halted(in_mode) == "bucket_purged"
    assert read_tree(in_mode.directory()) == files(TREE)
    assert stock.names(bucket) == set()


@pytest.mark.parametrize("mode", MODES)
def test_a_bucket_that_is_gone_halts_and_is_not_made_anew(in_mode: Agent, stock: Stock, bucket: str, mode: str):
    stock.api(f"STREAM.DELETE.OBJ_{bucket}")
    assert halted(in_mode) == "bucket_missing"
    assert halted(in_mode) == "bucket_missing"
    assert read_tree(in_mode.directory()) == files(TREE)


@pytest.mark.parametrize("mode", MODES)
def test_a_bucket_that_was_made_anew_halts(in_mode: Agent, stock: Stock, bucket: str, mode: str):
    stock.api(f"STREAM.DELETE.OBJ_{bucket}")
    stock.create(bucket)
    assert halted(in_mode) == "bucket_recreated"
    assert read_tree(in_mode.directory()) == files(TREE)
    assert stock.names(bucket) == set()


def test_approving_a_purged_bucket_sends_everything_again(synced: Agent, stock: Stock, bucket: str):
    stock.api(f"STREAM.PURGE.OBJ_{bucket}")
    assert halted(synced) == "bucket_purged"
    assert "bucket_purged" in approve(synced)
    assert synced.sync()["uploads"] == len(TREE)
    assert stock.contents(bucket) == TREE


def test_approving_a_missing_bucket_makes_a_declared_one_again(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    agent = make_agent("a", buckets={bucket_name: {}})
    write_tree(agent.directory(), TREE)
    agent.sync()
    stock.api(f"STREAM.DELETE.OBJ_{bucket_name}")
    assert halted(agent) == "bucket_missing"
    approve(agent)
    assert agent.sync()["uploads"] == len(TREE)
    assert stock.contents(bucket_name) == TREE


def test_approving_a_bucket_made_anew_is_a_first_contact(synced: Agent, stock: Stock, bucket: str):
    stock.api(f"STREAM.DELETE.OBJ_{bucket}")
    stock.create(bucket)
    stock.put(bucket, "theirs", b"theirs")
    assert halted(synced) == "bucket_recreated"
    approve(synced)
    synced.sync()
    assert stock.contents(bucket) == {**TREE, "theirs": b"theirs"}
    assert read_tree(synced.directory()) == files({**TREE, "theirs": b"theirs"})


def test_a_bucket_that_was_rolled_back_halts_and_approving_it_brings_both_together(tmp_path: Path):
    server = NatsServer(tmp_path / "nats")
    server.start()
    agent = Agent(tmp_path / "a", server.url, [mapping("b")], buckets={"b": {}})
    try:
        write_tree(agent.directory(), TREE)
        agent.sync()
        server.stop()
        shutil.copytree(server.store_dir, tmp_path / "backup")
        server.start()
        write_tree(agent.directory(), {"new": b"new"})
        agent.sync()
        server.stop()
        shutil.rmtree(server.store_dir)
        (tmp_path / "backup").rename(server.store_dir)
        server.start()

        assert halted(agent) == "bucket_rolled_back"
        approve(agent)
        agent.sync()
        with Stock(server.url) as stock:
            assert stock.contents("b") == {**TREE, "new": b"new"}
    finally:
        server.stop()


def test_objects_that_one_client_purges_one_by_one_are_deletions(synced: Agent, stock: Stock, bucket: str):
    for name in ("f00", "f01"):
        stock.api(f"STREAM.PURGE.OBJ_{bucket}", {"filter": meta_subject(bucket, name)})
    result = synced.sync()
    assert result["deletes_local"] == 2


# -- how much is deleted -----------------------------------------------------------------------------------------------


def test_more_deletions_than_max_delete_halt_and_approving_lets_them_go_once(synced: Agent, stock: Stock, bucket: str):
    for name in sorted(TREE)[:11]:
        (synced.directory() / name).unlink()
    result = synced.sync(exit=3)
    assert result["halt"]["reason"] == "max_delete"
    assert "11 entries" in result["halt"]["detail"]
    assert stock.contents(bucket) == TREE

    approve(synced)
    assert synced.sync()["deletes_remote"] == 11
    assert len(stock.names(bucket)) == 9


def test_ten_of_twenty_are_deleted(synced: Agent, stock: Stock, bucket: str):
    for name in sorted(TREE)[:10]:
        (synced.directory() / name).unlink()
    assert synced.sync()["deletes_remote"] == 10


def test_remote_deletions_halt_too(synced: Agent, stock: Stock, bucket: str):
    for name in sorted(TREE)[:11]:
        stock.delete(bucket, name)
    assert halted(synced) == "max_delete"
    assert read_tree(synced.directory()) == files(TREE)
    approve(synced)
    assert synced.sync()["deletes_local"] == 11


def test_a_halted_mapping_changes_nothing_at_all(synced: Agent, stock: Stock, bucket: str):
    for name in sorted(TREE)[:11]:
        (synced.directory() / name).unlink()
    write_tree(synced.directory(), {"new": b"new"})
    stock.put(bucket, "theirs", b"theirs")
    synced.sync(exit=3)
    stock.put(bucket, "theirs too", b"theirs")
    write_tree(synced.directory(), {"new too": b"new"})
    assert halted(synced) == "max_delete"
    assert stock.contents(bucket) == {**TREE, "theirs": b"theirs", "theirs too": b"theirs"}
    assert "theirs too" not in read_tree(synced.directory())


def test_a_halt_ends_when_the_files_are_back_but_not_when_some_are(synced: Agent, stock: Stock, bucket: str):
    gone = {name: TREE[name] for name in sorted(TREE)[:11]}
    for name in gone:
        (synced.directory() / name).unlink()
    assert halted(synced) == "max_delete"
    write_tree(synced.directory(), dict(list(gone.items())[:5]))
    assert halted(synced) == "max_delete"  # six of twenty are few; but nobody has said that they shall go
    write_tree(synced.directory(), gone)
    assert synced.sync()["halt"] is None
    assert stock.contents(bucket) == TREE


def test_deletions_in_several_runs_add_up(synced: Agent, stock: Stock, bucket: str):
    for name in sorted(TREE)[:8]:
        (synced.directory() / name).unlink()
    assert synced.sync()["deletes_remote"] == 8
    for name in sorted(TREE)[8:12]:
        (synced.directory() / name).unlink()
    result = synced.sync(exit=3)
    assert result["halt"]["reason"] == "max_delete"
    assert "after 8 in the last ten minutes" in result["halt"]["detail"]


def test_more_deletions_than_were_approved_halt_again(synced: Agent, stock: Stock, bucket: str):
    for name in sorted(TREE)[:11]:
        (synced.directory() / name).unlink()
    assert halted(synced) == "max_delete"
    approve(synced)
    empty(synced.directory())
    assert halted(synced) == "root_emptied"
    assert stock.contents(bucket) == TREE


def test_a_few_more_deletions_than_were_approved_halt_too(synced: Agent, stock: Stock, bucket: str):
    names = sorted(TREE)
    for name in names[:11]:
        (synced.directory() / name).unlink()
    assert halted(synced) == "max_delete"
    approve(synced)
    (synced.directory() / names[11]).unlink()
    assert "12 entries" in synced.sync(exit=3)["halt"]["detail"]
    assert stock.contents(bucket) == TREE
    approve(synced)
    assert synced.sync()["deletes_remote"] == 12


def test_an_approval_is_over_when_the_files_are_back(synced: Agent, stock: Stock, bucket: str):
    names = sorted(TREE)
    for name in names[:11]:
        (synced.directory() / name).unlink()
    assert halted(synced) == "max_delete"
    approve(synced)
    write_tree(synced.directory(), TREE)
    assert synced.sync()["halt"] is None
    for name in names[9:]:
        (synced.directory() / name).unlink()
    assert halted(synced) == "max_delete"
    assert stock.contents(bucket) == TREE


@pytest.mark.parametrize("text", ["", "garbage", "[]", '{"id": "x", "generation": Infinity}'])
def test_a_damaged_root_json_halts_and_approving_writes_another(synced: Agent, stock: Stock, bucket: str, text: str):
    (synced.directory() / ".jetsync/root.json").write_text(text)
    assert halted(synced) == "root_replaced"
    assert stock.contents(bucket) == TREE
    approve(synced)
    assert synced.sync()["halt"] is None
    assert stock.contents(bucket) == TREE


def test_a_root_json_that_cannot_be_written_is_an_error_with_a_remedy(synced: Agent, stock: Stock, bucket: str):
    (synced.directory() / ".jetsync/root.json").chmod(0o444)
    result = synced.sync(exit=1, unprivileged=True)
    assert "make it writable" in str(result["errors"])
    assert stock.contents(bucket) == TREE


def test_a_directory_in_the_place_of_root_json_halts_and_says_remove_it(synced: Agent, stock: Stock, bucket: str):
    place = synced.directory() / ".jetsync/root.json"
    place.unlink()
    place.mkdir()
    assert halted(synced) == "root_replaced"
    approve(synced)
    assert "remove it" in str(synced.sync(exit=1)["errors"])
    place.rmdir()
    assert synced.sync()["halt"] is None
    assert stock.contents(bucket) == TREE


def test_a_count_as_max_delete(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent("a", max_delete=2)
    write_tree(agent.directory(), TREE)
    agent.sync()
    for name in sorted(TREE)[:3]:
        (agent.directory() / name).unlink()
    assert halted(agent) == "max_delete"


def test_a_hundred_percent_never_halts_but_for_an_empty_root(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent("a", max_delete="100%")
    write_tree(agent.directory(), TREE)
    agent.sync()
    for name in sorted(TREE)[:19]:
        (agent.directory() / name).unlink()
    assert agent.sync()["deletes_remote"] == 19


def test_renames_and_replacements_do_not_count(synced: Agent, stock: Stock, bucket: str):
    for name in sorted(TREE):
        (synced.directory() / name).rename(synced.directory() / f"renamed-{name}")
    result = synced.sync()
    assert result["moves_remote"] == len(TREE)
    for name in sorted(TREE):
        (synced.directory() / f"renamed-{name}").unlink()
        write_tree(synced.directory(), {f"renamed-{name}/inside": b"another %s" % name.encode()})
    assert synced.sync()["halt"] is None


def test_a_mirror_of_a_wrong_directory_halts_before_it_deletes(make_agent: MakeAgent, stock: Stock, bucket: str):
    agent = make_agent("a", mode="pull-mirror")
    write_tree(agent.directory(), TREE)
    stock.put(bucket, "theirs", b"theirs")
    assert agent.sync(exit=3)["halt"]["reason"] == "max_delete"
    assert read_tree(agent.directory()).items() >= files(TREE).items()
    approve(agent)
    assert agent.sync()["deletes_local"] == len(TREE)


def test_plan_shows_the_halt_and_what_would_be_deleted(synced: Agent):
    for name in sorted(TREE)[:11]:
        (synced.directory() / name).unlink()
    plan = json.loads(synced.cli("plan", "--json", exit=None).out)["mappings"][0]
    assert plan["halt"]["reason"] == "max_delete"
    assert plan["state"] == "halted"
    assert [action["action"] for action in plan["actions"]] == ["delete-remote"] * 11


# -- a running agent ---------------------------------------------------------------------------------------------------


def shown(agent: Agent) -> dict[str, Any]:
    mapping: dict[str, Any] = json.loads(agent.cli("status", "--json").out)["mappings"][0]
    return mapping


def test_a_running_agent_halts_says_so_everywhere_and_goes_on_when_approved(synced: Agent, stock: Stock, bucket: str):
    with synced.run() as running:
        empty(synced.directory())
        eventually(lambda: shown(synced)["state"] == "halted")
        halt = shown(synced)["halt"]
        assert halt["reason"] == "root_emptied"
        assert "approve" in halt["remedy"]
        assert [event["reason"] for event in running.events("halted")] == ["root_emptied"]
        metrics = running.metrics()
        assert metrics['jetsync_mapping_state{mapping="files",state="halted"}'] == 1
        assert metrics['jetsync_mapping_halted{mapping="files",reason="root_emptied"}'] == 1
        assert "[+]mapping/files ok; halted: root_emptied: " in running.get("/readyz")[1]
        assert stock.contents(bucket) == TREE
        assert halted(synced) == "root_emptied"

        approve(synced)
        eventually(lambda: stock.names(bucket) == set())
        eventually(lambda: shown(synced)["state"] == "idle")


def test_a_halt_that_is_approved_while_paused_is_shown_no_more(synced: Agent, stock: Stock, bucket: str):
    with synced.run():
        empty(synced.directory())
        eventually(lambda: shown(synced)["halt"])
        synced.cli("pause", "files", exit=0)
        approve(synced)
        page = shown(synced)
        assert (page["state"], page["halt"]) == ("paused", None)
        assert stock.contents(bucket) == TREE
        synced.cli("resume", "files", exit=0)
        eventually(lambda: stock.names(bucket) == set())


def test_files_deleted_one_after_the_other_are_judged_together(synced: Agent, stock: Stock, bucket: str):
    with synced.run() as running:
        for path in sorted(synced.directory().glob("f*")):
            path.unlink()
            time.sleep(0.05)
        eventually(lambda: running.events("halted"))
        assert running.events("halted")[0]["reason"] in ("root_emptied", "max_delete")
        assert len(stock.names(bucket)) >= 10


def test_a_bucket_purged_under_a_running_agent_halts_it(synced: Agent, stock: Stock, bucket: str):
    with synced.run() as running:
        stock.api(f"STREAM.PURGE.OBJ_{bucket}")
        synced.sync(exit=3)
        assert running.events("halted")[0]["reason"] == "bucket_purged"
        assert read_tree(synced.directory()) == files(TREE)


def test_a_bucket_deleted_under_a_running_agent_halts_it(synced: Agent, stock: Stock, bucket: str):
    with synced.run() as running:
        stock.api(f"STREAM.DELETE.OBJ_{bucket}")
        eventually(lambda: running.events("halted"), timeout=60)
        assert running.events("halted")[0]["reason"] == "bucket_missing"
        assert read_tree(synced.directory()) == files(TREE)


def test_one_file_that_is_deleted_goes_at_once_and_so_do_a_few(synced: Agent, stock: Stock, bucket: str):
    with synced.run():
        os.unlink(synced.directory() / "f00")
        eventually(lambda: "f00" not in stock.names(bucket))
        for name in ("f01", "f02", "f03"):
            os.unlink(synced.directory() / name)
        eventually(lambda: not {"f01", "f02", "f03"} & stock.names(bucket))
