"""One agent per state_dir: an exclusive flock on `state_dir/lock`, with the owner's pid in it for people.

The kernel drops the lock when the process ends, however it ends, so there are no stale locks and the pid is never used
to decide anything. The file itself stays: removing it would let two processes lock two files of one name.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.errors import LockedError, StateError
from agent.state.files import make_private_directory


class StateLock:
    """A lock that is held until `release()`, or the end of the `with` block."""

    def __init__(self, path: Path, descriptor: int | None, *, shared: bool = False) -> None:
        self.path = path
        self._descriptor = descriptor
        self._shared = shared

    def release(self) -> None:
        if self._descriptor is not None:
            if not self._shared:
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock(state_dir: Path) -> StateLock:
    """Lock the state directory, which is made when it is missing. Never waits.

    :raises LockedError: another process has it; its pid is named
    :raises StateError: the directory or the file can't be made
    """
    path = state_dir / "lock"
    try:
        make_private_directory(state_dir)
        # Python opens with O_CLOEXEC, so that children (an embedded server, a hook) don't keep the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(
            f"the state directory {state_dir} can't be used: {error.strerror}",
            remedy="check that it can be written by the agent's user, or choose another state_dir",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise _refused(state_dir, descriptor, error) from error
    return StateLock(path, descriptor)


def lock_for_reading(state_dir: Path) -> StateLock:
    """Keep others from writing to the state directory, changing nothing in it. One that isn't there needs no lock.

    :raises LockedError: a process that writes has it
    :raises StateError: the file can't be opened
    """
    path = state_dir / "lock"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return StateLock(path, None)
    except OSError as error:
        raise StateError(f"the state directory {state_dir} can't be read: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        raise _refused(state_dir, descriptor, error) from error
    return StateLock(path, descriptor, shared=True)


def _refused(state_dir: Path, descriptor: int, error: OSError) -> StateError | LockedError:
    owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    os.close(descriptor)
    if error.errno not in (errno.EAGAIN, errno.EACCES):
        return StateError(f"the state directory {state_dir} can't be locked: {error.strerror}")
    return LockedError(
        f"the state directory {state_dir} is used by another jetsync" + (f" (pid {owner})" if owner else ""),
        remedy="stop it, or give this one its own state_dir",
    )
