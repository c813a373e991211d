"""A file becomes a Config, or one error with everything that is wrong in it and where."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.load import check_files, find, from_dict, load, loads, read, state_dir_of
from agent.config.model import Config, DeleteLimit, Section
from agent.config.positions import MAX_BYTES
from agent.config.validate import sections_of
from agent.core.entries import Mode, Policy
from agent.errors import ConfigError, ConfigProblem

BASE = Path("/etc/example")
HEAD = "version: 1\nnats: {servers: [nats://127.0.0.1:4222]}\n"  # two lines: what a test adds begins in line 3
MAPPING = "mappings:\n  - name: one\n    directory: ./one\n    bucket: one\n"  # lines 3 to 6, keys in column 5


def config_of(text: str, **environ: str) -> Config:
    return loads(text, base=BASE, environ=environ)


def problems_of(text: str, **environ: str) -> list[str]:
    """Every problem as "line:column: message"."""
    with pytest.raises(ConfigError) as caught:
        loads(text, base=BASE, file="f", environ=environ)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem).removeprefix("f:").removeprefix(" ") for problem in caught.value.problems]


def test_the_smallest_file_has_all_defaults():
    config = config_of(HEAD)

    assert config.nats.servers == ("nats://127.0.0.1:4222",)
    assert config.name == os.uname().nodename
    assert config.state_dir == Path("/var/lib/jetsync")
    assert config.http is not None
    assert (config.http.host, config.http.port, config.http.ready) == ("127.0.0.1", 9477, "once")
    assert (config.log.level, config.log.format) == ("info", "auto")
    assert (config.buckets, config.mappings, config.publications, config.subscriptions) == ({}, (), (), ())


def test_a_mapping_has_the_defaults_of_the_design():
    (mapping,) = config_of(HEAD + MAPPING).mappings

    assert mapping.directory == BASE / "one"
    assert (mapping.prefix, mapping.mode, mapping.conflicts) == ("", Mode.TWO_WAY, Policy.KEEP_BOTH)
    assert (mapping.include, mapping.exclude, mapping.max_size) == ((), (), 10 * 2**30)
    assert (mapping.symlinks, mapping.permissions, mapping.empty_directories) == ("link", True, False)
    assert (mapping.file_mode, mapping.directory_mode) == (0o666, 0o777)
    assert (mapping.settle, mapping.settle_max, mapping.poll_interval) == (0.2, 10.0, 5.0)
    assert (mapping.watch, mapping.rescan, mapping.rehash) == ("auto", 600.0, 604800.0)
    assert (mapping.max_delete, mapping.trash, mapping.transfers) == (DeleteLimit(share=0.5), 604800.0, 16)
    assert (mapping.limits.upload, mapping.limits.download) == (0, 0)
    assert mapping.pushes
    assert mapping.pulls


def test_every_value_arrives_in_its_own_unit():
    config = config_of(
        "version: 1\nname: edge\nstate_dir: ./state\n"
        "nats: {embedded: {store_dir: ../nats, port: 0}}\n"
        "http: {listen: '[::1]:0', ready: local}\nlog: {level: debug, format: json}\n"
        "buckets:\n  a: {storage: memory, replicas: 3, max_bytes: 1GiB, ttl: 1h, compression: true, description: d,\n"
        "      metadata: {k: v}, placement: {cluster: c, tags: [t]}}\n  b:\n  m: {mirror: {bucket: a, domain: hub}}\n"
        "mappings:\n  - {name: x, directory: /data/x, bucket: b, prefix: in/, mode: push-safe, symlinks: follow,\n"
        "     include: ['*.a'], exclude: ['!b', '~*'], max_size: 0, permissions: false, file_mode: 0640,\n"
        "     directory_mode: '750', empty_directories: true, settle: 0, settle_max: 1m, watch: false, rehash: 0s,\n"
        "     poll_interval: 1s, rescan: 1h, max_delete: 100, trash: 0s, transfers: 1,\n"
        "     limits: {upload: 10MiB, download: 5}}\n"
        "publications:\n  - {name: p, bucket: b, prefix: q/, repository: a2, channel: stable, trigger: on-change,\n"
        "     content: copies, keep: 9, sign_with: key.nk}\n"
        "subscriptions:\n  - {name: s, repository: a2, snapshot: 20240102T030405Z-0123456789ab, directory: live,\n"
        "     keep: 1, before: [./check.sh], after: [x, y], webhook: 'https://h/x'}\n"
    )

    assert config.name == "edge"
    assert config.state_dir == BASE / "state"
    assert config.nats.embedded is not None
    assert (config.nats.embedded.store_dir, config.nats.embedded.port) == (Path("/etc/nats"), 0)
    assert config.http is not None
    assert (config.http.host, config.http.port) == ("::1", 0)
    a = config.buckets["a"]
    assert (a.storage, a.replicas, a.max_bytes, a.ttl, a.compression) == ("memory", 3, 2**30, 3600.0, True)
    assert (a.description, a.metadata) == ("d", {"k": "v"})
    assert a.placement is not None
    assert (a.placement.cluster, a.placement.tags) == ("c", ("t",))
    assert config.buckets["b"].max_bytes is None
    mirror = config.buckets["m"].mirror
    assert mirror is not None
    assert (mirror.bucket, mirror.domain) == ("a", "hub")
    (x,) = config.mappings
    assert (x.directory, x.prefix, x.mode, x.symlinks) == (Path("/data/x"), "in/", Mode.PUSH_SAFE, "follow")
    assert (x.include, x.exclude, x.max_size, x.permissions) == (("*.a",), ("!b", "~*"), None, False)
    assert (x.file_mode, x.directory_mode, x.empty_directories) == (0o640, 0o750, True)
    assert (x.settle, x.settle_max, x.watch, x.rehash) == (0.0, 60.0, False, 0.0)
    assert (x.max_delete, x.trash, x.transfers) == (DeleteLimit(count=100), 0.0, 1)
    assert (x.limits.upload, x.limits.download) == (10 * 2**20, 5)
    (p,) = config.publications
    assert (p.directory, p.bucket, p.prefix, p.trigger, p.content, p.keep) == (
        None,
        "b",
        "q/",
        "on-change",
        "copies",
        9,
    )
    assert p.sign_with == BASE / "key.nk"
    (s,) = config.subscriptions
    assert (s.channel, s.snapshot, s.keep) == (None, "20240102T030405Z-0123456789ab", 1)
    assert (s.before, s.after, s.webhook) == (("./check.sh",), ("x", "y"), "https://h/x")
    assert config.names == ("x", "p", "s")
    assert config.mapping("x") is x
    assert config.mapping("y") is None


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a", "/etc/example/a"),
        ("./a/", "/etc/example/a"),
        (".", "/etc/example"),
        ("../a", "/etc/a"),
        ("//a//b", "/a/b"),
    ],
)
def test_a_path_is_absolute_and_normal(written: str, path: str):
    assert config_of(HEAD + f"state_dir: {written}").state_dir == Path(path)


def test_http_false_disables_it():
    assert config_of(HEAD + "http: false").http is None


def test_a_key_without_a_value_has_its_default():
    text = HEAD + "name:\nhttp:\nbuckets:\n  b:\npublications:\n" + MAPPING + "    settle:\n    limits:\n"

    assert config_of(text) == config_of(HEAD + "buckets: {b: {}}\n" + MAPPING)


def test_equal_configurations_are_equal_however_they_are_written():
    one = config_of(HEAD + MAPPING + "    settle: 200ms\n    max_size: 10240MiB\n    mode: two-way\n")
    other = config_of("# a comment\n" + HEAD + MAPPING.replace("./one", "x/../one"))

    assert one.mappings[0] == other.mappings[0]
    assert one == other


# ---- one wrong value: (what is added to HEAD, the problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # sections and keys
        ("mapings: []", '3:1: mapings: unknown key; did you mean "mappings"?'),
        ("Log: {}", '3:1: Log: unknown key; did you mean "log"?'),
        ("listen: 1", '3:1: listen: unknown key; it belongs in "http"'),
        ("zzz: 1", "3:1: zzz: unknown key"),
        ("log: debug", '3:6: log: expected a mapping of keys to values, got the text "debug"'),
        ("log: [a]", "3:6: log: expected a mapping of keys to values, got a list"),
        ("log: {leval: info}", '3:7: log.leval: unknown key; did you mean "level"?'),
        ("log: {level: warn}", 'expected debug, info, warning or error, got the text "warn"; did you mean "warning"?'),
        ("log: {level: 3}", "3:14: log.level: expected debug, info, warning or error, got the number 3"),
        ("mappings: {a: 1}", "3:11: mappings: expected a list, got a mapping of keys to values"),
        ("mappings: [x]", '3:12: mappings[0]: expected a mapping of keys to values, got the text "x"'),
        ("buckets: [a]", "3:10: buckets: expected a mapping of keys to values, got a list"),
        ("name: [a]", "3:7: name: expected text, got a list"),
        ("name: 12", "3:7: name: expected text, got the number 12; put it in quotes if text is meant"),
        ("name: true", "3:7: name: expected text, got true; put it in quotes if text is meant"),
        ("name: ''", "3:7: name: must not be empty"),
        ('name: "a\\nb"', "3:7: name: use at most 128 printable characters"),
        ("state_dir: ~/x", '3:12: state_dir: "~" is not expanded; write ${HOME}/x'),
        ('state_dir: "a\\0b"', "3:12: state_dir: must not contain a NUL character"),
        # http
        ("http: off", '3:7: http: expected a mapping of keys to values, or false, got the text "off"; only true and'),
        ("http: true", "3:7: http: expected a mapping of keys to values, or false, got true"),
        ("http: {listen: 9477}", "3:16: http.listen: the host is missing: write 127.0.0.1:9477, or 0.0.0.0:9477"),
        ("http: {listen: ':9477'}", "3:16: http.listen: the host is missing: write 127.0.0.1:9477"),
        ("http: {listen: localhost}", "3:16: http.listen: expected HOST:PORT"),
        ("http: {listen: 'h:65536'}", "3:16: http.listen: expected HOST:PORT with a port from 0 to 65535"),
        ("http: {listen: '::1:80'}", "3:16: http.listen: expected HOST:PORT"),
        ("http: {ready: never}", "3:15: http.ready: expected once, connected or local"),
        # buckets
        ("buckets: {a.b: {}}", '3:11: buckets.a.b: "a.b" is not a name here: a bucket may have letters'),
        ("buckets: {'': {}}", "3:11: buckets.: must not be empty"),
        (f"buckets: {{{'a' * 252}: {{}}}}", "is too long: 252 characters, 251 are allowed"),
        ("buckets: {a: {ttl: 5}}", "3:20: buckets.a.ttl: a duration needs a unit: write 5s for seconds"),
        ("buckets: {a: {ttl: -5s}}", "3:20: buckets.a.ttl: a duration can't be negative"),
        ("buckets: {a: {ttl: true}}", "3:20: buckets.a.ttl: expected a duration such as 30s, got true"),
        ("buckets: {a: {max_bytes: 10G}}", '3:26: buckets.a.max_bytes: "G" alone is ambiguous: write 10GiB'),
        ("buckets: {a: {max_bytes: -1}}", "3:26: buckets.a.max_bytes: a size can't be negative"),
        ("buckets: {a: {max_bytes: [1]}}", "3:26: buckets.a.max_bytes: expected a size such as 10MiB, got a list"),
        ("buckets: {a: {replicas: 0}}", "3:25: buckets.a.replicas: 0 is out of range: expected 1 to 5"),
        ("buckets: {a: {replicas: 6}}", "3:25: buckets.a.replicas: 6 is out of range: expected 1 to 5"),
        ("buckets: {a: {replicas: 1.5}}", "3:25: buckets.a.replicas: expected a whole number, got the number 1.5"),
        ("buckets: {a: {replicas: '3'}}", 'got the text "3"; write it in plain decimal digits, without quotes'),
        ("buckets: {a: {replicas: 1_0}}", 'got the text "1_0"; write it in plain decimal digits, without quotes'),
        ("buckets: {a: {replicas: true}}", "3:25: buckets.a.replicas: expected a whole number, got true"),
        ("buckets: {a: {compression: yes}}", 'got the text "yes"; only true and false are booleans'),
        ("buckets: {a: {compression: 1}}", "got the number 1; only true and false are booleans"),
        ("buckets: {a: {compression: 'true'}}", 'got the text "true"; only true and false are booleans'),
        ("buckets: {a: {storage: disk}}", "3:24: buckets.a.storage: expected file or memory"),
        ("buckets: {a: {description: 5}}", "3:28: buckets.a.description: expected text, got the number 5"),
        ("buckets: {a: {metadata: {_nats.x: y}}}", '3:26: buckets.a.metadata._nats.x: "_nats.x" is not allowed'),
        ("buckets: {a: {metadata: {jetsync.x: y}}}", 'keys that begin with "jetsync." are reserved'),
        ("buckets: {a: {metadata: {x: 1}}}", "3:29: buckets.a.metadata.x: expected text, got the number 1"),
        ("buckets: {a: {metadata: {x: }}}", "3:29: buckets.a.metadata.x: expected text, got nothing"),
        ("buckets: {a: {mirror: {}}}", "3:15: buckets.a.mirror.bucket: is missing"),
        ("buckets: {a: {mirror: b}}", '3:23: buckets.a.mirror: expected a mapping of keys to values, got the text "b"'),
        ("buckets: {a: {mirror: {bucket: b, domain: x.y}}}", "a JetStream domain has no spaces"),
        ("buckets: {a: {max_age: 1s}}", '3:15: buckets.a.max_age: unknown key; did you mean "ttl"?'),
        # subscriptions and publications
        (
            "subscriptions: [{name: s, repository: r, snapshot: x, directory: d}]",
            "a snapshot is written as YYYYMMDDTHHMMSSZ-<12 hex digits>",
        ),
        (
            "subscriptions: [{name: s, repository: r, channel: 20240102T030405Z-0123456789ab, directory: d}]",
            'is the id of a snapshot, not a channel; a subscription pins it with "snapshot"',
        ),
        (
            "subscriptions: [{name: s, repository: r, channel: c, directory: d, keep: 0}]",
            "3:74: subscriptions[0].keep: 0 is out of range",
        ),
        (
            "subscriptions: [{name: s, repository: r, channel: c, directory: d, webhook: 'ftp://x'}]",
            "isn't a web address",
        ),
        (
            "subscriptions: [{name: s, repository: r, channel: c, directory: d, before: x}]",
            '3:76: subscriptions[0].before: expected a list, got the text "x"; write ["x"]',
        ),
        (
            "subscriptions: [{name: s, repository: r, channel: c, directory: d, before: [x, []]}]",
            "subscriptions[0].before[1]: a command has at least its program",
        ),
        (
            "subscriptions: [{name: s, repository: r, channel: c, directory: d, after: [[sleep, 5]]}]",
            "subscriptions[0].after[0]: expected text, got the number 5; put it in quotes",
        ),
        (
            f"publications: [{{name: p, directory: d, repository: {'r' * 222}, channel: c}}]",
            "is too long: 222 characters, 221 are allowed",
        ),
        (
            "publications: [{name: p, directory: d, repository: r, channel: a/b}]",
            '3:64: publications[0].channel: "a/b" is not a name here',
        ),
    ],
)
def test_a_wrong_value_is_told_with_its_place(text: str, problem: str):
    (found,) = problems_of(HEAD + text)

    assert problem in found
    assert found.startswith("3:")


def test_a_command_is_text_for_the_shell_or_a_list_of_arguments():
    text = "subscriptions: [{name: s, repository: r, channel: c, directory: d, before: [a b, [./x, '', '$${A}']]}]"
    (subscription,) = loads(HEAD + text, base=Path("/etc/x")).subscriptions

    assert subscription.before == ("a b", ("./x", "", "${A}"))
    assert subscription.model_dump(mode="json")["before"] == ["a b", ["./x", "", "${A}"]]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("mod: two-way", '7:5: mappings[0].mod: unknown key; did you mean "mode"?'),
        ("max-size: 1", '7:5: mappings[0].max-size: unknown key; did you mean "max_size"?'),
        ("policy: newer", '7:5: mappings[0].policy: unknown key; did you mean "conflicts"?'),
        ("mode: two_way", 'expected two-way, push-safe, push-mirror, pull-safe or pull-mirror, got the text "two_way"'),
        ("mode: twoway", 'did you mean "two-way"?'),
        (
            "conflicts: [a]",
            "7:16: mappings[0].conflicts: expected keep-both, report, prefer-local, prefer-remote or newer",
        ),
        ("prefix: in", '7:13: mappings[0].prefix: a prefix is empty or ends in "/": write "in/"'),
        ("prefix: /in/", '7:13: mappings[0].prefix: "/in/" can\'t be a prefix: the name begins with "/"'),
        ("prefix: a//b/", "can't be a prefix: the name has an empty component"),
        ("prefix: a/../b/", 'can\'t be a prefix: the name has the component ".."'),
        ("prefix: 'a\\b/'", "can't be a prefix: the name has a backslash in it"),
        ("prefix: .jetsync/", "can't be a prefix: names below it are reserved"),
        (f"prefix: {'a' * 256}/", "256 bytes, 255 are allowed"),
        ("exclude: '*.tmp'", '7:14: mappings[0].exclude: expected a list, got the text "*.tmp"; write ["*.tmp"]'),
        ("exclude: ['#x']", "is a comment in gitignore, and matches nothing"),
        ("exclude: ['']", "7:15: mappings[0].exclude[0]: must not be empty"),
        ("exclude: [a, ' ']", "7:18: mappings[0].exclude[1]: must not be blank"),
        ("exclude: ['[a']", "7:15: mappings[0].exclude[0]: not a gitignore pattern"),
        ('exclude: ["a\\nb"]', "7:15: mappings[0].exclude[0]: has several lines"),
        ("exclude: [1]", "7:15: mappings[0].exclude[0]: expected text, got the number 1"),
        ("symlinks: copy", "7:15: mappings[0].symlinks: expected link, follow or skip"),
        ("file_mode: 644", '7:16: mappings[0].file_mode: write permissions as text with a leading zero: "0644"'),
        ("file_mode: '0999'", "isn't three octal digits"),
        ("file_mode: '4755'", "isn't three octal digits"),
        ("file_mode: '0444'", "the owner needs at least 0600"),
        ("directory_mode: '0600'", "the owner needs at least 0700"),
        ("directory_mode: true", 'expected permissions such as "0666", got true'),
        ("settle: 200", "7:13: mappings[0].settle: a duration needs a unit: write 200s for seconds, 200ms"),
        ("settle: 12:30:00", "7:13: mappings[0].settle: not a duration"),
        ("poll_interval: 0s", "7:20: mappings[0].poll_interval: must be at least 10ms"),
        ("rescan: 0", "7:13: mappings[0].rescan: must be at least 10ms"),
        (
            "watch: off",
            'expected auto, poll or false, got the text "off"; only true and false are booleans: write false',
        ),
        ("watch: true", "7:12: mappings[0].watch: expected auto, poll or false, got true"),
        ("watch: no", "write false"),
        ("max_delete: 101%", "7:17: mappings[0].max_delete: a share can't be more than 100%"),
        ("max_delete: 0.5", "expected a share such as 50% or a count such as 100, got the number 0.5"),
        ("max_delete: -1", "7:17: mappings[0].max_delete: a count can't be negative"),
        ("max_delete: lots", "not a share"),
        ("transfers: 0", "7:16: mappings[0].transfers: 0 is out of range: expected 1 to 1024"),
        ("transfers: 010", 'got the text "010"; write it in plain decimal digits'),
        ("transfers: 0x10", 'got the text "0x10"; write it in plain decimal digits'),
        ("limits: 10MiB", '7:13: mappings[0].limits: expected a mapping of keys to values, got the text "10MiB"'),
        ("limits: {upload: 10MiB/s}", 'write it without "/s": 10MiB'),
        ("limits: {uplaod: 1}", '7:14: mappings[0].limits.uplaod: unknown key; did you mean "upload"?'),
        ("permissions: on", "only true and false are booleans"),
    ],
)
def test_a_wrong_value_of_a_mapping_is_told_with_its_place(line: str, problem: str):
    (found,) = problems_of(f"{HEAD}{MAPPING}    {line}\n")

    assert problem in found
    assert found.startswith("7:")


@pytest.mark.parametrize(
    ("servers", "problem"),
    [
        ("[localhost:4222]", '2:18: nats.servers[0]: "localhost:4222" has no scheme: write nats://HOST:PORT'),
        ("['http://h']", "expected nats://, tls://, ws:// or wss://"),
        ("['nats://']", "has no host"),
        ("['nats://h:99999']", "check the host and the port"),
        ("['nats://h:0']", "has port 0"),
        ("['nats://h:x']", "check the host and the port"),
        ("['nats://h/path']", "has more than scheme, host and port"),
        ("['nats://h h']", "has spaces"),
        ("[nats://a, 5]", "2:28: nats.servers[1]: expected text, got the number 5"),
        ("nats://h", '2:17: nats.servers: expected a list, got the text "nats://h"; write ["nats://h"]'),
    ],
)
def test_a_wrong_server_is_told_with_its_place(servers: str, problem: str):
    (found,) = problems_of(f"version: 1\nnats: {{servers: {servers}}}")

    assert problem in found


@pytest.mark.parametrize(
    "servers",
    [
        "['http://user:hunter2@h']",
        "['user:hunter2@h:4222']",
        "['nats://user:hunter2@h:99999']",
        "['nats://user:hunter2@h/path']",
        "['nats://user:hun@hunter2@h:x']",
        "nats://user:hunter2@h",
        "{x: 'nats://user:hunter2@h'}",
        "['nats://u:${PASSWORD}@h:x']",
        "${URL}",
        "['${URL}/x']",
        "[['nats://user:hunter2@h']]",
        "user:hunter2@h",
        "x}\nlog: {level: 'nats://user:hunter2@h'",
        "x}\nlog: 'nats://user:hunter2@h'\nbuckets: {a: 'nats://user:hunter2@h?hunter2'",
    ],
)
def test_no_message_shows_a_password(servers: str):
    found = problems_of(
        f"version: 1\nnats: {{servers: {servers}}}", PASSWORD="hunter2", URL="nats://user:hunter2@h:4222"
    )

    assert found
    assert "hunter2" not in " ".join(found)


def test_a_webhook_and_a_variable_are_not_shown_either():
    found = problems_of(
        HEAD
        + "subscriptions: [{name: s, repository: r, channel: c, directory: d, webhook: 'ftp://u:hunter2@h?t=hunter2'}]\n"
        "name: ${SECRET}\nlog: {level: '${SECRET}'}\nbuckets: {b: {replicas: '${SECRET}', ttl: '${SECRET}'}}\n"
        "http: {listen: '${SECRET}'}",
        SECRET="hunter2\x01",
    )

    assert len(found) == 6
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(
    "key",
    ["ttl: '${S}'", "max_bytes: '${S}G'", "replicas: '${S}'", "metadata: '${S}'", "storage: '${S}'", "mirror: '${S}'"],
)
def test_a_number_from_a_variable_is_not_shown(key: str):
    (found,) = problems_of(HEAD + f"buckets: {{a: {{{key}}}}}", S="8675309")

    assert "8675309" not in found
    assert "${S}" in found


def test_a_seed_among_the_trusted_publishers_is_refused_and_not_shown():
    seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
    (found,) = problems_of(
        HEAD + f"subscriptions: [{{name: s, repository: r, channel: c, directory: d, trusted_publishers: [{seed}]}}]"
    )

    assert "this is a seed, which is secret" in found
    assert seed[:10] not in found


def test_public_keys_are_checked_to_the_last_character():
    good = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
    text = HEAD + "subscriptions: [{name: s, repository: r, channel: c, directory: d, trusted_publishers: [KEY]}]"

    assert config_of(text.replace("KEY", good)).subscriptions[0].trusted_publishers == (good,)
    (found,) = problems_of(text.replace("KEY", good[:-1] + "5"))
    assert "its checksum is wrong" in found
    (found,) = problems_of(text.replace("KEY", good[:-1]))
    assert "expected 56 characters" in found


# ---- what is missing


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("{}", ["1:1: version: is missing; write version: 1", "1:1: nats: is missing"]),
        ("nats: {servers: [nats://h]}", ["1:1: version: is missing; write version: 1"]),
        ("version: 1\nnats:\n", ["2:1: nats: has no value, and it needs one"]),
        ("version:\nnats: {servers: [nats://h]}", ["1:1: version: has no value, and it needs one"]),
        (HEAD + "mappings:\n- {}", [f"4:3: mappings[0].{key}: is missing" for key in ("name", "directory", "bucket")]),
        (HEAD + "mappings:\n  -\n", [f"4:4: mappings[0].{key}: is missing" for key in ("name", "directory", "bucket")]),
        (
            HEAD + "publications: [{directory: d}]",
            [f"3:16: publications[0].{key}: is missing" for key in ("name", "repository", "channel")],
        ),
        (
            HEAD + "subscriptions: [{channel: d}]",
            [f"3:17: subscriptions[0].{key}: is missing" for key in ("name", "repository", "directory")],
        ),
        ("version: 1\nnats: {embedded: {}}", ["2:8: nats.embedded.store_dir: is missing"]),
    ],
)
def test_what_is_missing_is_told_at_what_lacks_it(text: str, problems: list[str]):
    assert problems_of(text) == problems


@pytest.mark.parametrize("version", ["2", "0", "-1"])
def test_an_unknown_version_is_the_only_problem(version: str):
    (found,) = problems_of(f"version: {version}\nsomething: else\nnats: 5")

    assert found == f"1:10: version: version {version} isn't known; this program reads version 1"


@pytest.mark.parametrize("version", ["'1'", "one", "1.0", "true", "[1]"])
def test_a_version_that_is_no_number_is_told(version: str):
    (found,) = problems_of(f"version: {version}\nnats: {{servers: [nats://h]}}")

    assert found.startswith("1:10: version: expected a whole number")


# ---- all at once


def test_all_problems_are_told_at_once_in_the_order_of_the_file():
    found = problems_of(
        "version: 1\n"
        "nats:\n"
        "  serverz: []\n"
        "  servers: [http://h, 'nats://${NOPE}']\n"
        "  user: me\n"
        "http: off\n"
        "buckets:\n"
        "  bad name: {}\n"
        "  art: {ttl: 1h, replicas: 9}\n"
        "mappings:\n"
        "  - {name: a, directory: x, bucket: art, mode: push-mirror, settle: 20s, settle: 1s}\n"
        "  - name: a\n"
        "    directory: x/y\n"
        "    mode: two-weigh\n"
        "    bucket: 12\n"
        "  - 5\n"
        "publications:\n"
        "  - {name: p, repository: art, channel: stable, directory: ., bucket: b}\n"
        "subscriptions: {}\n"
    )

    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        "3:3 nats.serverz",
        "4:13 nats.servers[0]",
        "4:23 the environment variable NOPE isn't set; set it, or write ${NOPE:-default}",
        "5:3 nats.user",
        "6:7 http",
        "8:3 buckets.bad name",
        "9:28 buckets.art.replicas",
        "11:48 mappings[0].mode",
        "11:69 mappings[0].settle",
        '11:74 the key "settle" is already given in line 11',
        "12:11 mappings[1].name",
        "13:16 mappings[1].directory",
        "14:11 mappings[1].mode",
        "15:13 mappings[1].bucket",
        "16:5 mappings[2]",
        "18:27 publications[0].repository",
        "18:63 publications[0].bucket",
        "19:16 subscriptions",
    ]


def test_one_mistake_is_told_once():
    """What would follow from a wrong value isn't told: no "one of servers and embedded is missing", no overlap."""
    text = "version: 1\nnats: {servers: [5]}\n" + MAPPING + "    prefix: bad\n"
    text += "  - {name: two, directory: two, bucket: one}\n"

    assert [line.split(": ")[1] for line in problems_of(text)] == ["nats.servers[0]", "mappings[0].prefix"]


# ---- YAML


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: the file is empty; it needs at least version and nats"),
        ("# only a comment\n", "1:1: the file is empty"),
        ("---\n...\n", "1:1: the file is empty"),
        ("- a\n- b\n", "1:1: expected keys and values, such as version: 1, got a list"),
        ("\n  just text", '2:3: expected keys and values, such as version: 1, got the text "just text"'),
        ("42", "1:1: expected keys and values, such as version: 1, got the number 42"),
        ("version: 1\nversion: 1\n", '2:1: the key "version" is already given in line 1'),
        ("version: 1\nnats:\n\tservers: []\n", "3:1: a tab is not allowed in the indentation; use spaces"),
        ("version: 1\nnats: a: b\n", '2:8: a ":" is not allowed here'),
        ("version: 1\nname: @x\n", '2:7: text can\'t begin with "@" here; put it in quotes'),
        ("version: 1\nname: `x`\n", '2:7: text can\'t begin with "`" here; put it in quotes'),
        ("version: 1\nname: %x\n", '2:7: text can\'t begin with "%" here; put it in quotes'),
        ("version: 1\nname: 'x\n", "2:7: the quotes that begin here are never closed"),
        ("version: 1\nname: [a, b\nnats: {}\n", "2:7: this list isn't closed"),
        ("version: 1\nnats: {a: b\nname: x\n", "2:7: this mapping isn't closed"),
        ('version: 1\nname: "\\q"\n', "an unknown escape in double quotes"),
        ("version: 1\nname: *x\n", "2:7: this alias (*name) has no anchor (&name) before it"),
        ("a: &x 1\nb: &x 2\n", "2:4: an anchor (&name) of this name is already there"),
        ("- a\nb: 1\n", '2:1: expected "- " here'),
        ("version: 1\n---\nversion: 1\n", "2:1: a second document begins here; the file must have only one"),
        ("version: !!int 1\n", '1:10: tags such as "!!int" are not supported'),
        ("version: !secret x\n", '1:10: tags such as "!secret" are not supported'),
        ("version: !!python/object/apply:os.system [ls]\n", "1:10: tags such as"),
        ("? [a]\n: b\n", "1:3: a key must be a single word, not a list or a mapping"),
        ("version: 1\nname: a\x07b\n", "2:8: the control character U+0007 is not allowed"),
        ("version: 1\nname: a\x00b\n", "2:8: the control character U+0000 is not allowed"),
        ("a: &a [*a]\n", "an alias here contains itself"),
        ("a: &a {b: *a}\n", "an alias here contains itself"),
        ("a: &a {<<: *a}\n", "an alias here contains itself"),
        ("<<: [1]\n", '1:6: "<<" takes an alias of a mapping, or a list of them'),
        ("a: " + "[" * 40 + "]" * 40, "1:35: nested more than 32 deep"),
        ("[" * 100_000, "nested more than 32 deep"),  # where, depends on how far libyaml looks ahead
        ("{a: " * 100_000, "nested more than 32 deep"),
    ],
)
def test_text_that_is_no_configuration_is_told_in_plain_words(text: str, problem: str):
    assert any(found.startswith(problem) or problem in found for found in problems_of(text))


def test_aliases_can_not_blow_the_file_up():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    assert problems_of("\n".join(lines)) == ["1:1: more than 100000 values, with all aliases"]


def test_merge_keys_can_not_blow_the_file_up():
    lines = ["a0: &a0 {x: {y: 1}}"]
    lines += [f"a{n}: &a{n} {{k: [{', '.join([f'{{<<: *a{n - 1}}}'] * 10)}]}}" for n in range(1, 10)]

    assert problems_of("\n".join(lines)) == ["1:1: more than 100000 values, with all aliases"]


def test_a_duplicate_key_is_told_at_every_depth():
    found = problems_of(HEAD + "http: {ready: once, ready: local}\nbuckets:\n  a: {}\n  'a': {}\n")

    assert found == ['3:21: the key "ready" is already given in line 3', '6:3: the key "a" is already given in line 5']


def test_anchors_and_merge_keys_share_settings_and_keep_their_positions():
    text = (
        HEAD + "mappings:\n"
        "  - &base {name: a, directory: a, bucket: b, prefix: a/, settle: 1s, exclude: ['*.tmp']}\n"
        "  - {<<: *base, name: c, directory: c, prefix: c/}\n"
    )
    config = config_of(text)

    assert [mapping.name for mapping in config.mappings] == ["a", "c"]
    assert config.mappings[1].settle == 1.0
    assert config.mappings[1].exclude == ("*.tmp",)
    found = problems_of(text.replace("settle: 1s", "settle: 1"))
    assert [line.split(": ")[:2] for line in found] == [["4:66", "mappings[0].settle"], ["4:66", "mappings[1].settle"]]


def test_keys_beside_a_merge_win_and_the_first_of_several_merges_too():
    text = (
        HEAD + "buckets:\n  a: &a {replicas: 1, ttl: 1s}\n  b: &b {replicas: 2, description: x}\n"
        "  c: {<<: [*a, *b], ttl: 2s}\n"
    )
    c = config_of(text).buckets["c"]

    assert (c.replicas, c.ttl, c.description) == (1, 2.0, "x")


def test_positions_count_characters_also_after_a_bom_and_with_windows_line_ends():
    with pytest.raises(ConfigError) as caught:
        loads(HEAD.replace("\n", "\r\n") + 'buckets: {a: {description: "äöü€😀", ttl: 5}}\r\n', base=BASE)

    assert [(problem.line, problem.column) for problem in caught.value.problems] == [(3, 42)]


# ---- variables


def test_a_variable_takes_the_type_that_its_key_wants():
    text = """
version: ${VERSION}
name: ${PORT}
nats: {servers: ['nats://${HOST}:${PORT}']}
http: ${HTTP}
buckets:
  ${BUCKET}: {replicas: "${COUNT}", compression: '${YES}', ttl: "${TTL}", max_bytes: "${SIZE}"}
mappings:
  - name: a
    directory: ${DIR}
    bucket: ${BUCKET}
    mode: ${MODE}
    watch: ${HTTP}
    max_delete: ${COUNT}
    prefix: ${NONE:-}
    file_mode: ${FILE_MODE}
    transfers: ${NONE:-4}
"""
    environ = {
        "VERSION": "1",
        "PORT": "4222",
        "HOST": "h",
        "HTTP": "false",
        "BUCKET": "2024",
        "COUNT": "3",
        "YES": "true",
    }
    config = config_of(text, TTL="1h", SIZE="1024", DIR="/d", MODE="push-safe", FILE_MODE="0640", **environ)

    assert config.name == "4222"
    assert type(config.name) is str
    assert config.nats.servers == ("nats://h:4222",)
    assert config.http is None
    bucket = config.buckets["2024"]
    assert (bucket.replicas, bucket.compression, bucket.ttl, bucket.max_bytes) == (3, True, 3600.0, 1024)
    (mapping,) = config.mappings
    assert (mapping.directory, mapping.bucket, mapping.mode) == (Path("/d"), "2024", Mode.PUSH_SAFE)
    assert (mapping.watch, mapping.max_delete, mapping.prefix) == (False, DeleteLimit(count=3), "")
    assert (mapping.file_mode, mapping.transfers) == (0o640, 4)


def test_an_empty_variable_without_quotes_is_no_value():
    text = HEAD + MAPPING + "    settle: ${SETTLE:-}\n    exclude: ${EXCLUDE:-}\n"

    assert config_of(text) == config_of(HEAD + MAPPING)
    (found,) = problems_of((HEAD + MAPPING).replace("bucket: one", "bucket: ${BUCKET:-}"))
    assert found == "6:5: mappings[0].bucket: has no value, and it needs one"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: ${NOPE}", "3:7: the environment variable NOPE isn't set"),
        ("name: ${}", '3:7: a "${" that isn\'t ${NAME} or ${NAME:-default}'),
        ("buckets:\n  ${NOPE}: {}", "4:3: the environment variable NOPE isn't set"),
        ("http: {listen: '127.0.0.1:${NOPE}'}", "3:16: the environment variable NOPE isn't set"),
        ("buckets: {a: {replicas: '${THREE}0'}}", "write it in plain decimal digits, without quotes"),
        ("buckets: {a: {compression: ' ${TRUE}'}}", "write it without quotes"),
        ("buckets: {a: {replicas: '${NINE}'}}", '3:25: buckets.a.replicas: "${NINE}" is out of range'),
        ("log: {level: '${NINE}'}", 'got the text "${NINE}"'),
        ("http: {listen: ${A}}", 'within {...} and [...] a variable needs quotes: "${NAME}"'),
        ("buckets: {a: {}, '${A}': {}}", '3:18: the key "a" is already given in line 3'),
    ],
)
def test_a_wrong_variable_is_told_with_its_place(text: str, problem: str):
    (found,) = problems_of(HEAD + text, THREE="3", TRUE="true", NINE="9", A="a")

    assert problem in found


def test_a_variable_can_not_add_keys():
    config = config_of(HEAD + "buckets: {a: {description: '${EVIL}'}}", EVIL="x, replicas: 5}\nname: evil")

    assert config.buckets["a"].description == "x, replicas: 5}\nname: evil"
    assert config.buckets["a"].replicas == 1


def test_an_escaped_reference_is_text():
    text = HEAD + "subscriptions: [{name: s, repository: r, channel: c, directory: d, after: ['echo $${X}']}]"

    assert config_of(text).subscriptions[0].after == ("echo ${X}",)


# ---- the file


def test_load_reads_a_file_and_takes_relative_paths_from_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "conf").mkdir()
    file = tmp_path / "conf" / "c.yaml"
    file.write_text("\ufeff" + HEAD + MAPPING + "state_dir: ../state\n")
    monkeypatch.chdir(tmp_path)

    for path in (file, Path("conf/c.yaml")):
        config = load(path, environ={})
        assert config.mappings[0].directory == tmp_path / "conf" / "one"
        assert config.state_dir == tmp_path / "state"


def test_a_linked_file_takes_relative_paths_from_where_it_is_named(tmp_path: Path):
    """A Kubernetes ConfigMap mounts config.yaml -> ..data/config.yaml -> a directory that changes."""
    (tmp_path / "..2024").mkdir()
    (tmp_path / "..2024" / "c.yaml").write_text(HEAD + MAPPING)
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "c.yaml").symlink_to("..data/c.yaml")

    assert load(tmp_path / "c.yaml").mappings[0].directory == tmp_path / "one"


def test_without_a_path_config_yaml_of_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(HEAD + "name: found\n")

    assert load(None).name == "found"


def test_without_any_file_the_error_says_where_was_looked(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"looked for .*/a.yaml and .*/b.yaml; name one with -c FILE"):
        find((tmp_path / "a.yaml", tmp_path / "b.yaml"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version: 1\nname: caf\xe9\n", ":2:10: byte 0xe9 isn't UTF-8"),
        ("version: 1".encode("utf-16"), ":1:1: the file is UTF-16; save it as UTF-8"),
        (b"x" * (MAX_BYTES + 1), ": the file is larger than 4 MiB"),
        (b"", ":1:1: the file is empty"),
    ],
)
def test_a_file_that_is_no_text_is_told(tmp_path: Path, content: bytes, problem: str):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file)

    assert str(caught.value).startswith(f"{file}{problem}")


def test_a_file_that_is_missing_or_a_directory_or_unreadable_is_told(tmp_path: Path):
    for path, problem in (
        (tmp_path / "nothing.yaml", "the file doesn't exist"),
        (tmp_path, "this is a directory; name the file in it"),
        (tmp_path / "nothing" / "c.yaml", "the file doesn't exist"),
        (Path("x" * 300), "File name too long"),
        (Path("a\0b"), "can't read the file"),
    ):
        with pytest.raises(ConfigError, match=problem) as caught:
            load(path)
        assert len(caught.value.problems) == 1
        assert caught.value.problems[0].line == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text(HEAD)
    file.chmod(0)
    with pytest.raises(ConfigError, match="no permission to read the file"):
        load(file)


# ---- values from a program


def test_from_dict_has_the_same_rules_and_no_positions():
    values: dict[str, Any] = {"version": 1, "nats": {"servers": ["nats://h"]}, "mappings": [{"name": "a"}]}
    with pytest.raises(ConfigError) as caught:
        from_dict(values, base=BASE, file="demo")

    assert [str(problem) for problem in caught.value.problems] == [
        "demo: mappings[0].directory: is missing",
        "demo: mappings[0].bucket: is missing",
    ]
    values["mappings"] = [{"name": "a", "directory": "x", "bucket": "b", "settle": "0s"}]
    assert from_dict(values, base=BASE).mappings[0].directory == BASE / "x"


# ---- check_files


def test_files_with_secrets_are_looked_at_only_when_asked(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "version: 1\nnats:\n  servers: [nats://h]\n  user: me\n  password_file: pw\n  tls: {ca_file: ca.pem}\n"
        "publications:\n  - {name: p, directory: d, repository: r, channel: c, sign_with: dir}\n"
    )
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "dir").mkdir()
    loaded = read(file)

    assert [str(problem) for problem in check_files(loaded.config, loaded)] == [
        f"{file}:5:18: nats.password_file: {tmp_path}/pw doesn't exist",
        f"{file}:6:18: nats.tls.ca_file: {tmp_path}/ca.pem is empty",
        f"{file}:8:67: publications[0].sign_with: {tmp_path}/dir is a directory, not a file",
    ]
    assert [problem.line for problem in check_files(loaded.config)] == [0, 0, 0]
    (tmp_path / "pw").write_text("secret")
    (tmp_path / "ca.pem").write_text("pem")
    (tmp_path / "dir").rmdir()
    (tmp_path / "dir").write_text("SU...")
    assert check_files(loaded.config, loaded) == []


# ---- anything at all


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_configuration_error(text: str):
    text = text.encode("utf-8", "ignore").decode()
    with pytest.raises(ConfigError) as caught:
        loads(text, base=BASE, environ={})

    assert caught.value.problems


def _models() -> Iterator[type[Section]]:
    found: list[type[Section]] = [Config]
    for model in found:
        yield model
        found += [inner for inner, _ in sections_of(model).values() if inner not in found]


_KEYS = st.sampled_from([*(key for model in _models() for key in model.model_fields), "<<"])
_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | _KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(max_size=4), inner, max_size=6),
    max_leaves=30,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_KEYS, _JUNK, max_size=8), st.booleans())
def test_any_values_are_a_configuration_or_a_configuration_error(values: dict[str, Any], good_head: bool):
    if good_head:
        values |= {"version": 1, "nats": {"servers": ["nats://h"]}}
    problems: Sequence[ConfigProblem] = ()
    try:
        from_dict(values, base=BASE)
    except ConfigError as error:
        problems = error.problems

    assert not any("Input should" in problem.message for problem in problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state_dir: ./state\nnonsense: 1\n", "{here}/state"),
        ("state_dir: ${WHERE}/../x\n", "/y/x"),
        ("nonsense: 1\n", "/var/lib/jetsync"),
        ("state_dir: 5\n", ""),
        ("state_dir: [\n", ""),
        ("", ""),
    ],
)
def test_where_the_state_is_can_be_told_of_a_file_that_is_wrong(tmp_path: Path, text: str, expected: str):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    found = state_dir_of(path, environ={"WHERE": "/y/z"})

    assert found == (Path(expected.format(here=tmp_path)) if expected else None)
    assert state_dir_of(tmp_path / "nowhere") is None


def test_the_digest_is_that_of_the_file(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(HEAD)

    assert read(path).digest == hashlib.sha256(HEAD.encode()).hexdigest()
