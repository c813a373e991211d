"""Channel records: canonical, and none that is old, foreign or made up is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core import channels
from agent.core.channels import Accepted, Record
from agent.errors import ChannelError

DIGEST = "ab" * 32
ID = "20260102T030405Z-abababababab"
RECORD = Record("artifacts", "stable", ID, DIGEST, 3, "2026-01-02T03:04:05Z", "20250102T030405Z-000000000000")


def test_a_record_is_read_back():
    assert channels.parse(RECORD.encode()) == RECORD
    assert channels.of_metadata({channels.RECORD: RECORD.encode()}) == RECORD
    assert channels.of_metadata({}) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        " " + RECORD.encode(),
        RECORD.encode().replace('"counter":3', '"counter":true'),
        RECORD.encode().replace('"counter":3', '"counter":0'),
        RECORD.encode().replace('"counter":3', f'"counter":{1 << 64}'),
        RECORD.encode().replace('"stable"', "7"),
        RECORD.encode().replace('"stable"', '"stable","more":1'),
        replace(RECORD, snapshot="latest").encode(),
        replace(RECORD, previous="latest").encode(),
        replace(RECORD, manifest="cd" * 32).encode(),
        replace(RECORD, manifest="abababababab").encode(),
    ],
)
def test_what_is_no_record_is_refused(text: str):
    with pytest.raises(ChannelError):
        channels.parse(text)


@pytest.mark.parametrize(
    "foreign",
    [
        replace(RECORD, repository="others"),
        replace(RECORD, channel="beta"),
        replace(RECORD, snapshot="20260102T030406Z-abababababab"),
    ],
)
def test_a_record_of_another_place_is_refused(foreign: Record):
    with pytest.raises(ChannelError):
        channels.check_place(foreign, repository="artifacts", channel="stable", snapshot=ID)


def test_an_old_record_is_not_taken_again():
    channels.check_order(RECORD, Accepted())
    channels.check_order(RECORD, Accepted(2, "x"))
    channels.check_order(RECORD, Accepted(3, ID))
    for accepted in (Accepted(3, "20260102T030406Z-abababababab"), Accepted(4, ID)):
        with pytest.raises(ChannelError, match="played again"):
            channels.check_order(RECORD, accepted)


def test_the_counter_rises_above_all_that_is_known():
    assert channels.next_counter(None) == 1
    assert channels.next_counter(RECORD) == 4
    assert channels.next_counter(RECORD, 9) == 10
    assert channels.next_counter(RECORD, 9, revision=20) == channels.next_counter(None, revision=20) == 21


def test_signatures_of_records_and_manifests_are_over_different_bytes():
    assert channels.signed_record("x") != channels.signed_manifest(b"x")
