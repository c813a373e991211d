"""Texts with a form: names, prefixes, patterns, addresses and public keys; as agent/config/fields.py, for text.

Messages show a text as the file has it (`${VAR}`, not its value), and URLs without what stands before "@".
"""

# ruff: noqa: TRY004 (validators raise ValueError, which is what pydantic collects; a TypeError would go through)

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from agent.config.scalars import Expanded
from agent.config.suggest import described, did_you_mean, quoted, without_secrets, without_userinfo
from agent.core.globs import BadPatternError, compile_line
from agent.core.names import problem_of, reserved

# A stream is named OBJ_<bucket> and a snapshot's bucket <repository>_<id of 29 characters>; the server allows 255.
MAX_BUCKET_NAME: Final = 251
MAX_REPOSITORY_NAME: Final = MAX_BUCKET_NAME - 30
BUCKET_PATTERN: Final = r"^[A-Za-z0-9_-]+$"
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
SNAPSHOT_PATTERN: Final = r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}$"
NKEY_PATTERN: Final = r"^[ACNOU][A-Z2-7]{55}$"


# ---- text


def text_of(value: object, *, empty: bool = False) -> str:
    """Plain text. Raises ValueError for any other type: YAML has already taken it for something else."""
    if isinstance(value, (bool, int, float)):
        raise ValueError(f"expected text, got {described(value)}; put it in quotes if text is meant")
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {described(value)}")
    if not value and not empty:
        raise ValueError("must not be empty")
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return str(value)


def _matching(pattern: str, rule: str, *, longest: int = 255) -> Callable[[object], str]:
    """A validator for text that matches `pattern`; `rule` completes the sentence "may have only"."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: object) -> str:
        text = text_of(value)
        if not compiled.match(text) or text.endswith("\n"):
            raise ValueError(f"{shown(value)} is not a name here: {rule}")
        if len(text) > longest:
            raise ValueError(f"is too long: {len(text)} characters, {longest} are allowed")
        return text

    return check


def shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else described(value)


_BUCKET_RULE: Final = 'a bucket may have letters, digits, "_" and "-"'
_NAME_RULE: Final = 'use letters, digits, "_", "-" and ".", and begin with a letter or digit (128 at most)'

AnyText = Annotated[str, BeforeValidator(lambda value: text_of(value, empty=True))]
Text = Annotated[str, BeforeValidator(text_of), WithJsonSchema({"type": "string", "minLength": 1})]
Name = Annotated[
    str,
    BeforeValidator(_matching(NAME_PATTERN, _NAME_RULE)),
    WithJsonSchema({"type": "string", "pattern": NAME_PATTERN}),
]
BucketName = Annotated[
    str,
    BeforeValidator(_matching(BUCKET_PATTERN, _BUCKET_RULE, longest=MAX_BUCKET_NAME)),
    WithJsonSchema({"type": "string", "pattern": BUCKET_PATTERN, "maxLength": MAX_BUCKET_NAME}),
]
RepositoryName = Annotated[
    str,
    BeforeValidator(_matching(BUCKET_PATTERN, _BUCKET_RULE, longest=MAX_REPOSITORY_NAME)),
    WithJsonSchema({"type": "string", "pattern": BUCKET_PATTERN, "maxLength": MAX_REPOSITORY_NAME}),
]
Domain = Annotated[
    str,
    BeforeValidator(_matching(r"^[^\s.*>$/\\]+$", 'a JetStream domain has no spaces, ".", "*", ">", "$" or slashes')),
    WithJsonSchema({"type": "string", "pattern": r"^[^\s.*>$/\\]+$"}),
]
SnapshotId = Annotated[
    str,
    BeforeValidator(_matching(SNAPSHOT_PATTERN, "a snapshot is written as YYYYMMDDTHHMMSSZ-<12 hex digits>")),
    WithJsonSchema({"type": "string", "pattern": SNAPSHOT_PATTERN}),
]


def _channel(value: object) -> str:
    name = _matching(NAME_PATTERN, _NAME_RULE)(value)
    if re.match(SNAPSHOT_PATTERN, name, re.ASCII):
        raise ValueError(
            f'{shown(value)} is the id of a snapshot, not a channel; a subscription pins it with "snapshot"'
        )
    return name


Channel = Annotated[str, BeforeValidator(_channel), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]


def _agent_name(value: object) -> str:
    text = text_of(value)
    if not text.isprintable() or text != text.strip() or len(text) > 128:
        raise ValueError("use at most 128 printable characters, without spaces at the ends")
    return text


AgentName = Annotated[
    str, BeforeValidator(_agent_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 128})
]


def _metadata_key(value: object) -> str:
    text = text_of(value)
    for start in ("_nats.", "jetsync."):
        if text.startswith(start):
            raise ValueError(f'{quoted(text)} is not allowed: keys that begin with "{start}" are reserved')
    return text


MetadataKey = Annotated[
    str,
    BeforeValidator(_metadata_key),
    WithJsonSchema({"type": "string", "pattern": r"^(?!_nats\.|jetsync\.).+$"}),
]


# ---- URLs and addresses


def _split(text: str, shown: str) -> SplitResult:
    """urlsplit with one kind of error. `shown` is the URL without secrets."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(f"{shown} isn't a URL: check the host and the port") from None
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError(f"{shown} isn't a URL: it has spaces or control characters")
    return parts


def server_of(value: object) -> str:
    """A NATS server's URL. Messages never have what stands before "@"."""
    text = text_of(value)
    shown = quoted(value if isinstance(value, Expanded) else without_userinfo(text))
    if "://" not in text:
        raise ValueError(f"{shown} has no scheme: write nats://HOST:PORT (or tls://, ws://, wss://)")
    parts = _split(text, shown)
    if parts.scheme not in ("nats", "tls", "ws", "wss"):
        guess = did_you_mean(parts.scheme, ("nats", "tls", "ws", "wss"))
        raise ValueError(f"{shown} isn't a NATS server: expected nats://, tls://, ws:// or wss://{guess}")
    if not parts.hostname:
        raise ValueError(f"{shown} has no host")
    if parts.port == 0:
        raise ValueError(f"{shown} has port 0; a server has a port from 1 to 65535")
    if parts.query or parts.fragment or (parts.path not in ("", "/") and parts.scheme in ("nats", "tls")):
        raise ValueError(f"{shown} has more than scheme, host and port")
    return text


def webhook_of(value: object) -> str:
    text = text_of(value)
    shown = quoted(value if isinstance(value, Expanded) else without_secrets(text))
    parts = _split(text, shown)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown} isn't a web address: expected http://HOST/... or https://HOST/...")
    return text


ServerUrl = Annotated[
    str,
    BeforeValidator(server_of),
    PlainSerializer(without_userinfo, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^(nats|tls|ws|wss)://[^\s]+$"}),
]
WebhookUrl = Annotated[
    str,
    BeforeValidator(webhook_of),
    PlainSerializer(without_secrets, return_type=str, when_used="json-unless-none"),
    WithJsonSchema({"type": "string", "pattern": r"^https?://[^\s]+$"}),
]

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%A-Za-z0-9]+\]|[^\s:\[\]/@]+):(?P<port>[0-9]{1,5})", re.ASCII)


def split_address(text: str) -> tuple[str, int]:
    """ "127.0.0.1:9477" or "[::1]:9477" -> host (without brackets) and port. Raises ValueError."""
    if re.fullmatch(":[0-9]+", text, re.ASCII):
        raise ValueError(f"the host is missing: write 127.0.0.1{text}, or 0.0.0.0{text} for every interface")
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("expected HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:9477 or [::1]:9477")
    return match["host"].strip("[]"), int(match["port"])


def address_of(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"the host is missing: write 127.0.0.1:{value}, or 0.0.0.0:{value} for every interface")
    text = text_of(value)
    split_address(text)
    return text


Address = Annotated[
    str, BeforeValidator(address_of), WithJsonSchema({"type": "string", "pattern": r"^[^:\s/@][^\s/@]*:[0-9]{1,5}$"})
]


# ---- names in buckets, patterns, keys


def prefix_of(value: object) -> str:
    """ "" or a valid name that ends in "/"."""
    text = text_of(value, empty=True)
    if not text:
        return text
    if not text.endswith("/"):
        raise ValueError(f'a prefix is empty or ends in "/": write {quoted(str(_source(value)) + "/")}')
    obstacle = problem_of(text, directory=True)
    if obstacle:
        raise ValueError(f"{shown(value)} can't be a prefix: {obstacle.detail.partition(';')[0]}")
    if reserved(text):
        raise ValueError(f"{shown(value)} can't be a prefix: names below it are reserved")
    return text


def _source(value: object) -> object:
    return value.source if isinstance(value, Expanded) else value


Prefix = Annotated[
    str,
    BeforeValidator(prefix_of),
    WithJsonSchema({"type": "string", "pattern": r"^(([^/\\]+/)*)$"}),
]


def pattern_of(value: object) -> str:
    """One line of gitignore. Raises ValueError for what gitignore would pass over in silence."""
    text = text_of(value)
    if not text.strip():
        raise ValueError("must not be blank")
    if text.startswith("#"):
        raise ValueError(
            f'{shown(value)} is a comment in gitignore, and matches nothing; write "\\#..." for such a name'
        )
    if "\n" in text:
        raise ValueError("has several lines; write one pattern for each list item")
    try:
        compile_line(text)
    except BadPatternError as error:
        raise ValueError(f"not a gitignore pattern: {error}") from None
    return text


Pattern = Annotated[str, BeforeValidator(pattern_of), WithJsonSchema({"type": "string", "pattern": r"^[^#\n][^\n]*$"})]


def public_key_of(value: object) -> str:
    """A public nkey: base32 of a prefix byte, 32 bytes and a CRC-16 (little endian), checked. A seed is never shown."""
    text = text_of(value)
    if re.match(r"^S[A-Z2-7]{57}$", text):
        raise ValueError("this is a seed, which is secret; write the public key that belongs to it")
    if not re.match(NKEY_PATTERN, text) or text.endswith("\n"):
        raise ValueError('not a public nkey: expected 56 characters, such as "U..." (from `nk -pubout`)')
    from base64 import b32decode
    from binascii import crc_hqx

    raw = b32decode(text)
    if crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ValueError("not a public nkey: its checksum is wrong; was it copied whole?")
    return text


PublicKey = Annotated[str, BeforeValidator(public_key_of), WithJsonSchema({"type": "string", "pattern": NKEY_PATTERN})]
