"""Small JSON files of the agent's own, in a directory held open: each is whole, old or new, whenever we are killed."""

from __future__ import annotations

import json
import os
import secrets
import stat
from typing import Any

from agent.directory.faults import mapped

TEMPORARY = "new-"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 20


class OwnFiles:
    """The files of one directory, whose descriptor belongs to the caller."""

    def __init__(self, fd: int, *, where: str) -> None:
        self._fd = fd
        self._where = where

    def read(self, name: str) -> dict[str, Any] | None:
        """The object in the file; None when there is none, or something else. Raises PathError, SpaceError."""
        with mapped(f"{self._where}/{name}", "reading it"):
            try:
                fd = os.open(name, _READ, dir_fd=self._fd)
            except FileNotFoundError:
                return None
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                with os.fdopen(fd, "rb", buffering=_BLOCK, closefd=False) as file:
                    value = json.load(file)
            except (ValueError, RecursionError):
                return None  # damaged: as if it weren't there
            finally:
                os.close(fd)
        return value if isinstance(value, dict) else None

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Replace the file, durably. Raises PathError, SpaceError."""
        temporary = f"{TEMPORARY}{secrets.token_hex(6)}"
        data = memoryview(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
        with mapped(f"{self._where}/{name}", "writing it"):
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=self._fd)
            try:
                try:
                    while data:
                        data = data[os.write(fd, data) :]
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                self._unlink(temporary)
                raise
            os.fsync(self._fd)

    def remove(self, name: str) -> None:
        """Raises PathError."""
        with mapped(f"{self._where}/{name}", "removing it"):
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass
