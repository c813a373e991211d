"""Signatures of publishers: Ed25519 by NATS nkeys, so that the keys are those that people have for NATS anyway.

A seed file has one line that begins with "S", as `nk -gen user` or `nsc` write it; other lines (a .creds file has some)
are passed over. The public key, "U..." for a user's, is what `trusted_publishers` names. What exactly is signed is said
in `core.channels`.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import nkeys
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import VerifyKey

from agent.errors import SnapshotError

_KEY_BYTES = 35  # prefix, 32 bytes of key, CRC-16
_MAX_SEED_FILE = 64 << 10


class Signer:
    """A publisher's key. `public`: the nkey that others trust."""

    def __init__(self, seed: bytes) -> None:
        self._key = nkeys.from_seed(bytearray(seed))
        self.public = self._key.public_key.decode()

    @classmethod
    def from_file(cls, path: Path) -> Signer:
        """:raises SnapshotError: it can't be read, or has no seed"""
        try:
            with path.open("rb") as file:
                lines = file.read(_MAX_SEED_FILE).splitlines()
        except OSError as error:
            raise SnapshotError(
                f"{path} can't be read: {error.strerror}", remedy="it must be a file with an nkey seed"
            ) from error
        for line in lines:
            if line.strip().startswith(b"S"):
                try:
                    return cls(line.strip())
                except (nkeys.NkeysError, ValueError, binascii.Error, CryptoError):
                    continue
        raise SnapshotError(f"{path} has no nkey seed in it", remedy="make one: nk -gen user > FILE")

    def sign(self, data: bytes) -> str:
        """The signature, base64url."""
        return base64.urlsafe_b64encode(self._key.sign(data)).decode()


def verified(public: str, signature: str, data: bytes) -> bool:
    """Whether `signature` is that of the nkey `public` over `data`. Never raises for what a bucket may have."""
    key = _raw(public)
    if key is None:
        return False
    try:
        VerifyKey(key).verify(data, base64.b64decode(signature, altchars=b"-_", validate=True))
    except (BadSignatureError, CryptoError, ValueError, TypeError, binascii.Error):
        return False
    return True


def _raw(public: str) -> bytes | None:
    """The 32 bytes in a public nkey, or None when it isn't one."""
    try:
        decoded = base64.b32decode(public + "=" * (-len(public) % 8))
    except (ValueError, binascii.Error):
        return None
    if len(decoded) != _KEY_BYTES or nkeys.crc16(bytearray(decoded[:-2])) != int.from_bytes(decoded[-2:], "little"):
        return None
    return decoded[1:-2]
