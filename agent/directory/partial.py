"""Staged files that survive: a large download goes on where it stopped, after a restart too.

A partial is two files in staging. `part-<key>` holds the bytes; `part-<key>.mark` says for which path and digest they
are, and how far they are whole: so many bytes, which are so many chunks, the last of them at this stream sequence. The
mark is written after the bytes, in one small write at a fixed place, so that a kill at any instant leaves a mark that
is true: what the file holds beyond it is cut off. (After a power failure the mark may be newer than the bytes. That
shows in the digest of the whole, which is made of what was read back from the file: then it is begun anew.)

The key stands for all that the bytes depend on (the caller's business, it is hashed here): another version of the
object has another key, and never goes on with these bytes. Who wants a partial no more is told by `kept`, which the
caller looks through at intervals; one that was broken off without a mark is removed like any left-over.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from agent.directory import faults
from agent.directory.own import STAGING, OwnPlace
from agent.directory.stage import Staged

_PREFIX = "part-"
_MARK = ".mark"
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_MARK = 1 << 16


class Mark(NamedTuple):
    """How far a partial is whole: the bytes, the chunks that they are, and the stream sequence of the last one."""

    size: int = 0
    chunks: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A partial that nobody works on. used: seconds since 1970 at which its last mark was written."""

    name: str
    path: str
    digest: bytes
    used: float


class Partial(Staged):
    """One partial under work. Leaving the `with` block removes it, `keep` leaves it for the next attempt."""

    def __init__(
        self, *, staging_fd: int, name: str, fd: int, path: str, record: _Record, released: Callable[[str], None]
    ) -> None:
        super().__init__(staging_fd=staging_fd, name=name, fd=fd, path=path)
        self.mark = record.mark
        """How far the last attempt came. Its bytes have to be hashed by `rehash` before more are written."""
        self._record = record
        self._released = released
        self._open = True

    def rehash(self, most: int) -> bool:
        """Hash up to `most` bytes of those that are there; whether that were all. Raises PathError."""
        try:
            block = os.pread(self._fd, min(most, self.mark.size - self.size), self.size)
            self._hasher.update(block)
            self.size += len(block)
            done = not block or self.size == self.mark.size
            if done:
                os.lseek(self._fd, self.size, os.SEEK_SET)
        except OSError as exc:
            raise faults.from_os(exc, self.path, "reading its staged copy") from exc
        return done

    def note(self, *, chunks: int, seq: int) -> None:
        """What has been written so far is whole. Raises SpaceError, PathError."""
        self.mark = Mark(self.size, chunks, seq)
        try:
            self._record.write(self.mark)
        except OSError as exc:
            raise faults.from_os(exc, self.path, "staging it") from exc

    def restart(self) -> None:
        """Forget all bytes. Raises SpaceError, PathError."""
        self._hasher = hashlib.sha256()
        self.size = self._on_its_way = 0
        self.note(chunks=0, seq=0)
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError as exc:
            raise faults.from_os(exc, self.path, "staging it") from exc

    @property
    def digest_so_far(self) -> bytes:
        return self._hasher.digest()

    def keep(self) -> None:
        """Leave it for the next attempt."""
        self._close()
        self._end()

    def discard(self) -> None:
        """Remove it, or what is left of it when the file has been put in place."""
        if not self._open:
            return
        super().discard()
        _unlink(self.staging_fd, self.name + _MARK)
        self._end()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._record.close()
            self._released(self.name)


class _Record:
    """The file with the mark, open."""

    def __init__(self, fd: int, at: int, mark: Mark) -> None:
        self._fd = fd
        self._at = at
        self.mark = mark

    def write(self, mark: Mark) -> None:
        os.pwrite(self._fd, _line(mark), self._at)
        self.mark = mark

    def close(self) -> None:
        os.close(self._fd)


class Partials:
    """The partials of one root. Thread-safe."""

    def __init__(self, own: OwnPlace, *, file_mode: int) -> None:
        self._own = own
        self._mode = file_mode
        self._lock = threading.Lock()
        self._used: set[str] = set()

    def open(self, key: str, path: str, digest: bytes) -> Partial | None:
        """The partial of this key: the one that was kept, or a new one. None while somebody else works on it.

        Raises SpaceError, PathError.
        """
        name = _PREFIX + hashlib.sha256(f"{self._mode:o}\n{digest.hex()}\n{path}\n{key}".encode()).hexdigest()[:40]
        with self._lock:
            if name in self._used:
                return None
            self._used.add(name)
        try:
            staging_fd = self._own.staging
            fd, record = _reopen(staging_fd, name) or _create(staging_fd, name, self._mode, path, digest)
        except OSError as exc:
            self._release(name)
            raise faults.from_os(exc, path, "staging it") from exc
        except BaseException:
            self._release(name)
            raise
        return Partial(staging_fd=staging_fd, name=name, fd=fd, path=path, record=record, released=self._release)

    def kept(self) -> list[Kept]:
        """Those that nobody works on."""
        staging_fd = self._own.find(STAGING)
        if staging_fd is None:
            return []
        with self._lock:
            used = set(self._used)
        names = [name for name in os.listdir(staging_fd) if name.startswith(_PREFIX) and not name.endswith(_MARK)]
        found = (_kept(staging_fd, name) for name in names if name not in used)
        return [kept for kept in found if kept is not None]

    def drop(self, partials: Iterable[Kept]) -> None:
        """Remove these, unless somebody works on them by now."""
        staging_fd = self._own.find(STAGING)
        if staging_fd is None:
            return
        for kept in partials:
            with self._lock:
                if kept.name not in self._used:
                    _unlink(staging_fd, kept.name)
                    _unlink(staging_fd, kept.name + _MARK)

    def belongs(self, staging_fd: int, name: str) -> bool:
        """Whether a file in staging is (part of) a partial, which isn't swept."""
        if not name.startswith(_PREFIX):
            return False
        data = name.removesuffix(_MARK)
        return data in self._used or _kept(staging_fd, data) is not None

    def _release(self, name: str) -> None:
        with self._lock:
            self._used.discard(name)


def _line(mark: Mark) -> bytes:
    return b"%020d %020d %020d\n" % mark


def _create(staging_fd: int, name: str, mode: int, path: str, digest: bytes) -> tuple[int, _Record]:
    """New files under the name, whatever was there."""
    _unlink(staging_fd, name + _MARK)
    _unlink(staging_fd, name)
    fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, mode, dir_fd=staging_fd)
    try:
        record_fd = os.open(name + _MARK, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=staging_fd)
        try:
            head = json.dumps({"path": path, "digest": digest.hex()}).encode() + b"\n"
            os.write(record_fd, head + _line(Mark()))
        except BaseException:
            os.close(record_fd)
            raise
    except BaseException:
        os.close(fd)
        _unlink(staging_fd, name + _MARK)
        _unlink(staging_fd, name)
        raise
    return fd, _Record(record_fd, len(head), Mark())


def _reopen(staging_fd: int, name: str) -> tuple[int, _Record] | None:
    """The files that were kept under the name, cut to what is whole; None when they can't be gone on with."""
    found = _read(staging_fd, name)
    if found is None:
        return None
    _, _, at, mark = found
    try:
        fd = os.open(name, _FLAGS, dir_fd=staging_fd)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size < mark.size:
            os.close(fd)
            return None
        os.ftruncate(fd, mark.size)
        return fd, _Record(os.open(name + _MARK, _FLAGS, dir_fd=staging_fd), at, mark)
    except OSError:
        os.close(fd)
        return None


def _kept(staging_fd: int, name: str) -> Kept | None:
    found = _read(staging_fd, name)
    if found is None:
        return None
    try:
        os.stat(name, dir_fd=staging_fd, follow_symlinks=False)
        used = os.stat(name + _MARK, dir_fd=staging_fd, follow_symlinks=False).st_mtime
    except OSError:
        return None
    return Kept(name, found[0], found[1], used)


def _read(staging_fd: int, name: str) -> tuple[str, bytes, int, Mark] | None:
    """Path, digest, where the mark stands, and the mark; None for anything that we haven't written."""
    try:
        fd = os.open(name + _MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=staging_fd)
        try:
            text = os.read(fd, _LONGEST_MARK)
        finally:
            os.close(fd)
        head, line = text.split(b"\n")[:2]
        told = json.loads(head)
        size, chunks, seq = map(int, line.split())
        mark = Mark(size, chunks, seq)
        if min(mark) < 0 or _line(mark) != line + b"\n":
            return None
        return str(told["path"]), bytes.fromhex(told["digest"]), len(head) + 1, mark
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _unlink(staging_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=staging_fd)
    except OSError:
        pass  # not there; or a later sweep gets it
