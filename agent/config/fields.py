"""The types of single values: how each is read, how it is shown, and its JSON Schema.

Each type is an `Annotated` with a validator that runs before pydantic's own and says what is wrong in plain words (a
ValueError, which agent/config/validate.py turns into `file:line:column: key: message`). Pydantic's own conversions
never come to bear: a text isn't taken for a number, nor a number for a boolean. Only the result of a `${VAR}` without
quotes takes the type that the field wants (agent/config/scalars.py). Types of text are in agent/config/texts.py.

In JSON mode (`model_dump(mode="json")`) a value is dumped as it is written in the file, with secrets hidden.
"""

# ruff: noqa: TRY004 (validators raise ValueError, which is what pydantic collects; a TypeError would go through)

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from agent.config import units
from agent.config.scalars import Expanded, Scalar, resolve
from agent.config.suggest import described, did_you_mean, one_of, quoted
from agent.config.texts import shown, text_of

PERMISSIONS_PATTERN: Final = r"^0?o?[0-7]{3}$"


def typed(value: object) -> object:
    """The value with the type that its text has, where it comes from a `${VAR}` without quotes."""
    if isinstance(value, Expanded):
        return resolve(str(value)) if value.plain else str(value)
    return value


# ---- booleans, numbers, words


def flag_of(value: object) -> bool:
    given = typed(value)
    if isinstance(given, bool):
        return given
    hint = "; only true and false are booleans" if isinstance(given, (str, int)) else ""
    hint = _unquote(value) or hint
    raise ValueError(f"expected true or false, got {described(value)}{hint}")


Flag = Annotated[bool, BeforeValidator(flag_of), WithJsonSchema({"type": "boolean"})]


def whole_of(value: object, minimum: int, maximum: int) -> int:
    given = typed(value)
    if isinstance(given, bool) or not isinstance(given, int):
        odd = isinstance(given, str) and re.fullmatch(r"[-+]?[0-9][0-9a-fA-FxXo_:]*", given)
        hint = "; write it in plain decimal digits, without quotes" if odd else _unquote(value)
        raise ValueError(f"expected a whole number, got {described(value)}{hint}")
    if not minimum <= given <= maximum:
        number = quoted(value) if isinstance(value, Expanded) else given
        raise ValueError(f"{number} is out of range: expected {minimum} to {maximum}")
    return given


def _unquote(value: object) -> str:
    return "; write it without quotes" if isinstance(value, Expanded) and not value.plain else ""


def _whole(minimum: int, maximum: int) -> BeforeValidator:
    """A whole number from `minimum` to `maximum`, both included."""
    return BeforeValidator(lambda value: whole_of(value, minimum, maximum))


def _whole_schema(minimum: int, maximum: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": minimum, "maximum": maximum})


Port = Annotated[int, _whole(0, 65535), _whole_schema(0, 65535)]
Replicas = Annotated[int, _whole(1, 5), _whole_schema(1, 5)]  # the server's own bounds
Transfers = Annotated[int, _whole(1, 1024), _whole_schema(1, 1024)]
Keep = Annotated[int, _whole(1, 100_000), _whole_schema(1, 100_000)]


def choice(*words: str) -> BeforeValidator:
    """One of `words`."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in words:
            return str(value)
        raise ValueError(not_a_choice(value, words))

    return BeforeValidator(check)


def member(kind: type[Enum]) -> BeforeValidator:
    """A member of a StrEnum, by its value."""
    words = tuple(str(item.value) for item in kind)

    def check(value: object) -> Enum:
        if isinstance(value, kind):
            return value
        if isinstance(value, str) and value in words:
            return kind(str(value))
        raise ValueError(not_a_choice(value, words))

    return BeforeValidator(check)


def not_a_choice(value: object, words: Iterable[str]) -> str:
    words = tuple(words)
    guess = did_you_mean(value, words) if isinstance(value, str) and not isinstance(value, Expanded) else ""
    return f"expected {one_of(words)}, got {described(value)}{guess}"


def command_of(value: object) -> str | tuple[str, ...]:
    """A command: text for the shell, or a list of arguments that is run as it is."""
    if not isinstance(value, list | tuple):
        return text_of(value)
    if not value:
        raise ValueError('a command has at least its program: ["systemctl", "reload", "app"]')
    return (text_of(value[0]), *(text_of(item, empty=True) for item in value[1:]))


Command = Annotated[
    str | tuple[str, ...],
    BeforeValidator(command_of),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "string"}},
            ]
        }
    ),
]


# ---- durations, sizes, shares


def duration(minimum: float = 0.0) -> BeforeValidator:
    """Seconds, as float, of at least `minimum`."""

    def check(value: object) -> float:
        given = typed(value)
        if isinstance(given, bool) or not isinstance(given, (str, int, float)):
            raise ValueError(f"expected a duration such as 30s, got {described(value)}")
        seconds = units.parse_duration(given if isinstance(given, str) else _digits(given))
        if seconds < minimum:
            raise ValueError(f"must be at least {units.format_duration(minimum)}")
        return seconds

    return BeforeValidator(check)


def _digits(number: Scalar) -> str:
    return "0" if number == 0 else str(number)


def size_of(value: object) -> int:
    given = typed(value)
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise ValueError(f"expected a size such as 10MiB, got {described(value)}")
    return units.parse_size(given if isinstance(given, str) else _digits(given))


def _size_text(size: int) -> str | int:
    text = units.format_size(size)
    return size if text.isdigit() else text


_AS_DURATION: Final = PlainSerializer(units.format_duration, return_type=str, when_used="json")
_AS_SIZE: Final = PlainSerializer(_size_text, when_used="json")
_DURATION_SCHEMA: Final = WithJsonSchema(
    {"anyOf": [{"type": "string", "pattern": units.DURATION_PATTERN}, {"type": "integer", "const": 0}]}
)
_SIZE_SCHEMA: Final = WithJsonSchema(
    {"anyOf": [{"type": "string", "pattern": units.SIZE_PATTERN}, {"type": "integer", "minimum": 0}]}
)

Duration = Annotated[float, duration(), _AS_DURATION, _DURATION_SCHEMA]
# Intervals of loops: zero would spin.
Interval = Annotated[float, duration(0.01), _AS_DURATION, _DURATION_SCHEMA]
Size = Annotated[int, BeforeValidator(size_of), _AS_SIZE, _SIZE_SCHEMA]
# Written 0 = no limit; None for those who read it.
SizeLimit = Annotated[
    int | None,
    BeforeValidator(lambda value: None if value is None else size_of(value) or None),
    PlainSerializer(lambda size: _size_text(size or 0), when_used="json"),
    _SIZE_SCHEMA,
]


@dataclass(frozen=True, slots=True)
class DeleteLimit:
    """How many deletions halt a mapping: a share of the entries (0.0 to 1.0) or a count; exactly one isn't None."""

    share: float | None = None
    count: int | None = None

    @property
    def never(self) -> bool:
        return self.share is not None and self.share >= 1.0

    def __str__(self) -> str:
        return units.format_share(self.share) if self.share is not None else str(self.count)


def delete_limit_of(value: object) -> DeleteLimit:
    if isinstance(value, DeleteLimit):
        return value
    given = typed(value)
    if isinstance(given, str):
        return DeleteLimit(share=units.parse_share(given))
    if isinstance(given, bool) or not isinstance(given, int):
        raise ValueError(f"expected a share such as 50% or a count such as 100, got {described(value)}")
    if given < 0:
        raise ValueError("a count can't be negative")
    return DeleteLimit(count=given)


MaxDelete = Annotated[
    DeleteLimit,
    BeforeValidator(delete_limit_of),
    PlainSerializer(lambda limit: str(limit) if limit.count is None else limit.count, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": units.SHARE_PATTERN}, {"type": "integer", "minimum": 0}]}),
]


def permissions(*, owner: int) -> BeforeValidator:
    """Permission bits from "0666"; the bits of `owner` must be among them, or the agent couldn't use its own files."""

    def check(value: object) -> int:
        given = value if not isinstance(value, Expanded) else str(value)
        if isinstance(given, int) and not isinstance(given, bool):
            raise ValueError(f'write permissions as text with a leading zero: "0{given}"')
        if not isinstance(given, str):
            raise ValueError(f'expected permissions such as "0666", got {described(value)}')
        if not re.match(PERMISSIONS_PATTERN, given, re.ASCII):
            raise ValueError(f'{shown(value)} isn\'t three octal digits such as "0666"')
        bits = int(given[-3:], 8)
        if bits & owner != owner:
            raise ValueError(f"the owner needs at least 0{owner:o}, or the agent couldn't use what it made")
        return bits

    return BeforeValidator(check)


_AS_PERMISSIONS: Final = PlainSerializer(lambda bits: f"{bits:04o}", return_type=str, when_used="json")
_PERMISSIONS_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": PERMISSIONS_PATTERN})
FileMode = Annotated[int, permissions(owner=0o600), _AS_PERMISSIONS, _PERMISSIONS_SCHEMA]
DirectoryMode = Annotated[int, permissions(owner=0o700), _AS_PERMISSIONS, _PERMISSIONS_SCHEMA]


# ---- paths


def path_of(value: object, info: ValidationInfo) -> Path:
    """Absolute, relative to the context's `base` (the directory of the file), `..` taken lexically. Touches no disk."""
    if isinstance(value, Path):
        value = str(value)
    text = text_of(value)
    if text == "~" or text.startswith("~/"):
        raise ValueError('"~" is not expanded; write ${HOME}' + text[1:])
    base = (info.context or {}).get("base") or Path.cwd()
    normal = os.path.normpath(base / text)
    return Path(normal[1:] if normal.startswith("//") else normal)  # POSIX leaves the meaning of "//x" open


AbsolutePath = Annotated[Path, BeforeValidator(path_of), WithJsonSchema({"type": "string", "minLength": 1})]


def watch_of(value: object) -> str | bool:
    given = typed(value)
    if given is False:
        return False
    if isinstance(given, str) and given in ("auto", "poll"):
        return given
    raise ValueError(f"expected auto, poll or false, got {described(value)}{_means_false(given)}")


def _means_false(given: object) -> str:
    odd = isinstance(given, str) and given.lower() in ("off", "no", "none", "never", "false")
    return "; only true and false are booleans: write false" if odd else ""


Watch = Annotated[
    Literal["auto", "poll", False], BeforeValidator(watch_of), WithJsonSchema({"enum": ["auto", "poll", False]})
]


def unless_false(value: Any) -> Any:
    """None for `false`; a mapping is left to the model."""
    given = typed(value)
    if given is False:
        return None
    if given is True or isinstance(given, (str, int, float)):
        raise ValueError(f"expected a mapping of keys to values, or false, got {described(value)}{_means_false(given)}")
    return value
