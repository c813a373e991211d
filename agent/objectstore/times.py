"""The server's times: RFC 3339 with up to nine digits of a second, as integer nanoseconds since 1970."""

from __future__ import annotations

import re
from calendar import timegm

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))")


def parse_time_ns(text: str) -> int:
    """Nanoseconds since the epoch; 0 when it is no time (the callers have nothing better to do about it)."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = match.groups()
    try:
        seconds = timegm((int(year), int(month), int(day), int(hour), int(minute), int(second)))
    except ValueError:
        return 0
    if sign:
        offset = int(off_hours) * 3600 + int(off_minutes) * 60
        seconds += offset if sign == "-" else -offset
    return seconds * 1_000_000_000 + (int(fraction.ljust(9, "0")) if fraction else 0)
