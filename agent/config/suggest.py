"""Messages for people: "did you mean", what a value is in plain words, and hiding what must not be shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.config.scalars import Expanded

HIDDEN: Final = "***"

# What people write for what we call otherwise: names from other tools, and the obvious guesses.
_OTHER_NAMES: Final = {
    "url": ("servers",),
    "urls": ("servers",),
    "server": ("servers",),
    "creds": ("credentials_file",),
    "credentials": ("credentials_file",),
    "creds_file": ("credentials_file",),
    "nkey": ("nkey_seed_file",),
    "nkey_file": ("nkey_seed_file",),
    "seed": ("nkey_seed_file",),
    "username": ("user",),
    "password": ("password_file",),
    "pass": ("password_file",),
    "token": ("token_file",),
    "ca": ("ca_file",),
    "cert": ("cert_file",),
    "key": ("key_file", "sign_with"),
    "dir": ("directory", "store_dir"),
    "path": ("directory", "store_dir"),
    "local": ("directory",),
    "remote": ("bucket",),
    "ignore": ("exclude",),
    "policy": ("conflicts",),
    "conflict": ("conflicts",),
    "type": ("mode", "storage"),
    "direction": ("mode",),
    "interval": ("poll_interval", "rescan"),
    "debounce": ("settle",),
    "concurrency": ("transfers",),
    "workers": ("transfers",),
    "max_age": ("ttl",),
    "num_replicas": ("replicas",),
    "compress": ("compression",),
    "address": ("listen",),
    "bind": ("listen",),
    "verbosity": ("level",),
    "history": ("keep",),
    "hooks": ("before",),
    "pre": ("before",),
    "post": ("after",),
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """The word of `known` that was probably meant, or None."""
    known = tuple(known)
    plain = word.strip().lower().replace("-", "_").replace(" ", "_")
    for candidate in known:
        if candidate.lower().replace("-", "_") == plain:
            return candidate
    for candidate in _OTHER_NAMES.get(plain, ()):
        if candidate in known:
            return candidate
    from difflib import get_close_matches  # only a wrong file pays for the import

    found = get_close_matches(plain, known, n=1, cutoff=0.6) or get_close_matches(
        plain.replace("_", "-"), known, n=1, cutoff=0.6
    )
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' or ""."""
    found = closest(word, known)
    return f'; did you mean "{found}"?' if found else ""


def quoted(text: str) -> str:
    """`text` for a message: as the file has it (never a variable's value), cut, without control characters.

    What could be a login or a token of a URL is hidden, wherever it stands: people put values into the wrong keys.
    """
    source = text.source if isinstance(text, Expanded) else text
    source = without_secrets(source) if "://" in source or "@" in source else source
    shown = source if len(source) <= 60 else source[:57] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown) + '"'


def described(value: object) -> str:
    """What `value` is, in plain words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "a mapping of keys to values"


def one_of(words: Iterable[str]) -> str:
    """ "a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def without_userinfo(url: str) -> str:
    """The URL with what stands before its last "@" hidden. Works on anything, also on what isn't a URL."""
    scheme, separator, rest = url.rpartition("://") if "://" in url else ("", "", url)
    if "@" in rest:
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return f"{scheme}{separator}{rest}"


def without_secrets(url: str) -> str:
    """As `without_userinfo`, and the values of the query are hidden too: webhooks carry tokens there."""
    address, separator, query = url.partition("?")
    if not separator:
        return without_userinfo(url)
    parts = [f"{part.partition('=')[0]}={HIDDEN}" if "=" in part else HIDDEN for part in query.split("&")]
    return f"{without_userinfo(address)}?{'&'.join(parts)}"
