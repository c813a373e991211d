"""Flushing a file system for several threads at once.

A flush that begins after somebody has asked writes all that they had written before; so one flush serves everybody who
asked while the one before it was under way, and flushes don't queue up behind each other.
"""

from __future__ import annotations

import threading

from agent.directory import syscalls


class Flush:
    """Of the file system that holds an open directory. Thread-safe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._one_at_a_time = threading.Lock()
        self._begun = 0
        self._error: OSError | None = None  # of the last one

    def __call__(self) -> None:
        """When it returns, all that was written before the call is on the device. Raises OSError."""
        before = self._begun
        with self._one_at_a_time:
            if self._begun == before:
                self._begun += 1
                self._error = self._flush()
            if self._error is not None:
                # The kernel tells of what it couldn't write once; all that waited for this flush are concerned.
                raise OSError(self._error.errno, self._error.strerror) from self._error

    def _flush(self) -> OSError | None:
        try:
            syscalls.syncfs(self._fd)
        except OSError as error:
            return error
        return None
