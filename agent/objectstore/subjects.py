"""Names on the wire: buckets, streams, subjects, nuids (ADR-20 "Stream Configuration", PROTOCOL 1).

A bucket `b` is the stream `OBJ_b`. The chunks of one object are messages on `$O.b.C.<nuid>`, in stream order; its meta
is the newest message on `$O.b.M.<padded base64url of the UTF-8 name>`.

Every name that goes into a subject or into a purge filter is checked here, before any request is made: a nuid of ">"
in a hostile meta would make a purge delete everything, and a subject over the server's control line (4096 bytes) makes
nats-py close its connection for good (PROTOCOL 6, trap 14).
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64

from agent.errors import BadMetaError, BucketNameError, ObjectNameError

MAX_NAME = 2048
"""Longest object name, in bytes of UTF-8: 2732 characters of subject, which leaves room for the reply subject."""

MAX_BUCKET_NAME = 240
"""The server's limit for a stream's name is 255 bytes; OBJ_ and a snapshot's suffix are parts of it."""

_BUCKET = re.compile(r"[a-zA-Z0-9_-]+")
_NUID = re.compile(r"[!-)+\-/0-=?-~]{1,128}")  # printable ASCII, less space "." "*" ">": one literal token
_META_DOTS = 3  # of $O.<bucket>.M.<name>; a bucket's name has none
_URLSAFE = bytes.maketrans(b"-_", b"+/")

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTERS = bytes(_DIGITS[number % len(_DIGITS)] for number in range(256))
"""A letter for each byte: eight of them come a quarter more often than the others, which costs 22 letters one bit."""


def new_nuid() -> str:
    """A fresh unique id: 22 characters of [0-9A-Za-z] as the other clients make them, here of 130 random bits."""
    return os.urandom(22).translate(_LETTERS).decode()


def check_bucket_name(bucket: str) -> str:
    """The name itself; raises BucketNameError when it isn't a bucket's name (ADR-20: letters, digits, "_", "-")."""
    if not _BUCKET.fullmatch(bucket):
        raise BucketNameError(
            f"{bucket!r} is not a bucket name", remedy="use letters, digits, '_' and '-' only (a bucket has no dots)"
        )
    if len(bucket) > MAX_BUCKET_NAME:
        raise BucketNameError(
            f"the bucket name {bucket[:40]!r}... is {len(bucket)} long", remedy=f"use {MAX_BUCKET_NAME} at most"
        )
    return bucket


def check_name(name: str) -> bytes:
    """The name's bytes; raises ObjectNameError for an empty name, one over MAX_NAME bytes, or one that isn't Unicode.

    Nothing else is refused: for the Object Store a name is any text. What a name may be as a path is decided in core.
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError as error:
        raise ObjectNameError(f"the object name {name!r} is not valid Unicode") from error
    if not raw:
        raise ObjectNameError("an object name can't be empty")
    if len(raw) > MAX_NAME:
        raise ObjectNameError(
            f"the object name {name[:40]!r}... has {len(raw)} bytes", remedy=f"shorten it to {MAX_NAME} bytes"
        )
    return raw


def is_nuid(text: str) -> bool:
    """Whether the text can stand as one literal token of a subject."""
    return _NUID.fullmatch(text) is not None


def stream_name(bucket: str) -> str:
    return f"OBJ_{bucket}"


def meta_prefix(bucket: str) -> str:
    return f"$O.{bucket}.M."


def all_metas(bucket: str) -> str:
    return f"$O.{bucket}.M.>"


def all_chunks(bucket: str) -> str:
    return f"$O.{bucket}.C.>"


def meta_subject(bucket: str, name: str) -> str:
    """The meta subject of an object. Raises ObjectNameError (see check_name)."""
    return f"$O.{bucket}.M.{urlsafe_b64encode(check_name(name)).decode()}"


def chunk_prefix(bucket: str) -> str:
    return f"$O.{bucket}.C."


def chunk_subject(bucket: str, nuid: str) -> str:
    """The chunk subject of a nuid. Raises BadMetaError when it isn't one literal token."""
    if not is_nuid(nuid):
        raise BadMetaError(f"{nuid!r} can't be an object's nuid in bucket {bucket!r}")
    return chunk_prefix(bucket) + nuid


def permission_for(subject: str) -> str:
    """What a user must be allowed to publish to, so that this subject and the others of its kind in the bucket are."""
    tokens = subject.split(".")
    if tokens[0] == "$O" and len(tokens) > 3:
        return ".".join([*tokens[:3], "*" if tokens[2] == "C" else ">"])
    stream = next((number for number, token in enumerate(tokens) if token.startswith("OBJ_")), len(tokens))
    return ".".join([*tokens[: stream + 1], ">"]) if tokens[stream + 1 :] else subject


def last_token(subject: str) -> str:
    return subject.rpartition(".")[2]


def name_of(subject: str) -> str:
    """The object name in a meta subject. Raises BadMetaError when it isn't the one subject that the name has.

    Anybody may publish on `$O.b.M.x.YQ==`, or on another base64 of the same bytes: a meta there would pass for a newer
    one of the object "a", while the clients, and every precondition, look at the subject that `meta_subject` gives.
    """
    token = last_token(subject)
    try:
        name = a2b_base64(token.encode().translate(_URLSAFE), strict_mode=True).decode()
    except (Base64Error, UnicodeError) as error:
        raise _no_meta_subject(subject, "has no object name in it") from error
    if not name:
        raise _no_meta_subject(subject, "has an empty object name in it")
    if subject.count(".") != _META_DOTS or urlsafe_b64encode(name.encode()).decode() != token:
        raise _no_meta_subject(subject, "isn't the one of the object name in it")
    return name


def _no_meta_subject(subject: str, why: str) -> BadMetaError:
    return BadMetaError(f"the subject {subject[:200]!r} {why}", remedy="purge the subject from the bucket's stream")
