"""Durations, sizes and shares: what is read, what is refused, and that what is written reads back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.units import (
    DURATION_PATTERN,
    MAX_DURATION,
    MAX_SIZE,
    SHARE_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("200ms", 0.2),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("1d12h30m15s500ms", 131415.5),
        ("10us", 0.00001),
        ("1ns", 1e-9),
        ("36500d", MAX_DURATION),
    ],
)
def test_a_duration_is_read(text: str, seconds: float):
    assert parse_duration(text) == seconds
    assert re.search(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("30", "needs a unit: write 30s"),
        ("1_000", "needs a unit"),
        ("0.5", "needs a unit: write 0.5s"),
        ("-5s", "can't be negative"),
        ("-5", "can't be negative"),
        ("", "not a duration"),
        ("s", "not a duration"),
        ("5 s", "not a duration"),
        ("5 parsecs", "not a duration"),
        ("5S", "not a duration"),
        ("1m1m", "each unit once"),
        ("30m1h", "the largest first"),
        ("1e3s", "not a duration"),
        ("12:30:00", "not a duration"),
        ("0.5ns", "finer than a nanosecond"),
        ("36501d", "100 years"),
        ("999999999999999999w", "100 years"),
        ("٣s", "not a duration"),
        ("5s\n", "not a duration"),
    ],
)
def test_a_wrong_duration_is_refused_with_a_hint(text: str, hint: str):
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1500", 1500),
        ("1B", 1),
        ("10KiB", 10240),
        ("10Ki", 10240),
        ("10KB", 10000),
        ("10kB", 10000),
        ("1.5GiB", 3 * 2**29),
        ("10GiB", 10 * 2**30),
        ("10Gi", 10 * 2**30),
        ("10GB", 10 * 10**9),
        ("2TiB", 2 * 2**40),
        ("1Pi", 2**50),
        ("9223372036854775807", MAX_SIZE),
    ],
)
def test_a_size_is_read(text: str, size: int):
    assert parse_size(text) == size
    assert re.search(SIZE_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10G", "write 10GiB (1024s) or 10GB (1000s)"),
        ("10M", "write 10MiB (1024s) or 10MB (1000s)"),
        ("1.5k", "write 1.5KiB"),
        ("10gib", "did you mean 10GiB?"),
        ("10GIB", "did you mean 10GiB?"),
        ("10MiB/s", 'without "/s": 10MiB'),
        ("0.1KiB", "whole number of bytes"),
        ("-1", "can't be negative"),
        ("-1GiB", "can't be negative"),
        ("", "not a size"),
        ("GiB", "not a size"),
        ("10 GiB", "not a size"),
        ("ten", "not a size"),
        ("1_000", "not a size"),
        ("8192PiB", "larger than"),
        ("9223372036854775808", "larger than"),
        ("99999999999999999999", "not a size"),
    ],
)
def test_a_wrong_size_is_refused_with_a_hint(text: str, hint: str):
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse_size(text)


@pytest.mark.parametrize(("text", "share"), [("0%", 0.0), ("50%", 0.5), ("12.5%", 0.125), ("100%", 1.0)])
def test_a_share_is_read_and_written_the_same(text: str, share: float):
    assert parse_share(text) == share
    assert format_share(share) == text


@pytest.mark.parametrize("text", ["101%", "50", "%", "-5%", "50 %", "half", "100.1%"])
def test_a_wrong_share_is_refused(text: str):
    with pytest.raises(ValueError, match="share"):
        parse_share(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.2, "200ms"), (5400, "1h30m"), (604800, "7d"), (0.0000015, "1us500ns"), (90061.001, "1d1h1m1s1ms")],
)
def test_a_duration_is_written_in_the_usual_form(seconds: float, text: str):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1, "1"), (10240, "10KiB"), (10 * 2**30, "10GiB"), (10**10, "10GB"), (1500, "1500")]
)
def test_a_size_is_written_with_the_smallest_whole_number(size: int, text: str):
    assert format_size(size) == text


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=int(MAX_DURATION)), st.integers(min_value=0, max_value=999))
def test_every_duration_of_whole_milliseconds_reads_back(seconds: int, milliseconds: int):
    value = min(seconds + milliseconds / 1000, MAX_DURATION)

    assert parse_duration(format_duration(value)) == pytest.approx(value, abs=1e-6)
    assert re.search(DURATION_PATTERN, format_duration(value))


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10_000_000_000))
def test_every_duration_of_whole_nanoseconds_up_to_ten_seconds_reads_back_exactly(nanoseconds: int):
    value = nanoseconds / 1_000_000_000

    assert parse_duration(format_duration(value)) == value


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=MAX_SIZE))
def test_every_size_reads_back(size: int):
    assert parse_size(format_size(size)) == size
    assert re.search(SIZE_PATTERN, format_size(size))


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10_000))
def test_every_share_of_hundredths_of_a_per_cent_reads_back(hundredths: int):
    share = hundredths / 10_000

    assert parse_share(format_share(share)) == pytest.approx(share)
    assert re.search(SHARE_PATTERN, format_share(share))


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_either_read_or_refused_with_a_sentence(text: str):
    for parse in (parse_duration, parse_size, parse_share):
        value, message = 0.0, "a sentence"
        try:
            value = parse(text)
        except ValueError as error:
            message = str(error)
        assert value >= 0
        assert " " in message
