"""Subjects, error codes and times: the small tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import (
    BadMetaError,
    BucketError,
    BucketNameError,
    BucketNotFoundError,
    JetsyncError,
    NotAllowedError,
    ObjectNameError,
    ObjectNotFoundError,
    RevisionError,
    SealedError,
    StoreFullError,
    StoreUnavailableError,
)
from agent.objectstore import subjects
from agent.objectstore.commit import refused
from agent.objectstore.connection import parse_version
from agent.objectstore.errors_map import NotSentError, error_of
from agent.objectstore.times import parse_time_ns


@given(st.text(min_size=1, max_size=500).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_a_name_comes_back_from_its_subject(name: str):
    assert subjects.name_of(subjects.meta_subject("b", name)) == name


def test_the_subject_is_the_one_of_the_other_clients():
    assert subjects.meta_subject("b", "dirü/ file.txt") == "$O.b.M.ZGlyw7wvIGZpbGUudHh0"
    assert subjects.meta_subject("b", "a") == "$O.b.M.YQ=="


@pytest.mark.parametrize("name", ["", "x" * 2049, "ü" * 1025, "\udcff"])
def test_a_name_that_would_close_the_connection_is_refused_before_any_request(name: str):
    with pytest.raises(ObjectNameError):
        subjects.meta_subject("b", name)


def test_the_longest_name_fits_into_a_control_line():
    assert len(subjects.meta_subject("x" * 240, "n" * subjects.MAX_NAME)) <= 3000


@pytest.mark.parametrize("bucket", ["", "a.b", "a b", "a*", ">", "a/b", "ü", "a\n", "x" * 241])
def test_a_bucket_name_that_is_none_is_refused(bucket: str):
    with pytest.raises(BucketNameError):
        subjects.check_bucket_name(bucket)


@pytest.mark.parametrize("nuid", ["", ">", "*", "a.b", "a b", "a\n", "ü", "x" * 129])
def test_a_nuid_that_is_no_single_token_never_becomes_a_purge_filter(nuid: str):
    with pytest.raises(BadMetaError):
        subjects.chunk_subject("b", nuid)


def test_nuids_are_22_characters_and_all_different():
    made = {subjects.new_nuid() for _ in range(1000)}

    assert len(made) == 1000
    assert {len(nuid) for nuid in made} == {22}
    assert all(nuid.isalnum() and nuid.isascii() for nuid in made)


CODES = {
    10071: RevisionError,
    10164: RevisionError,
    10037: ObjectNotFoundError,
    10059: BucketNotFoundError,
    10109: SealedError,
    10077: StoreFullError,
    10047: StoreFullError,
    10039: NotAllowedError,
    10076: NotAllowedError,
    10167: StoreUnavailableError,
    10008: StoreUnavailableError,
    10052: BucketError,
}


@pytest.mark.parametrize(("code", "kind"), CODES.items())
def test_a_servers_error_goes_by_its_code(code: int, kind: type[JetsyncError]):
    error = error_of({"code": 503, "err_code": code, "description": "whatever"}, what="test") if code == 10077 else (
        error_of({"code": 400, "err_code": code, "description": "whatever"}, what="test")
    )  # fmt: skip

    assert type(error) is kind
    assert "test" in error.message and str(code) in error.message


def test_the_losing_writer_is_told_the_current_revision():
    error = error_of({"code": 400, "err_code": 10071, "description": "wrong last sequence: 41"}, what="test")

    assert isinstance(error, RevisionError)
    assert error.actual == 41


@pytest.mark.parametrize("error", [{}, {"code": "x", "err_code": "y", "description": 5}, {"code": 999}])
def test_an_error_that_nobody_knows_is_still_an_error(error: dict[str, object]):
    assert isinstance(error_of(error, what="test"), BucketError)


def test_only_a_definite_refusal_counts_as_one():
    assert refused(NotSentError("never sent"))
    assert refused(RevisionError("lost"))
    assert refused(SealedError("sealed"))
    assert not refused(StoreUnavailableError("time-out"))
    assert not refused(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2024-02-29T12:00:00.123456789Z", 1_709_208_000_123_456_789),
        ("2024-02-29T13:00:00.5+01:00", 1_709_208_000_500_000_000),
        ("", 0),
        ("yesterday", 0),
    ],
)
def test_server_times_keep_their_nanoseconds(text: str, ns: int):
    assert parse_time_ns(text) == ns


def test_versions_are_numbers():
    assert parse_version("2.15.1-RC.2") == (2, 15, 1)
    assert parse_version("") == (0, 0, 0)
