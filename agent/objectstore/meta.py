"""The meta message: JSON as ADR-20 "ObjectInfo" has it, in both directions (PROTOCOL 1, 2 and trap 1).

Reading trusts nothing: whatever stands in a meta message, `decode` gives an ObjectInfo whose every field has its type
and range, or raises BadMetaError, and nothing else. The rules are those of the Go client (a header is a list of
strings, a size is an unsigned integer, null is absent), and three of our own: the name must be the one in the subject,
a nuid must be one literal token (it becomes a purge filter), and the digest of a live object must be 32 bytes.

Writing keeps what it doesn't know: unknown fields at the top and in `options` are carried from decode to encode, so
that a rename or a changed header loses nothing of a newer client. The order and the spelling are Go's: `mtime` is Go's
zero time (ADR-20: never stored, the reader takes the message's time), and a delete marker has no mtime at all, since
Go can't parse nats-py's empty one.

`bucket` is the bucket that was asked, not what the JSON says: in a mirror under another name the JSON has the origin.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring as _quoted
from typing import Any, cast

from agent.errors import BadMetaError
from agent.objectstore.subjects import is_nuid, name_of

DEFAULT_CHUNK_SIZE = 131072
MAX_META = 1 << 20
"""A meta message over this size isn't parsed: it is far beyond what any client writes."""

_NUID_FIELD = re.compile(rb'"nuid"\s{0,8}:\s{0,8}"([^"\\]{1,128})"')
_ZERO_TIME = "0001-01-01T00:00:00Z"
_DIGEST_PREFIX = "SHA-256="
_URLSAFE = bytes.maketrans(b"-_", b"+/")
_MAX_SIZE = (1 << 63) - 1
_MAX_CHUNKS = (1 << 32) - 1
_KNOWN = frozenset({
    "name", "description", "headers", "metadata", "options",
    "bucket", "nuid", "size", "mtime", "chunks", "digest", "deleted",
})  # fmt: skip
_KNOWN_OPTIONS = frozenset(("link", "max_chunk_size"))


@dataclass(frozen=True, slots=True)
class Link:
    """What an object link points to: an object by name; or, with `name` None, a whole bucket."""

    bucket: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One meta message.

    size: bytes. digest: the 32 raw bytes of SHA-256, b"" when the meta has none (links, markers, odd writers).
    chunks: number of chunk messages. max_chunk_size: upper bound of a chunk's size, 0 when not told; the chunks of
    other clients may be shorter (PROTOCOL 1), so it is never used for arithmetic on offsets. revision: stream sequence
    of this meta message, 0 when not stored yet. time_ns: the server's time of it, the ADR's modified time. extra,
    extra_options: fields that we don't know, kept for writing.
    """

    bucket: str
    name: str
    nuid: str = ""
    size: int = 0
    chunks: int = 0
    digest: bytes = b""
    deleted: bool = False
    description: str = ""
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    link: Link | None = None
    max_chunk_size: int = 0
    revision: int = 0
    time_ns: int = 0
    extra: Mapping[str, object] = field(default_factory=dict)
    extra_options: Mapping[str, object] = field(default_factory=dict)


def encode(info: ObjectInfo) -> bytes:
    """The meta message of an object, link or (`deleted`) marker."""
    special = info.description or info.headers or info.deleted or info.link or info.extra or info.extra_options
    if not special and info.digest and info.max_chunk_size:
        return encode_plain(
            bucket=info.bucket,
            name=info.name,
            nuid=info.nuid,
            size=info.size,
            chunks=info.chunks,
            digest=info.digest,
            metadata=info.metadata,
            max_chunk_size=info.max_chunk_size,
        )
    document: dict[str, object] = {"name": info.name}
    if info.description:
        document["description"] = info.description
    if info.headers:
        document["headers"] = {key: list(values) for key, values in info.headers.items()}
    if info.metadata:
        document["metadata"] = dict(info.metadata)
    options: dict[str, object] = {}
    if info.link is not None:
        link = {"bucket": info.link.bucket}
        if info.link.name is not None:
            link["name"] = info.link.name
        options["link"] = link
    if info.max_chunk_size:
        options["max_chunk_size"] = info.max_chunk_size
    options.update(info.extra_options)
    if options:
        document["options"] = options
    document["bucket"] = info.bucket
    document["nuid"] = info.nuid
    document["size"] = info.size
    if not info.deleted:
        document["mtime"] = _ZERO_TIME
    document["chunks"] = info.chunks
    if info.digest:
        document["digest"] = digest_text(info.digest)
    if info.deleted:
        document["deleted"] = True
    document.update(info.extra)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def encode_plain(
    *,
    bucket: str,
    name: str,
    nuid: str,
    size: int,
    chunks: int,
    digest: bytes,
    metadata: Mapping[str, str],
    max_chunk_size: int,
) -> bytes:
    """The same for an object that has nothing else: most have, and a document of dicts costs five times as much."""
    pairs = ",".join([f"{_quoted(key)}:{_quoted(value)}" for key, value in metadata.items()])
    told = f'"metadata":{{{pairs}}},' if pairs else ""
    return (
        f'{{"name":{_quoted(name)},{told}"options":{{"max_chunk_size":{max_chunk_size}}},"bucket":{_quoted(bucket)},'
        f'"nuid":{_quoted(nuid)},"size":{size},"mtime":"{_ZERO_TIME}","chunks":{chunks},'
        f'"digest":"{digest_text(digest)}"}}'
    ).encode("utf-8", "replace")


def marker(info: ObjectInfo, *, nuid: str) -> ObjectInfo:
    """The delete marker of an object: its name, and a nuid of its own that no live object has.

    ADR-20 lets the marker carry the old nuid; with a fresh one nothing that looks for a nuid can take a marker for the
    object that a rename has moved (DESIGN 6).
    """
    return ObjectInfo(bucket=info.bucket, name=info.name, nuid=nuid, deleted=True)


def salvaged_nuid(payload: bytes) -> str:
    """The nuid in a meta that `decode` refuses; "" when it has none, or one that is no single token.

    Never raises. What is no JSON is searched for the last thing that looks like one: better a nuid too many is kept.
    """
    nuid: object = ""
    try:
        nuid = _document(payload).get("nuid") if len(payload) <= MAX_META else _last_nuid(payload)
    except BadMetaError:
        nuid = _last_nuid(payload)
    return nuid if isinstance(nuid, str) and is_nuid(nuid) else ""


def _last_nuid(payload: bytes) -> str:
    found = _NUID_FIELD.findall(payload)
    return found[-1].decode("ascii", "replace") if found else ""


def digest_text(digest: bytes) -> str:
    """ADR-20 "Digest": SHA-256= and the padded base64url of the raw bytes."""
    return _DIGEST_PREFIX + urlsafe_b64encode(digest).decode()


def decode(
    payload: bytes, *, bucket: str, subject: str = "", name: str | None = None, revision: int = 0, time_ns: int = 0
) -> ObjectInfo:
    """The ObjectInfo of a meta message. `subject` (its last token), or else `name`, is what the meta's name must be.

    Raises BadMetaError for anything that isn't a meta message; never anything else.
    """
    expected = name if name is not None else (name_of(subject) if subject else None)
    try:
        return _decode(payload, bucket, expected, revision, time_ns)
    except BadMetaError as error:
        where = f"{bucket}/{expected}" if expected is not None else bucket
        raise BadMetaError(
            f"the meta of {where!r} (revision {revision}) is not valid: {error.message}",
            revision=revision,
            remedy="put the object again, or delete it",
        ) from error


def _decode(payload: bytes, bucket: str, expected: str | None, revision: int, time_ns: int) -> ObjectInfo:
    if len(payload) > MAX_META:
        raise BadMetaError(f"it has {len(payload)} bytes")
    document = _document(payload)
    name = document.get("name")
    if type(name) is not str or not name:
        raise BadMetaError("it has no name")
    if expected is not None and name != expected:
        raise BadMetaError("its name isn't the one in its subject")
    get = document.get

    link: Link | None = None
    max_chunk_size = 0
    extra_options: Mapping[str, object] = _NOTHING
    options = get("options")
    if options is not None:
        if type(options) is not dict:
            raise BadMetaError("options is not an object")
        link = _link(options.get("link"))
        max_chunk_size = _count(options.get("max_chunk_size"), "max_chunk_size", _MAX_CHUNKS)
        if not _KNOWN_OPTIONS.issuperset(options):
            extra_options = {key: value for key, value in options.items() if key not in _KNOWN_OPTIONS}

    deleted = get("deleted")
    if deleted is not None and type(deleted) is not bool:
        raise BadMetaError("deleted is not a boolean")
    size = _count(get("size"), "size", _MAX_SIZE)
    chunks = _count(get("chunks"), "chunks", _MAX_CHUNKS)
    nuid = _text(get("nuid"), "nuid")
    if nuid and not is_nuid(nuid):
        raise BadMetaError("its nuid is not one token")
    digest = b""
    if not deleted and link is None:
        digest = _digest(get("digest"))
        if chunks and not nuid:
            raise BadMetaError("it has chunks, but no nuid")
        if bool(size) != bool(chunks) or chunks > size:
            raise BadMetaError(f"{size} bytes can't be in {chunks} chunks")

    return ObjectInfo(
        bucket,
        name,
        nuid,
        size,
        chunks,
        digest,
        bool(deleted),
        _text(get("description"), "description"),
        _headers(get("headers")),
        _metadata(get("metadata")),
        link,
        max_chunk_size,
        revision,
        time_ns,
        _NOTHING if _KNOWN.issuperset(document) else {k: v for k, v in document.items() if k not in _KNOWN},
        extra_options,
    )


_NOTHING: Mapping[str, Any] = {}
"""Shared by all infos that have none of something: a million metas hold one empty mapping. Never changed."""


def _document(payload: bytes) -> dict[str, Any]:
    """Parse the JSON. Lone surrogates (legal as JSON escapes) become U+FFFD, as in Go: they can't be encoded again."""
    try:
        text = payload.decode()
        document = _parse(text)
        if "\\ud" in text or "\\uD" in text:
            document = _without_surrogates(document)
    except (ValueError, RecursionError, MemoryError) as error:
        # ValueError covers UnicodeDecodeError, JSONDecodeError and integers of more digits than Python converts.
        raise BadMetaError("it is not JSON") from error
    if type(document) is not dict:
        raise BadMetaError("it is not a JSON object")
    return cast(dict[str, Any], document)


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


_parse = json.JSONDecoder(parse_constant=_no_constant).decode
"""Made once: json.loads with options makes a decoder for each call, which costs as much as the parsing."""


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _text(value: object, what: str) -> str:
    if value is None:
        return ""
    if type(value) is not str:
        raise BadMetaError(f"{what} is not a string")
    return value


def _count(value: object, what: str, limit: int) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= limit:
        raise BadMetaError(f"{what} is not an unsigned integer in range")
    return value


def _digest(value: object) -> bytes:
    text = _text(value, "digest")
    if not text:
        return b""
    if not text.startswith(_DIGEST_PREFIX):
        raise BadMetaError("its digest is not SHA-256")
    try:
        digest = a2b_base64(text[len(_DIGEST_PREFIX) :].encode().translate(_URLSAFE), strict_mode=True)
    except (Base64Error, UnicodeError) as error:
        raise BadMetaError("its digest is not base64") from error
    if len(digest) != 32:
        raise BadMetaError(f"its digest has {len(digest)} bytes, not 32")
    return digest


def _headers(value: object) -> Mapping[str, list[str]]:
    if not value:
        if value is None or type(value) is dict:
            return _NOTHING
        raise BadMetaError("headers is not an object")
    if type(value) is not dict:
        raise BadMetaError("headers is not an object")
    for key, items in value.items():
        if items is None:
            value[key] = []
        elif type(items) is not list or not all(type(item) is str for item in items):
            raise BadMetaError(f"header {key[:100]!r} is not a list of strings")
    return cast(dict[str, list[str]], value)


def _metadata(value: object) -> Mapping[str, str]:
    if not value:
        if value is None or type(value) is dict:
            return _NOTHING
        raise BadMetaError("metadata is not an object")
    if type(value) is not dict:
        raise BadMetaError("metadata is not an object")
    for key, item in value.items():
        if type(item) is not str:
            raise BadMetaError(f"metadata {key[:100]!r} is not a string")
    return cast(dict[str, str], value)


def _link(value: object) -> Link | None:
    if value is None:
        return None
    if type(value) is not dict:
        raise BadMetaError("link is not an object")
    bucket = value.get("bucket")
    name = value.get("name")
    if type(bucket) is not str or not bucket:
        raise BadMetaError("its link names no bucket")
    if name is not None and type(name) is not str:
        raise BadMetaError("its link's name is not a string")
    return Link(bucket, name or None)
