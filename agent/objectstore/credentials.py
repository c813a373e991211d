"""How to get in: servers, secrets and TLS, in the form the client needs, read anew for each attempt to connect.

Secrets live in files that other programs rotate (Kubernetes secrets, short-lived credentials). nats-py reads some of
them once, and reads an empty credentials file in an endless loop; so the files are read here, at each CONNECT, and a
file that is half written is an error like any other: the next attempt reads it again. nkeys is imported by those who
have a seed: its cryptography is a library of its own.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from agent.errors import ConnectError, NotAllowedError

_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+(\S+)\s+-+END")
_SEED = re.compile(r"-----BEGIN USER NKEY SEED-----\s+(\S+)\s+-+END")


class TlsFiles(Protocol):
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...


class Access(Protocol):
    """The part of config.model.Nats that is needed to connect."""

    @property
    def servers(self) -> Sequence[str]: ...
    @property
    def domain(self) -> str | None: ...
    @property
    def credentials_file(self) -> Path | None: ...
    @property
    def nkey_seed_file(self) -> Path | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def password_file(self) -> Path | None: ...
    @property
    def token_file(self) -> Path | None: ...
    @property
    def tls(self) -> TlsFiles | None: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An Access for those who have no configuration file: tests, tools, users of this package as a library."""

    servers: Sequence[str]
    domain: str | None = None
    credentials_file: Path | None = None
    nkey_seed_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What goes into one CONNECT. `jwt` and `nkey` go with `seed`, which signs the server's nonce. Never shown."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    jwt: str | None = None
    nkey: str | None = None
    seed: str | None = None

    @property
    def any(self) -> bool:
        return any((self.user, self.token, self.seed))

    def sign(self, nonce: str) -> bytes:
        """The base64 signature of the server's nonce (the server's "nonce" field, signed with the user's seed)."""
        from nkeys import from_seed

        assert self.seed is not None
        pair = from_seed(bytearray(self.seed.encode()))
        try:
            return b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()


def read_secrets(access: Access, *, user: str | None = None, password: str | None = None) -> Secrets:
    """Read the secrets' files. `user` and `password` stand in for the files (the embedded server's).

    Raises NotAllowedError when a file can't be read or isn't what it should be; its text never has a secret in it.
    """
    if access.credentials_file is not None:
        text = _read(access.credentials_file, "credentials_file")
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            raise NotAllowedError(
                f"{access.credentials_file} is not a credentials file",
                remedy="it must have a USER JWT and a USER NKEY SEED section, as nsc writes it",
            )
        _public_key(seed[1], access.credentials_file)
        return Secrets(jwt=jwt[1], seed=seed[1])
    if access.nkey_seed_file is not None:
        seed_text = _read(access.nkey_seed_file, "nkey_seed_file").strip()
        return Secrets(nkey=_public_key(seed_text, access.nkey_seed_file), seed=seed_text)
    if access.token_file is not None:
        return Secrets(token=_read(access.token_file, "token_file").strip())
    if password is None and access.password_file is not None:
        password = _read(access.password_file, "password_file").strip("\r\n")
    return Secrets(user=user or access.user, password=password)


def tls_context(access: Access) -> ssl.SSLContext | None:
    """The TLS context of the configured files; None when nothing is configured (the system's roots are used then).

    Raises ConnectError when a file is missing or isn't PEM.
    """
    if access.tls is None:
        return None
    files = access.tls
    try:
        context = ssl.create_default_context(cafile=str(files.ca_file) if files.ca_file else None)
        if files.cert_file:
            context.load_cert_chain(str(files.cert_file), str(files.key_file) if files.key_file else None)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        remedy = "check tls.ca_file, cert_file, key_file"
        raise ConnectError(f"can't load the TLS files: {error}", remedy=remedy) from error
    return context


def display_url(url: str) -> str:
    """A server's URL as it may be shown: without user, password or token."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        remedy = "check the path and its permissions"
        raise NotAllowedError(f"can't read {what} {path}: {reason}", remedy=remedy) from error


def _public_key(seed: str, path: Path) -> str:
    from nkeys import NkeysError, from_seed

    try:
        pair = from_seed(bytearray(seed.encode()))
        public = bytes(pair.public_key).decode()
        pair.wipe()
    except (NkeysError, ValueError) as error:
        raise NotAllowedError(f"{path} has no valid nkey seed", remedy="an nkey user seed begins with SU") from error
    return public
