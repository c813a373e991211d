"""Whatever stands in a bucket: the codec, the name rules and the follower give a value or a reason, and no more."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.config.model import Nats
from agent.core import names
from agent.core.entries import Entry, Obstacle
from agent.core.filters import Filters
from agent.errors import BadMetaError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, MetaMessage
from agent.objectstore import meta as codec
from agent.objectstore.subjects import chunk_subject, is_nuid, meta_subject, name_of, new_nuid
from agent.sync.remote import Outsider, Scope, place

# -- values that somebody may write ------------------------------------------------------------------------------------

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 80), 1 << 80)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["", ">", "*", "a.b", "a b", "\n", "\x1b[31m", "\ud800", "SHA-256=", "SHA-256=AAAA", "9" * 400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DIGEST = "SHA-256=" + base64.urlsafe_b64encode(bytes(32)).decode()
counts = st.integers(-3, 3) | st.sampled_from([1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63)]) | junk
times = st.sampled_from(
    [
        "0000-00-00T00:00:00Z",
        "0001-01-01T00:00:00.000000000Z",
        "9999-12-31T23:59:59.999999999Z",
        "99999-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
        "2020-01-01T00:00:60Z",
        "٢٠٢٠-٠١-٠١T٠٠:٠٠:٠٠Z",
        "2020-01-01T00:00:00Z\n",
        "2020-01-01",
        "",
    ]
)
metadata = st.dictionaries(
    st.sampled_from(["jetsync.mode", "jetsync.mtime", "jetsync.kind", "jetsync.digest", "jetsync.size", "x"]),
    times
    | st.text(max_size=10)
    | st.sampled_from(["755", "777", "-1", "directory", "9" * 30, "²", "SHA-256=é", "0" * 64, DIGEST]),
    max_size=6,
)
components = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        ".jetsync",
        ".JETSYNC",
        ".jet\u017fync",
        ".jet\u200dsync",
        "\\",
        "\0",
        "x" * 300,
        "é",
        "\ud800",
    ]
)
hostile_names = st.lists(components, min_size=1, max_size=5).map("/".join) | st.text(max_size=40)
documents = st.fixed_dictionaries(
    {},
    optional={
        "name": hostile_names | junk,
        "bucket": junk,
        "nuid": st.text(string.ascii_letters, min_size=1, max_size=22) | junk,
        "size": counts,
        "chunks": counts,
        "digest": st.just(DIGEST) | junk,
        "deleted": st.booleans() | junk,
        "metadata": metadata | junk,
        "headers": st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=5))) | junk,
        "options": st.fixed_dictionaries(
            {},
            optional={
                "link": st.fixed_dictionaries({"bucket": st.text(max_size=8) | junk}, optional={"name": hostile_names})
                | junk,
                "max_chunk_size": counts,
            },
        )
        | junk,
        "mtime": times | junk,
        "extra": junk,
    },
)
payloads = documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=60)
scopes = st.builds(
    Scope,
    bucket=st.just("b"),
    prefix=st.sampled_from(["", "p/"]),
    pulls_only=st.booleans(),
    symlinks=st.sampled_from(["skip", "link", "follow"]),
    max_size=st.sampled_from([None, 10]),
    empty_directories=st.booleans(),
    repository=st.booleans(),
    filters=st.just(Filters()),
)


def _with_name(document: dict[str, Any], name: str) -> bytes:
    return json.dumps({**document, "name": name}).encode()


def message_of(payload: bytes, name: str) -> MetaMessage:
    """As the follower makes it."""
    try:
        return MetaMessage(7, 0, name, codec.decode(payload, bucket="b", name=name, revision=7))
    except BadMetaError as error:
        return MetaMessage(7, 0, name, None, error, nuid=codec.salvaged_nuid(payload))


# -- the codec ---------------------------------------------------------------------------------------------------------


@given(payloads)
@example(b"[" * 200_000)
@example(b'{"a":' * 100_000)
@example(b'{"name":"a","size":' + b"9" * 5000 + b"}")
@example(b"\xff\xfe")
@example(b'{"name":"a","size":1e400,"chunks":-0.0}')
@example(b'{"name":"a","nuid":NaN}')
def test_a_meta_is_decoded_into_fields_in_range_or_refused_and_never_anything_else(payload: bytes):
    try:
        info = codec.decode(payload, bucket="b")
    except BadMetaError:
        nuid = codec.salvaged_nuid(payload)
        assert nuid == "" or is_nuid(nuid)
        return

    assert info.bucket == "b"
    assert info.nuid == "" or is_nuid(info.nuid)
    assert 0 <= info.size < 1 << 63
    assert 0 <= info.chunks < 1 << 32
    assert len(info.digest) in (0, 32)
    again = codec.decode(codec.encode(info), bucket="b")
    assert (again.name, again.nuid, again.size, again.chunks) == (info.name, info.nuid, info.size, info.chunks)


@given(documents, hostile_names.filter(bool), scopes)
def test_whatever_a_meta_says_it_becomes_a_safe_path_or_an_outsider(document: dict[str, Any], name: str, scope: Scope):
    name = scope.prefix + name.encode("utf-8", "replace").decode()
    placed = place(message_of(_with_name(document, name), name), scope)

    if isinstance(placed, Outsider):
        assert placed.nuid == "" or is_nuid(placed.nuid)
        return
    path, remote = placed
    assert name == scope.prefix + path
    assert not path.startswith("/")
    assert not {"..", ".", ""}.intersection(path.removesuffix("/").split("/"))
    assert not any(names.reserved_name(part, directory=True) for part in path.split("/") if part)
    assert "\0" not in path
    side = remote.side
    if isinstance(side, Entry) and side.target:
        assert names.problem_of(side.target) is None
        assert not names.reserved(side.target)
    if isinstance(side, Obstacle) and not side.reason.skipped:
        assert side.detail


# -- names in subjects -------------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=100))
def test_a_name_comes_back_from_its_subject(name: str):
    name = name.encode("utf-8", "replace").decode()
    assert name_of(meta_subject("b", name)) == name


@given(st.text(string.ascii_letters + string.digits + "+/-_=", min_size=1, max_size=12))
@example("YR==")
@example("YQ")
@example("YQ==YQ==")
@example("Pz8/")
def test_no_two_subjects_have_one_name(token: str):
    try:
        name = name_of(f"$O.b.M.{token}")
    except BadMetaError:
        return
    assert meta_subject("b", name) == f"$O.b.M.{token}"


def test_a_subject_of_more_tokens_has_no_name():
    """Its last token alone would be the name of another object."""
    with pytest.raises(BadMetaError):
        name_of("$O.b.M.evil.YQ==")


@given(
    st.text(max_size=30) | st.sampled_from([">", "*", "a.>", "a.*", "a b", "a\tb", "a\r\nPUB x", "", "é", "a" * 129])
)
def test_a_nuid_is_one_literal_token_or_no_subject_at_all(nuid: str):
    try:
        subject = chunk_subject("b", nuid)
    except BadMetaError:
        return
    assert subject == f"$O.b.C.{nuid}"
    assert len(subject.split(".")) == 4
    assert not set(nuid) & set(">* \t\r\n.")
    assert nuid.isascii()


# -- our control directory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        ".jetsync",
        ".JetSync",
        ".JETSYNC",
        ".jet\u017fync",  # long s
        ".jet\u200dsync",  # characters that case-insensitive file systems leave out when they compare
        ".jets\u00adync",
        "\ufeff.jetsync",
        ".jetsync\ufe0f",
    ],
)
def test_every_spelling_that_a_file_system_takes_for_our_control_directory_is_reserved(name: str):
    assert names.reserved_name(name, directory=True)
    assert names.reserved(f"{name}/root.json")
    assert names.reserved(f"a/{name}/trash/x")
    assert names.reserved(name)


@pytest.mark.parametrize("name", [".jetsync2", "jetsync", ".jet sync", ".jétsync", "x.jetsync", "e\u0301", "\u200d"])
def test_other_names_are_not_reserved(name: str):
    assert not names.reserved_name(name, directory=True)


# -- the follower ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def bucket(nats_url: str, bucket_name: str) -> AsyncIterator[Bucket]:
    async with await Connection.open(Nats(servers=(nats_url,)), name="test") as connection:
        yield await Buckets(connection).create(bucket_name, BucketSpec())


async def publish(bucket: Bucket, token: str, payload: bytes) -> None:
    await bucket.connection.request(f"$O.{bucket.name}.M.{token}", payload, headers={"Nats-Rollup": "sub"})


async def test_metas_under_odd_subjects_are_told_each_by_itself_and_hide_no_object(bucket: Bucket):
    good = await bucket.put("a", b"good")
    bad = codec.encode(good)
    for token in ("evil.YQ==", "YR==", "YQ", "!", "x.y.z"):
        await publish(bucket, token, bad)

    seen: dict[str, MetaMessage] = {}
    async with aclosing(bucket.follow()) as batches:
        caught_up = False
        while not caught_up:
            batch = await anext(batches)
            caught_up = batch.caught_up
            seen |= {message.key: message for message in batch.metas}

    assert seen["a"].info is not None
    assert seen["a"].info.revision == good.revision
    assert len(seen) == 6 == await bucket.names_count()
    assert [message.name for message in seen.values() if message.info is None] == [""] * 5
    assert [info.name for info in await bucket.list()] == ["a"]


async def test_a_meta_of_a_megabyte_is_read_or_refused_and_the_next_one_comes(bucket: Bucket):
    size = bucket.connection.max_payload - 1000
    nuid = new_nuid()
    await publish(bucket, "YQ==", b'{"name":"a","nuid":"%s","x":"' % nuid.encode() + b"x" * (size - 100) + b'"}')
    await publish(bucket, "Yg==", b'{"a":' * (size // 5))
    await publish(bucket, "Yw==", b"[" * size)
    await bucket.put("good", b"good")

    bad: list[MetaMessage] = []
    objects = await bucket.list(on_bad=bad.append)

    assert {info.name for info in objects} >= {"good"}
    assert {message.name for message in bad} >= {"b", "c"}
