"""Durations, sizes and shares as people write them, and back.

    duration   "200ms", "30s", "1h30m", "7d"; a number without a unit is refused, except 0      -> seconds (float)
    size       "10GiB" or "10Gi" (1024s), "10GB" (1000s), or a plain number of bytes             -> bytes (int)
    share      "50%"                                                                             -> 0.0 to 1.0

Each `parse_*` raises ValueError with a message that says how to write it instead. Each `format_*` gives text that
parses to the same value again. "10G" is refused on purpose: Kubernetes reads it as 1000s and rclone as 1024s.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
    "d": 86400 * 1_000_000_000,
    "w": 7 * 86400 * 1_000_000_000,
}
_BYTES: Final = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "PB": 1000**5,
    "Ki": 1024,
    "Mi": 1024**2,
    "Gi": 1024**3,
    "Ti": 1024**4,
    "Pi": 1024**5,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
    "PiB": 1024**5,
}

# Both limits keep what we hand on inside the server's 64 bit numbers (bytes, and nanoseconds).
MAX_DURATION: Final = 100 * 365 * 86400.0  # seconds
MAX_SIZE: Final = 2**63 - 1  # bytes

DURATION_PATTERN: Final = r"^(0|([0-9]{1,18}(\.[0-9]{1,9})?(ns|us|ms|s|m|h|d|w))+)$"
SIZE_PATTERN: Final = r"^[0-9]{1,19}(\.[0-9]{1,9})?([kKMGTP]B|[KMGTP]iB?|B)?$"
SHARE_PATTERN: Final = r"^[0-9]{1,3}(\.[0-9]{1,6})?%$"

_DURATION: Final = re.compile(DURATION_PATTERN, re.ASCII)
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-z]+)", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([A-Za-z]*)", re.ASCII)
_SHARE: Final = re.compile(SHARE_PATTERN, re.ASCII)
_NUMBER: Final = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]+)?", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError."""
    if text.startswith("-"):
        raise ValueError("a duration can't be negative")
    if _NUMBER.fullmatch(text) and text != "0":
        raise ValueError(f"a duration needs a unit: write {text}s for seconds, {text}ms, {text}m or {text}h")
    if not _DURATION.fullmatch(text):
        raise ValueError(
            "not a duration: write a number with ns, us, ms, s, m, h, d or w, such as 200ms, 30s, 1h30m or 7d"
        )
    parts = _DURATION_PART.findall(text)
    units = [unit for _, unit in parts]
    if len(set(units)) != len(units) or units != sorted(units, key=lambda unit: -_NANOSECONDS[unit]):
        raise ValueError("not a duration: give each unit once, the largest first, as in 1h30m")
    nanoseconds = sum((Decimal(number) * _NANOSECONDS[unit] for number, unit in parts), Decimal(0))
    if nanoseconds != int(nanoseconds):
        raise ValueError("a duration can't be finer than a nanosecond")
    seconds = int(nanoseconds) / 1_000_000_000
    if seconds > MAX_DURATION:
        raise ValueError("a duration can't be longer than 100 years (36500d)")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest of the usual forms: "0s", "200ms", "1h30m", "7d"."""
    rest = round(seconds * 1_000_000_000)
    if rest == 0:
        return "0s"
    text = ""
    for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, _NANOSECONDS[unit])
        if count:
            text += f"{count}{unit}"
    return text


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError."""
    if text.startswith("-"):
        raise ValueError("a size can't be negative")
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _BYTES:
        raise ValueError(_size_hint(text, match))
    size = Decimal(match[1]) * _BYTES[match[2]]
    if size != int(size):
        raise ValueError("not a whole number of bytes")
    if size > MAX_SIZE:
        raise ValueError("a size can't be larger than 8192PiB")
    return int(size)


def _size_hint(text: str, match: re.Match[str] | None) -> str:
    if text.endswith("/s"):
        return f'write it without "/s": {text[:-2]}'
    if match is not None and match[2] in ("K", "k", "M", "G", "T", "P"):
        unit = match[2].upper()
        return f'"{match[2]}" alone is ambiguous: write {match[1]}{unit}iB (1024s) or {match[1]}{unit}B (1000s)'
    if match is not None:
        for unit in _BYTES:
            if unit.lower() == match[2].lower():
                return f"not a size: did you mean {match[1]}{unit}?"
    return "not a size: write a number of bytes, or one with KiB, MiB, GiB, TiB (1024s) or KB, MB, GB, TB (1000s)"


def format_size(size: int) -> str:
    """With the unit that leaves the smallest whole number: "10GiB", "10GB", "1500", "0"."""
    units = ("", "PiB", "TiB", "GiB", "MiB", "KiB", "PB", "TB", "GB", "MB", "KB")
    count, unit = min(
        ((size // _BYTES[unit], unit) for unit in units if size % _BYTES[unit] == 0), key=lambda it: it[0]
    )
    return f"{count}{unit}" if size else "0"


def parse_share(text: str) -> float:
    """0.0 to 1.0 from "0%" to "100%". Raises ValueError."""
    if not _SHARE.fullmatch(text):
        raise ValueError("not a share: write it in per cent, such as 50%")
    share = float(Decimal(text[:-1]) / 100)
    if share > 1:
        raise ValueError("a share can't be more than 100%")
    return share


def format_share(share: float) -> str:
    text = f"{Decimal(repr(share)) * 100:f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"
