"""What a YAML scalar is: `${VAR}` expansion, and the type of a scalar without quotes.

Expansion works on parsed scalars, so a variable's value can never add keys or lines to the file:

    ${NAME}             the variable; an error when it isn't set
    ${NAME:-default}    the default when it isn't set, or is empty
    $${                 a literal "${"

A scalar without quotes is null (nothing, `null` or `~`), `true`, `false`, a decimal number, or else text. That is YAML
1.2 without its rarer spellings, on purpose: in YAML 1.1 `no` is false, 010 is 8, 1_000 is 1000 and 12:30:00 is 45000.
Here all of these are text, and where a number or a boolean is needed they are errors with a hint.

The type of an expanded scalar depends on where it stands: `port: ${PORT}` is a number, and `name: ${ID}` is text even
when the variable holds digits. So it stays text, of the class `Expanded`, until the field asks for a type. Quotes make
no difference around a lone reference: within {...} and [...] YAML wants them, and `{port: "${PORT}"}` is a number too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?")
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?", re.ASCII)
# A leading zero makes 010 text here; 0.5 and 0e1 are numbers all the same.
_LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9]")

Scalar = str | int | float | bool | None


class Expanded(str):
    """The text that an expansion gave. `source` is what the file says: the only form that messages show.

    plain: it stood without quotes or is one lone reference, so a field that isn't text may resolve its type.
    """

    __slots__ = ("plain", "source")

    source: str
    plain: bool

    @classmethod
    def of(cls, source: str, environ: Mapping[str, str], *, plain: bool) -> Expanded:
        """Expand `source`, which stood without quotes when `plain`. Raises ValueError as `expand`."""
        made = cls(expand(source, environ))
        lone = _REFERENCE.fullmatch(source)
        made.source, made.plain = source, plain or (lone is not None and lone["name"] is not None)
        return made

    @property
    def blank(self) -> bool:
        """`${VAR:-}` and nothing in VAR: the same as a key without a value."""
        return self.plain and not self.strip()


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`text` with every reference replaced. Raises ValueError that names all that is wrong in it."""
    wrong: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, default = match["name"], match["default"]
        if name is None:
            wrong.append('a "${" that isn\'t ${NAME} or ${NAME:-default}; write $${ for a literal "${"')
            return ""
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            wrong.append(f"the environment variable {name} isn't set; set it, or write ${{{name}:-default}}")
            return ""
        return value

    expanded = _REFERENCE.sub(replace, text)
    if not wrong and not expanded.isprintable() and any("\ud800" <= character <= "\udfff" for character in expanded):
        wrong.append("the value of an environment variable isn't UTF-8")
    if wrong:
        raise ValueError("; ".join(dict.fromkeys(wrong)))
    return expanded


def resolve(text: str) -> Scalar:
    """The value of a scalar without quotes."""
    if text in ("", "~", "null"):
        return None
    if text == "true":
        return True
    if text == "false":
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not _LEADING_ZERO.match(text):
        return float(text)
    return text
