"""What an assertion on large values says: the first differences.

pytest's own explanation of `==` runs a diff whose cost grows with the square of the number of lines that resemble each
other, in CI and with -v: for two trees of 700 files it takes minutes, and each round of `eventually` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

LARGE = 200  # elements of both sides together: below it pytest's explanation is the better one
SHOWN = 10


def differences(left: object, right: object) -> list[str] | None:
    """The lines of the explanation of `left == right`; None where pytest's own will do."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = _of_dicts(left, right)
    elif isinstance(left, str | bytes | list | tuple) and type(left) is type(right):
        found = _of_sequences(left, right)
    else:
        return None
    if len(left) + len(right) <= LARGE:
        return None
    head = f"{type(left).__name__} of {len(left)} == {type(right).__name__} of {len(right)}"
    lines = [line for line, _ in zip(found, range(SHOWN + 1), strict=False)]
    return [head, *lines[:SHOWN], *(["..."] if len(lines) > SHOWN else [])]


def _of_dicts(left: dict[Any, Any], right: dict[Any, Any]) -> Iterator[str]:
    for key in left.keys() | right.keys():
        if key not in right:
            yield f"only left: {_short(key)}: {_short(left[key])}"
        elif key not in left:
            yield f"only right: {_short(key)}: {_short(right[key])}"
        elif left[key] != right[key]:
            yield f"{_short(key)}: {_short(left[key])} != {_short(right[key])}"


def _of_sequences(left: Sequence[Any], right: Sequence[Any]) -> Iterator[str]:
    step = 1 if isinstance(left, list | tuple) else 40
    for at in range(0, max(len(left), len(right)), step):
        if left[at : at + step] != right[at : at + step]:
            yield f"at {at}: {_short(left[at : at + step])} != {_short(right[at : at + step])}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:190]}..."
