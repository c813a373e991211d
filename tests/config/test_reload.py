"""What differs between two configurations, and what a running agent can make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.load import loads
from agent.config.model import Config
from agent.config.reload import Changes, Delta, compare, same_place

BASE = Path("/etc/example")
HEAD = "version: 1\nname: edge\nnats: {servers: [nats://127.0.0.1:4222]}\n"
ITEMS = """
buckets: {one: {}, two: {replicas: 1}, store: {}}
mappings:
  - {name: one, directory: ./one, bucket: one}
  - {name: two, directory: ./two, bucket: two, exclude: ["*.tmp"]}
publications:
  - {name: pub, directory: ./pub, repository: store, channel: stable}
subscriptions:
  - {name: sub, directory: ./sub, repository: store, channel: stable}
"""
FILE = HEAD + ITEMS


def config_of(text: str) -> Config:
    return loads(text, base=BASE, environ={})


def changes_of(before: str, after: str) -> Changes:
    return compare(config_of(before), config_of(after))


def edited(*edits: tuple[str, str]) -> Changes:
    text = FILE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return changes_of(FILE, text)


def test_the_same_file_changes_nothing():
    assert not changes_of(FILE, FILE)


def test_the_same_meaning_written_otherwise_changes_nothing():
    other = (
        "# a comment\n"
        + HEAD
        + """
log: {level: info}
http: {listen: "127.0.0.1:9477"}
subscriptions: [{name: sub, directory: /etc/example/sub, repository: store, channel: stable, keep: 2}]
publications: [{name: pub, directory: pub, repository: store, channel: stable}]
mappings:
  - {name: two, directory: ./two, bucket: two, exclude: ["*.tmp"], rescan: 600s}
  - {name: one, directory: ./one/../one, bucket: one, mode: two-way, settle: 0.2s}
buckets: {store: {}, two: {}, one: {storage: file}}
"""
    )

    assert not changes_of(FILE, other.replace("0.2s", "200ms"))


def test_what_is_new_different_and_gone_is_told_by_name():
    changes = edited(
        ("name: one, ", "name: uno, "),
        ('exclude: ["*.tmp"]', 'exclude: ["*.bak"]'),
        ("  - {name: pub", "  - {name: public"),
    )

    assert changes.mappings == Delta(added=("uno",), changed=("two",), removed=("one",))
    assert changes.mappings.ends == ("one", "two")
    assert changes.publications == Delta(added=("public",), removed=("pub",))
    assert not changes.subscriptions
    assert not (changes.http or changes.log or changes.nats)


def test_a_declaration_changes_who_uses_the_bucket():
    assert edited(("two: {replicas: 1}", "two: {ttl: 1h}")).mappings == Delta(changed=("two",))

    changes = edited(("store: {}", "store: {description: all of them}"))
    assert (changes.mappings, changes.publications.changed, changes.subscriptions.changed) == (
        Delta(),
        ("pub",),
        ("sub",),
    )


def test_a_name_that_becomes_something_else_is_gone_and_new():
    changes = edited(("  - {name: one, directory: ./one, bucket: one}\n", ""), ("{name: pub,", "{name: one,"))

    assert changes.mappings.removed == ("one",)
    assert changes.publications.added == ("one",)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("http: {ready: connected}\n", "http"),
        ("http: false\n", "http"),
        ("log: {level: debug}\n", "log"),
    ],
)
def test_settings_that_a_running_agent_takes_over(line: str, key: str):
    changes = changes_of(FILE, FILE + line)

    assert [name for name in ("http", "log", "nats") if getattr(changes, name)] == [key]
    assert changes.restart == ()
    assert changes.config == config_of(FILE + line)


def test_other_servers_and_another_login_are_taken_over():
    changes = edited(
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:5222"), ("]}\n\nbuckets", "], token_file: t}\n\nbuckets")
    )

    assert changes.nats
    assert changes.restart == ()
    assert changes.config.nats.servers == ("nats://127.0.0.1:5222",)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("name: edge\n", "name: core\n", "name"),
        ("name: edge\n", "name: edge\nstate_dir: ./elsewhere\n", "state_dir"),
        ("servers: [nats://127.0.0.1:4222]", "servers: [nats://127.0.0.1:4222], domain: hub", "nats"),
        ("servers: [nats://127.0.0.1:4222]", "embedded: {store_dir: ./nats}", "nats"),
    ],
)
def test_what_only_a_restart_changes_stays_as_it_was_and_the_rest_holds(old: str, new: str, key: str):
    changes = edited((old, new), ("replicas: 1", "replicas: 3"))

    assert changes.restart == (key,)
    assert getattr(changes.config, key) == getattr(config_of(FILE), key)
    assert not changes.nats
    assert changes.mappings.changed == ("two",)
    assert changes.config.buckets["two"].replicas == 3


def test_what_stays_is_told_again_at_the_next_file_until_it_is_as_it_was():
    renamed = compare(config_of(FILE), config_of(FILE.replace("name: edge", "name: core")))

    assert compare(renamed.config, config_of(FILE.replace("name: edge", "name: core"))).restart == ("name",)
    assert compare(renamed.config, config_of(FILE)).restart == ()


def test_rules_that_break_only_with_what_stays_are_found():
    before = FILE.replace("name: edge\n", "name: edge\nstate_dir: ./state\n")
    after = before.replace("./state", "./elsewhere").replace("directory: ./one", "directory: ./state")

    assert [finding.loc for finding in changes_of(before, after).findings] == [("state_dir",)]
    assert changes_of(before, before.replace("./state", "./elsewhere")).findings == ()


def test_the_folder_of_the_file_stays():
    assert edited(("name: edge\n", "name: core\n")).config.folder == BASE


def test_ancestors_belong_to_directory_bucket_and_prefix():
    one, two = config_of(FILE).mappings

    assert same_place(one, one.model_copy(update={"rescan": 5.0}))
    assert not same_place(one, one.model_copy(update={"prefix": "a/"}))
    assert not same_place(one, two)
