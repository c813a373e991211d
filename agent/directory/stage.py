"""Staging: bytes come near under a name that nobody looks at, are hashed on the way, and are whole before they move.

    with directory.stage("a/b") as staged:
        for block in source:
            staged.write(block)
        staged.finish(executable=True, mtime_ns=...)     # mode, time, fsync; `staged.digest` is now known
        directory.put_file("a/b", staged, expected)      # one rename; see `apply`

Files that are at hand whole are staged many at a time (`Staging.many`), and put in place so (`together`).

Leaving the block removes what hasn't been put in place. What a crash leaves in `.jetsync/staging/` is never anybody's
only copy (a replaced file goes straight into the trash, see `place`), so that `sweep` may remove it at the start: all
but the parts of large downloads that can go on (`partial`).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from agent.directory import faults, syscalls
from agent.directory.own import STAGING, OwnPlace
from agent.errors import DirectoryError

T = TypeVar("T")

# Bytes after which what was written is sent on its way to the device: at the end fsync waits for no more than this.
_WRITE_BACK = 8 << 20

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Staged:
    """One file on its way. Used by one thread at a time.

    After `finish`: digest (32 bytes), size, inode, mtime_ns, mode (permission bits), executable (as given).
    """

    def __init__(self, *, staging_fd: int, name: str, fd: int, path: str) -> None:
        self.staging_fd = staging_fd
        self.name = name
        self.path = path
        self.size = 0
        self.digest = b""
        self.executable: bool | None = None
        self.mtime_ns = 0
        self.inode = 0
        self.mode = 0
        self.uid = self.gid = 0
        self.placed = False  # the file has left staging: it isn't ours to remove any more
        self._fd = fd
        self._hasher = hashlib.sha256()
        self._on_its_way = 0

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Append. Raises SpaceError, PathError."""
        self._hasher.update(block)
        self.size += len(block)
        try:
            written = os.write(self._fd, block)
            while written < len(block):
                block = memoryview(block)[written:]
                written = os.write(self._fd, block)
        except OSError as exc:
            raise faults.from_os(exc, self.path, "staging it") from exc
        if self.size - self._on_its_way >= _WRITE_BACK:
            syscalls.begin_to_write(self._fd, self._on_its_way, self.size - self._on_its_way)
            self._on_its_way = self.size

    def finish(self, *, executable: bool | None = None, mtime_ns: int | None = None, durable: bool = True) -> bytes:
        """Complete the file and give its digest.

        executable: adds the x bits where r is set; None = unknown (no x; a replaced file's bits stay). mtime_ns: None
        = now. durable: fsync now; False leaves it to one `Directory.sync()` for many files, before they are put.

        Raises SpaceError, PathError.
        """
        self.executable = executable
        try:
            if executable:
                mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
                os.fchmod(self._fd, with_executable(mode, executable=True))
            if mtime_ns is not None:
                self._set_mtime(mtime_ns)
            if durable:
                os.fsync(self._fd)
            status = os.fstat(self._fd)
        except OSError as exc:
            raise faults.from_os(exc, self.path, "completing its staged copy") from exc
        finally:
            self._close()
        self.digest = self._hasher.digest()
        self.inode = status.st_ino
        self.mtime_ns = status.st_mtime_ns
        self.mode = stat.S_IMODE(status.st_mode)
        self.uid, self.gid = status.st_uid, status.st_gid
        return self.digest

    def _set_mtime(self, mtime_ns: int) -> None:
        try:
            os.utime(self._fd, ns=(mtime_ns, mtime_ns))
        except (OSError, OverflowError):
            pass  # a year that no file system holds: the time stays, and what was read back tells (DESIGN section 4)

    @property
    def finished(self) -> bool:
        return bool(self.digest)

    def discard(self) -> None:
        """Remove the file unless it has been put in place. Never raises for what is already gone."""
        self._close()
        if not self.placed:
            self.placed = True
            try:
                os.unlink(self.name, dir_fd=self.staging_fd)
            except OSError:
                pass  # the next start's sweep gets it

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()


class Whole(NamedTuple):
    """A file that is at hand whole. executable, mtime_ns: as `Staged.finish` takes them."""

    path: str
    data: bytes
    executable: bool | None
    mtime_ns: int | None


class Staging:
    """Makes staged files of one root, all with the same mode. Thread-safe."""

    def __init__(self, own: OwnPlace, *, file_mode: int) -> None:
        self._own = own
        self._mode = file_mode
        self._prefix = secrets.token_hex(6)  # so that a left-over of an earlier run can't be in the way
        self._numbers = itertools.count(1)

    def new_name(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    def open(self, path: str) -> Staged:
        """A new staged file. The file system takes the umask off its mode. Raises SpaceError, PathError."""

        def create(staging_fd: int, name: str) -> Staged:
            fd = os.open(name, _CREATE, self._mode, dir_fd=staging_fd)
            return Staged(staging_fd=staging_fd, name=name, fd=fd, path=path)

        return self._make(create, path)

    def many(self, files: Sequence[Whole], *, durable: bool) -> list[Staged | DirectoryError]:
        """Each of the files, finished; or why it isn't. The caller discards them."""
        staged: list[Staged | DirectoryError] = []
        staging_fd = -1
        for file in files:
            one: Staged | None = None
            try:
                if staging_fd < 0:
                    staging_fd = self._own.staging  # a look at where it is: for all of them once
                one = self._begin(staging_fd, file.path)
                one.write(file.data)
                one.finish(executable=file.executable, mtime_ns=file.mtime_ns, durable=durable)
                staged.append(one)
            except DirectoryError as error:
                if one is not None:
                    one.discard()
                staged.append(error)
        return staged

    def _begin(self, staging_fd: int, path: str) -> Staged:
        name = self.new_name()
        try:
            fd = os.open(name, _CREATE, self._mode, dir_fd=staging_fd)
        except OSError:
            return self.open(path)  # which looks where the directory is now, and tells what is wrong
        return Staged(staging_fd=staging_fd, name=name, fd=fd, path=path)

    def link(self, text: str, path: str) -> tuple[int, str]:
        """A new staged symlink: the open directory and the name it has there. Raises SpaceError, PathError."""

        def create(staging_fd: int, name: str) -> tuple[int, str]:
            os.symlink(text, name, dir_fd=staging_fd)
            return staging_fd, name

        return self._make(create, path)

    def _make(self, create: Callable[[int, str], T], path: str) -> T:
        try:
            try:
                return create(self._own.staging, self.new_name())
            except FileNotFoundError:  # somebody has just removed the agent's own directory: it is made again
                return create(self._own.staging, self.new_name())
        except OSError as exc:
            raise faults.from_os(exc, path, "staging it") from exc

    def sweep(self, stays: Callable[[int, str], bool] = lambda _fd, _name: False) -> int:
        """Remove what earlier runs left, but for what `stays`; the caller holds the lock of the root. Returns how many
        files."""
        removed = 0
        staging_fd = self._own.find(STAGING)
        if staging_fd is None:
            return 0
        for name in os.listdir(staging_fd):
            if name.startswith(self._prefix) or stays(staging_fd, name):
                continue
            try:
                os.unlink(name, dir_fd=staging_fd)
                removed += 1
            except OSError:
                continue  # a directory somebody made there, or no permission: not worth an error
        return removed


def with_executable(mode: int, *, executable: bool) -> int:
    """The mode with the x bits set where r is set, or without any."""
    return mode | ((mode & 0o444) >> 2) if executable else mode & ~0o111
