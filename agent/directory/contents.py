"""The bytes of small new files between the look that has hashed them and the upload that sends them.

A first sync would read and hash each file twice within a second. What a look has read whole, with the file's signature
the same before and after, is kept under that signature, up to a bound; what finds no room is read again. Whoever takes
it sees to it that the file still has the signature (`Directory.open_read` or `is_unchanged`).

Nothing gives way to what comes later: uploads follow in the order of the looks, so that the oldest is wanted next.
"""

from __future__ import annotations

import threading

from agent.core.entries import Signature

LIMIT = 32 << 20
_COST = 256  # of an entry, beside its bytes


class Contents:
    """Thread-safe. largest: files over this size aren't kept."""

    def __init__(self, *, largest: int, limit: int = LIMIT) -> None:
        self.largest = largest
        self._free = limit
        self._kept: dict[str, tuple[Signature, bytes]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, path: str, signature: Signature, data: bytes) -> None:
        with self._lock:
            self._drop(path)
            cost = len(data) + _COST
            if cost <= self._free:
                self._free -= cost
                self._kept[path] = (signature, data)

    def take(self, path: str, signature: Signature) -> bytes | None:
        """The file's bytes, once; None when those of another version, or none, are here."""
        if not self._kept:
            return None
        with self._lock:
            found = self._drop(path)
        return found[1] if found is not None and found[0] == signature else None

    def clear(self) -> None:
        """Whatever is left is not going to be uploaded."""
        with self._lock:
            for path in list(self._kept):
                self._drop(path)

    def _drop(self, path: str) -> tuple[Signature, bytes] | None:
        found = self._kept.pop(path, None)
        if found is not None:
            self._free += len(found[1]) + _COST
        return found
