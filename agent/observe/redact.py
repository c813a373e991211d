"""Secrets are taken out of whatever is shown: log lines, status, errors.

Three kinds are known by their form, wherever they stand in a text: the user part of a URL, an nkey seed (`S` and the
type, then base32) and a JWT. Fields are hidden by their name. This is the second line of defence; the first is not to
pass secrets around: the configuration keeps file names, and reads the files where they are used.
"""

from __future__ import annotations

import re
from typing import Any, Final

HIDDEN: Final = "***"

_FORMS = re.compile(
    r"(?P<userinfo>(?<=://)[^/\s\"'<>]*(?=@))"
    r"|\bS[ACNOUX][A-Z2-7]{56}\b"  # an nkey seed
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # a JWT
)
_FIELD = re.compile(r"(?:^|_)(?:password|passwd|token|secret|seed|jwt|authorization|credentials)$", re.IGNORECASE)


def hide(text: str) -> str:
    """`text` with everything that has the form of a secret replaced by `***`.

    >>> hide("nats://edge:s3cret@hub:4222")
    'nats://***@hub:4222'
    """
    return _FORMS.sub(HIDDEN, text)


def hide_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """A copy of `fields` without secrets: by name (`password`, `auth_token`; not `password_file`) and by form."""
    return {key: HIDDEN if value and _FIELD.search(key) else hide_value(value) for key, value in fields.items()}


def hide_value(value: Any) -> Any:
    """The same within strings, lists, tuples and dictionaries, however nested; other values stay as they are."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return hide_fields({str(key): item for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return [hide_value(item) for item in value]
    return value


def printable(text: str) -> str:
    """`text` on one line of a terminal: control characters and lone surrogates (a file name may hold any) are escaped.

    >>> printable("a\\x1b[31mb\\n")
    'a\\\\x1b[31mb\\\\n'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
