"""The meta codec: what other clients write is read, what we don't know is kept, and nothing hostile gets through."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadMetaError
from agent.objectstore.meta import MAX_META, Link, ObjectInfo, decode, digest_text, encode, marker
from agent.objectstore.subjects import is_nuid, meta_subject

DIGEST = bytes(range(32))
GO = (
    b'{"name":"a/b","description":"d","headers":{"X":["1","2"]},"metadata":{"k":"v"},'
    b'"options":{"max_chunk_size":131072},"bucket":"b","nuid":"CkuyLEX4z2hbyjj1aWCfiH","size":344000,'
    b'"mtime":"0001-01-01T00:00:00Z","chunks":3,"digest":"SHA-256=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}'
)
FULL = ObjectInfo(
    bucket="b",
    name="a/b",
    nuid="CkuyLEX4z2hbyjj1aWCfiH",
    size=344000,
    chunks=3,
    digest=DIGEST,
    description="d",
    headers={"X": ["1", "2"]},
    metadata={"k": "v"},
    max_chunk_size=131072,
)


def read(document: object, **known: object) -> ObjectInfo:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    return decode(payload, bucket="b", **known)  # type: ignore[arg-type]


def test_a_meta_of_the_go_client_is_read_whole():
    assert read(GO, revision=7, time_ns=9) == replace(FULL, revision=7, time_ns=9)


def test_what_is_written_is_byte_for_byte_what_the_go_client_writes():
    assert encode(FULL) == GO


def test_a_marker_has_no_mtime_since_go_cannot_parse_an_empty_one_and_has_a_nuid_since_go_wants_one():
    document = json.loads(encode(marker(FULL, nuid="N1")))

    assert document == {"name": "a/b", "bucket": "b", "nuid": "N1", "size": 0, "chunks": 0, "deleted": True}


def test_a_link_and_a_bucket_link_come_back_as_they_were():
    link = ObjectInfo("b", "l", "N", link=Link("other", "target"))
    bucket_link = ObjectInfo("b", "l", "N", link=Link("other"))

    assert decode(encode(link), bucket="b") == link
    assert decode(encode(bucket_link), bucket="b") == bucket_link
    assert "name" not in json.loads(encode(bucket_link))["options"]["link"]


def test_unknown_fields_survive_at_the_top_and_in_the_options():
    document = json.loads(GO) | {"future": {"a": [1, None]}, "options": {"max_chunk_size": 5, "codec": "zstd"}}
    again = json.loads(encode(replace(read(document), description="changed")))

    assert again == document | {"description": "changed"}


def test_the_bucket_is_the_one_that_was_asked_not_the_one_in_the_json():
    assert decode(GO, bucket="mirror").bucket == "mirror"


def test_a_mtime_that_another_client_has_stored_is_not_needed_and_not_kept():
    for mtime in ("", "2024-01-01T00:00:00Z", 12, None):
        assert read(json.loads(GO) | {"mtime": mtime}) == FULL


def test_null_is_absent():
    document = json.loads(GO) | {"description": None, "headers": None, "metadata": None, "options": None}
    document["deleted"] = None

    assert read(document) == replace(FULL, description="", headers={}, metadata={}, max_chunk_size=0)


def test_a_lone_surrogate_becomes_the_replacement_character_as_in_go():
    info = read(b'{"name":"n","metadata":{"k":"a\\ud800b","e":"\\ud83d\\ude00"},"size":0,"chunks":0}')

    assert info.metadata == {"k": "a�b", "e": "\N{GRINNING FACE}"}
    assert decode(encode(info), bucket="b") == info


BAD = {
    "an empty body": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"name":"\xff"}',
    "UTF-16": '{"name":"n"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"name":"n"}',
    "an array": b"[]",
    "a number of 5000 digits": b'{"name":"n","size":' + b"9" * 5000 + b"}",
    "nesting without end": b'{"name":"n","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a megabyte": b'{"name":"n","description":"' + b"x" * MAX_META + b'"}',
    "NaN": b'{"name":"n","size":NaN}',
    "no name": {"size": 0},
    "an empty name": {"name": ""},
    "a name that is a list": {"name": ["n"]},
    "a negative size": {"name": "n", "size": -1, "chunks": 1, "nuid": "N"},
    "a size that is a float": {"name": "n", "size": 1.0, "chunks": 1, "nuid": "N"},
    "a size that is true": {"name": "n", "size": True, "chunks": 1, "nuid": "N"},
    "a size over 63 bits": {"name": "n", "size": 1 << 63, "chunks": 1, "nuid": "N"},
    "chunks over 32 bits": {"name": "n", "size": 1 << 40, "chunks": 1 << 32, "nuid": "N"},
    "bytes without chunks": {"name": "n", "size": 1, "chunks": 0, "nuid": "N"},
    "chunks without bytes": {"name": "n", "size": 0, "chunks": 1, "nuid": "N"},
    "more chunks than bytes": {"name": "n", "size": 1, "chunks": 2, "nuid": "N"},
    "chunks without a nuid": {"name": "n", "size": 1, "chunks": 1},
    "a nuid that matches everything": {"name": "n", "size": 1, "chunks": 1, "nuid": ">"},
    "a nuid that is a pattern": {"name": "n", "size": 1, "chunks": 1, "nuid": "*"},
    "a nuid of two tokens": {"name": "n", "size": 1, "chunks": 1, "nuid": "a.b"},
    "a nuid with a line end": {"name": "n", "size": 1, "chunks": 1, "nuid": "a\r\nPUB x 0"},
    "a header that is a string": {"name": "n", "headers": {"A": "b"}},
    "headers that are a list": {"name": "n", "headers": ["a"]},
    "headers that are false": {"name": "n", "headers": False},
    "metadata with a number": {"name": "n", "metadata": {"a": 1}},
    "metadata that is a string": {"name": "n", "metadata": "a"},
    "a digest of another kind": {"name": "n", "digest": "MD5=AAAA"},
    "a digest that is not base64": {"name": "n", "digest": "SHA-256=!!!!"},
    "a short digest": {"name": "n", "digest": "SHA-256=AAAA"},
    "a digest that is a number": {"name": "n", "digest": 1},
    "deleted that is a string": {"name": "n", "deleted": "yes"},
    "a link that is a string": {"name": "n", "options": {"link": "x"}},
    "a link without a bucket": {"name": "n", "options": {"link": {"name": "x"}}},
    "a link to a list": {"name": "n", "options": {"link": {"bucket": "b", "name": []}}},
    "options that are a string": {"name": "n", "options": "x"},
    "a description that is an object": {"name": "n", "description": {}},
}


@pytest.mark.parametrize("what", BAD)
def test_a_hostile_meta_is_bad_meta_and_nothing_else(what: str):
    with pytest.raises(BadMetaError):
        read(BAD[what])


def test_a_meta_under_the_subject_of_another_name_is_bad():
    with pytest.raises(BadMetaError, match="subject"):
        read(GO, subject=meta_subject("b", "other"))

    assert read(GO, subject=meta_subject("b", "a/b")).name == "a/b"


@pytest.mark.parametrize("token", ["", "%%%%", "YQ", "YQ=", "/w==", "_w=="])
def test_a_subject_that_is_no_name_is_bad(token: str):
    with pytest.raises(BadMetaError):
        read(b'{"name":"a"}', subject=f"$O.b.M.{token}")


def test_both_base64_alphabets_are_read_and_the_url_safe_one_is_written():
    digest = b"\xfb\xff" * 16
    text = digest_text(digest)

    assert "-" in text
    assert read({"name": "n", "digest": text}).digest == digest
    assert read({"name": "n", "digest": "SHA-256=" + text[8:].replace("-", "+").replace("_", "/")}).digest == digest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = ["name", "description", "headers", "metadata", "options", "bucket", "nuid", "size", "chunks", "digest",
          "deleted", "link", "max_chunk_size", "mtime"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(fields), json_values, max_size=6))
def test_whatever_json_comes_it_is_an_info_that_can_be_written_again_or_bad_meta(document: dict[str, object]):
    try:
        info = read(json.dumps({"name": "n", **document}).encode())
    except BadMetaError:
        return
    assert info.size >= 0 and info.chunks >= 0 and len(info.digest) in (0, 32)
    assert not info.nuid or is_nuid(info.nuid)
    assert decode(encode(info), bucket="b") == info


@given(st.binary(max_size=200))
def test_whatever_bytes_come_it_is_bad_meta(payload: bytes):
    with pytest.raises(BadMetaError):
        decode(payload, bucket="b", name="n")


names = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())


@given(
    st.builds(
        ObjectInfo,
        bucket=st.just("b"),
        name=names,
        nuid=st.just("N1"),
        size=st.just(10),
        chunks=st.just(1),
        digest=st.binary(min_size=32, max_size=32),
        description=names,
        headers=st.dictionaries(names, st.lists(names), max_size=3),
        metadata=st.dictionaries(names, names, max_size=3),
        max_chunk_size=st.integers(0, 2**31),
    )
)
def test_what_is_written_is_read_back(info: ObjectInfo):
    assert decode(encode(info), bucket="b", subject=meta_subject("b", info.name)) == info
