"""The rules over several keys (DESIGN section 2): each refused combination with its place, and what stays allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.load import loads
from agent.config.model import Config
from agent.errors import ConfigError

BASE = Path("/etc/example")
HEAD = "version: 1\nnats: {servers: [nats://127.0.0.1:4222]}\n"  # what a test adds begins in line 3


def problems_of(text: str, *, base: Path = BASE) -> list[str]:
    try:
        loads(text, base=base, file="f", environ={})
    except ConfigError as error:
        return [str(problem).removeprefix("f:") for problem in error.problems]
    return []


def nats(text: str) -> str:
    return f"version: 1\nnats:\n  {text}\n"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (nats("{}"), ['2:1: nats: one of "servers" and "embedded" is missing']),
        (nats("servers: []"), ['2:1: nats: one of "servers" and "embedded" is missing']),
        (
            nats("servers: [nats://h]\n  embedded: {store_dir: n}"),
            ['4:3: nats.embedded: "servers" and "embedded" exclude each other; give one of them (line 3)'],
        ),
        (nats("servers: [nats://h, ws://h]"), ["WebSocket (ws://, wss://) and other servers can't stand in one list"]),
        (nats("servers: [nats://h]\n  user: me"), ['4:3: nats.user: "user" needs "password_file" beside it']),
        (
            nats("servers: [nats://h]\n  password_file: p"),
            ['4:3: nats.password_file: "password_file" needs "user" beside it'],
        ),
        (
            nats("servers: [nats://h]\n  token_file: t\n  credentials_file: c\n  nkey_seed_file: n"),
            [
                '4:3: nats.token_file: "token_file" and "credentials_file" are two ways to log in',
                '6:3: nats.nkey_seed_file: "nkey_seed_file" and "credentials_file" are two ways to log in',
            ],
        ),
        (
            nats("servers: [nats://h]\n  user: me\n  password_file: p\n  token_file: t"),
            ['6:3: nats.token_file: "token_file" and "user" are two ways to log in; give only one (line 4)'],
        ),
        (
            nats("servers: ['nats://a:b@h']\n  credentials_file: c"),
            ['4:3: nats.credentials_file: "credentials_file" and a login in the URL of a server are two ways'],
        ),
        (
            nats("embedded: {store_dir: n}\n  credentials_file: c\n  tls: {ca_file: a}"),
            [
                '4:3: nats.credentials_file: "credentials_file" doesn\'t go with "embedded"',
                '5:3: nats.tls: "tls" doesn\'t go with "embedded"',
            ],
        ),
        (
            nats("servers: [nats://h]\n  tls: {cert_file: c}"),
            ['4:9: nats.tls.cert_file: "cert_file" needs "key_file" beside it'],
        ),
        (
            nats("servers: [nats://h]\n  tls: {key_file: c}"),
            ['4:9: nats.tls.key_file: "key_file" needs "cert_file" beside it'],
        ),
    ],
)
def test_what_does_not_go_together_in_the_connection_is_told(text: str, problems: list[str]):
    found = problems_of(text)

    assert len(found) == len(problems)
    assert all(problem in line for problem, line in zip(problems, found, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "servers: [nats://h]",
        "servers: ['nats://a:b@h', 'tls://h2:4222']",
        "servers: [ws://h/path, wss://h2]",
        "servers: ['nats://[::1]:4222']",
        "servers: [nats://h]\n  user: me\n  password_file: p\n  tls: {ca_file: a, cert_file: b, key_file: c}",
        "servers: [nats://h]\n  nkey_seed_file: n\n  domain: hub",
        "embedded: {store_dir: n}\n  servers: []\n  tls:\n  user: ${NONE:-}",
    ],
)
def test_what_goes_together_in_the_connection_is_taken(text: str):
    assert problems_of(nats(text)) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "buckets: {m: {mirror: {bucket: o}, ttl: 1h, max_bytes: 1GiB}}",
            [
                '3:36: buckets.m.ttl: "ttl" doesn\'t go with "mirror"',
                '3:45: buckets.m.max_bytes: "max_bytes" doesn\'t go with "mirror"',
            ],
        ),
        ("buckets: {m: {mirror: {bucket: m}}}", ["3:32: buckets.m.mirror.bucket: a bucket can't mirror itself"]),
        (
            "buckets: {m: {mirror: {bucket: o}}}\nmappings: [{name: a, directory: a, bucket: m, mode: push-safe}]",
            ['4:53: mappings[0].mode: bucket "m" is a mirror, which can only be read: use pull-safe or pull-mirror'],
        ),
        (
            "buckets: {m: {mirror: {bucket: o}}}\nmappings: [{name: a, directory: a, bucket: m}]",
            ['4:12: mappings[0]: bucket "m" is a mirror'],
        ),
        (
            "buckets: {m: {mirror: {bucket: o}}}\npublications: [{name: a, directory: a, repository: m, channel: c}]",
            ['4:52: publications[0].repository: bucket "m" is a mirror, which can only be read'],
        ),
        (
            "buckets: {b: {ttl: 1h}}\nmappings: [{name: a, directory: a, bucket: b, mode: push-mirror}]",
            ['4:53: mappings[0].mode: push-mirror into "b", a bucket with a ttl: what expires would be sent again'],
        ),
        (
            "buckets: {b: {ttl: 1h}}\npublications: [{name: a, directory: a, repository: b, channel: c}]",
            ['4:52: publications[0].repository: bucket "b" has a ttl: a repository\'s content must not expire (line'],
        ),
        (
            "buckets: {b: {ttl: 1h}}\nsubscriptions: [{name: a, directory: a, repository: b, channel: c}]",
            ['4:53: subscriptions[0].repository: bucket "b" has a ttl'],
        ),
    ],
)
def test_a_bucket_that_can_not_serve_is_told(text: str, problems: list[str]):
    found = problems_of(HEAD + text)

    assert len(found) == len(problems)
    assert all(problem in line for problem, line in zip(problems, found, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "buckets: {m: {mirror: {bucket: m, domain: hub}, replicas: 3, storage: memory, ttl: 0s, max_bytes: 0}}",
        "buckets: {m: {mirror: {bucket: o}}}\nmappings: [{name: a, directory: a, bucket: m, mode: pull-mirror}]",
        "buckets: {m: {mirror: {bucket: o}}}\nsubscriptions: [{name: a, directory: a, repository: m, channel: c}]",
        "buckets: {b: {ttl: 1h}}\nmappings: [{name: a, directory: a, bucket: b, mode: push-safe}]",
        "buckets: {b: {ttl: 0s}}\nmappings: [{name: a, directory: a, bucket: b, mode: push-mirror}]",
        "mappings: [{name: a, directory: a, bucket: b, mode: push-mirror}]",
    ],
)
def test_a_bucket_that_can_serve_is_taken(text: str):
    assert problems_of(HEAD + text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mode: push-safe, conflicts: keep-both", '3:65: mappings[0].conflicts: "conflicts" is for mode two-way only'),
        ("mode: pull-mirror, conflicts: newer", "this mapping is pull-mirror"),
        ("symlinks: follow", '3:58: mappings[0].symlinks: "follow" is for push-safe and push-mirror only'),
        ("mode: pull-safe, symlinks: follow", "this mapping is pull-safe"),
        ("settle: 20s", '3:56: mappings[0].settle: "settle" is longer than "settle_max"'),
        ("settle: 2s, settle_max: 1s", '3:56: mappings[0].settle: "settle" is longer than "settle_max"'),
    ],
)
def test_keys_of_a_mapping_that_contradict_each_other_are_told(text: str, problem: str):
    (found,) = problems_of(HEAD + f"mappings: [{{name: a, directory: a, bucket: bb, {text}}}]")

    assert problem in found


@pytest.mark.parametrize(
    "text",
    [
        "mode: two-way, conflicts: newer",
        "mode: push-safe, symlinks: follow",
        "mode: push-mirror, symlinks: follow",
        "settle: 10s, settle_max: 10s",
        "settle: 0s, settle_max: 0s",
    ],
)
def test_keys_of_a_mapping_that_agree_are_taken(text: str):
    assert problems_of(HEAD + f"mappings: [{{name: a, directory: a, bucket: bb, {text}}}]") == []


def test_names_are_unique_over_all_three_sections():
    text = """
mappings:
  - {name: a, directory: a, bucket: b}
publications:
  - {name: a, directory: p, repository: r, channel: c}
subscriptions:
  - {name: a, directory: s, repository: r, channel: c}
  - {name: A, directory: t, repository: r, channel: c}
"""

    said = 'the name "a" is taken; mappings, publications and subscriptions each need their own (line 5)'
    assert problems_of(HEAD + text) == [f"7:12: publications[0].name: {said}", f"9:12: subscriptions[0].name: {said}"]


def two_mappings(first: str, second: str) -> str:
    return HEAD + f"mappings:\n  - {{name: one, {first}}}\n  - {{name: two, {second}}}\n"


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ("x", "x", "the same as"),
        ("x", "./x/", "the same as"),
        ("x", "x/../x", "the same as"),
        ("x", "/etc/example/x", "the same as"),
        ("x", "x/y", "inside"),
        ("x/y/z", "x", "around"),
        ("/", "x", "inside"),
    ],
)
def test_mappings_with_the_same_or_nested_directories_are_told(first: str, second: str, relation: str):
    found = problems_of(two_mappings(f"directory: {first}, bucket: a", f"directory: {second}, bucket: b"))
    found = [line for line in found if "state_dir" not in line]

    assert found == [f'5:28: mappings[1].directory: this directory is {relation} that of mapping "one" (line 4)']


def test_directories_that_are_the_same_through_a_symbolic_link_are_told(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    found = problems_of(two_mappings("directory: real, bucket: a", "directory: link/sub, bucket: b"), base=tmp_path)

    assert found == ['5:28: mappings[1].directory: this directory is inside that of mapping "one" (line 4)']


@pytest.mark.parametrize(("first", "second"), [("x", "xy"), ("x/a", "x/b"), ("x", "../x")])
def test_directories_side_by_side_are_taken(first: str, second: str):
    assert problems_of(two_mappings(f"directory: {first}, bucket: a", f"directory: {second}, bucket: b")) == []


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ("''", "''", '5:39: mappings[1].bucket: bucket "b" with no prefix overlaps "one" with no prefix (line 4)'),
        ("a/", "''", '5:39: mappings[1].bucket: bucket "b" with no prefix overlaps "one" with prefix "a/" (line 4)'),
        ("''", "a/", '5:50: mappings[1].prefix: bucket "b" with prefix "a/" overlaps "one" with no prefix (line 4)'),
        (
            "a/",
            "a/b/",
            '5:50: mappings[1].prefix: bucket "b" with prefix "a/b/" overlaps "one" with prefix "a/" (line 4)',
        ),
        ("a/", "a/", '5:50: mappings[1].prefix: bucket "b" with prefix "a/" overlaps "one" with prefix "a/" (line 4)'),
    ],
)
def test_overlapping_prefixes_of_one_bucket_are_told(first: str, second: str, problem: str):
    found = problems_of(
        two_mappings(f"directory: x, bucket: b, prefix: {first}", f"directory: y, bucket: b, prefix: {second}")
    )

    assert found == [problem]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bucket: b, prefix: a/", "bucket: b, prefix: c/"),
        ("bucket: b, prefix: a/", "bucket: b, prefix: ab/"),
        ("bucket: b", "bucket: B"),
    ],
)
def test_prefixes_side_by_side_are_taken(first: str, second: str):
    assert problems_of(two_mappings(f"directory: x, {first}", f"directory: y, {second}")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: p", '4:5: publications[0]: one of "directory" and "bucket" is missing'),
        (
            "name: p, directory: d, bucket: b",
            '4:29: publications[0].bucket: "directory" and "bucket" exclude each other',
        ),
        ("name: p, directory: d, prefix: a/", '4:29: publications[0].prefix: "prefix" goes with "bucket" only'),
    ],
)
def test_a_publication_has_one_source(text: str, problem: str):
    (found,) = problems_of(HEAD + f"publications:\n  - {{{text}, repository: r, channel: c}}")

    assert problem in found


def test_two_publications_of_one_channel_are_told():
    text = """
publications:
  - {name: p, directory: p, repository: r, channel: c}
  - {name: q, directory: q, repository: r, channel: d}
  - {name: o, directory: o, repository: r, channel: c}
"""

    assert problems_of(HEAD + text) == [
        '7:53: publications[2].channel: channel "c" of "r" has a publication already (line 5)'
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: s", '4:5: subscriptions[0]: one of "channel" and "snapshot" is missing'),
        (
            "name: s, channel: c, snapshot: 20240102T030405Z-0123456789ab",
            '4:27: subscriptions[0].snapshot: "channel" and "snapshot" exclude each other; give one of them',
        ),
    ],
)
def test_a_subscription_has_a_channel_or_a_snapshot(text: str, problem: str):
    assert problems_of(HEAD + f"subscriptions:\n  - {{{text}, repository: r, directory: d}}") == [problem]


def test_directories_of_subscriptions_meet_nothing_that_writes_there():
    text = """
mappings:
  - {name: in, directory: in, bucket: a, mode: pull-safe}
  - {name: out, directory: out, bucket: b, mode: push-mirror}
subscriptions:
  - {name: s, directory: s, repository: r, channel: c}
  - {name: t, directory: s/t, repository: r, channel: c}
  - {name: u, directory: in/u, repository: r, channel: c}
  - {name: v, directory: out/v, repository: r, channel: c}
"""

    first = '9:26: subscriptions[1].directory: this directory is inside that of subscription "s" (line 8)'
    second = '10:26: subscriptions[2].directory: this directory is inside that of mapping "in", which writes there too'
    assert problems_of(HEAD + text) == [first, f"{second} (line 5)"]


def test_what_the_agent_keeps_for_itself_is_not_in_a_directory_that_it_sends():
    text = (
        "version: 1\nstate_dir: x/state\nnats: {embedded: {store_dir: y}}\n"
        "mappings:\n  - {name: x, directory: x, bucket: a}\n"
        "publications:\n  - {name: y, directory: y, repository: r, channel: c}\n"
    )

    state = '2:12: state_dir: "state_dir" (/etc/example/x/state) is in the directory of mapping "x"'
    store = '3:30: nats.embedded.store_dir: "store_dir" (/etc/example/y) is in the directory of publication "y"'
    assert problems_of(text) == [f"{state}: it would be sent too (line 5)", f"{store}: it would be sent too (line 7)"]


def test_the_default_state_directory_in_a_mapping_is_told_at_the_mapping():
    found = problems_of(HEAD + "mappings: [{name: x, directory: /var, bucket: a}]")

    said = '3:33: mappings[0].directory: "state_dir" (/var/lib/jetsync) is in the directory of mapping "x"'
    assert found == [f"{said}: it would be sent too"]


def test_a_state_directory_around_a_mapping_is_taken():
    assert problems_of(HEAD + "state_dir: .\nmappings: [{name: x, directory: x, bucket: a}]") == []


def test_many_mappings_are_checked_in_reasonable_time():
    rows = "\n".join(f"  - {{name: m{n}, directory: d{n}, bucket: b, prefix: p{n}/}}" for n in range(300))

    assert problems_of(f"{HEAD}mappings:\n{rows}\n") == []


def test_the_model_itself_lets_no_unchecked_value_in():
    with pytest.raises(ValueError, match="needs a unit"):
        Config.model_validate({"version": 1, "nats": {}, "mappings": [{"settle": "5"}]})
