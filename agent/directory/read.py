"""Reading files: stat, hash, stat again; a result only when nothing changed in between.

**Racily clean.** Equal signatures mean equal content only if a later write must change the signature. A write sets
ctime to the kernel's clock, which moves in ticks (at most 10 ms; 2 s on file systems without sub-second times). So a
file whose ctime isn't at least a granule older than the moment we began to read could be written again within the same
tick and look the same: it is `racy`, and the next look hashes it again. A ctime in the future (the clock was set back)
is racy too, until the clock has passed it. On network file systems the times are the server's clock: a server that is
behind by more than the granule hides this case until `rehash`, as do writes through a mapping of a file (mmap), which
move ctime only when the page is next written back.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import time

from agent.core.entries import Entry, Kind, Local, Obstacle, Reason, Signature
from agent.directory import dirfd, faults
from agent.directory.contents import Contents
from agent.directory.follow import DanglingError, OutsideError
from agent.directory.look import Looker, has_signature, signature_of
from agent.errors import DirectoryError, PathError, StaleError

GRANULE_NS = 20_000_000  # twice the longest tick of a Linux kernel (HZ=100)
COARSE_GRANULE_NS = 2_000_000_000  # FAT; NFS and ext3 have 1 s

_TRIES = 3
_BLOCK = 1 << 20
_CHECK_EVERY = 64  # blocks between two looks whether it is worth going on

_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # NONBLOCK: a fifo put in the file's place must not hang us
_CHANGING = Local(Obstacle(Reason.CHANGING, "the file changed each time it was read; it is tried again later"))

_buffers = threading.local()


def is_racy(ctime_ns: int, began_ns: int) -> bool:
    """Whether a file with this ctime, first looked at at `began_ns` (ns since 1970), may change unnoticed."""
    return ctime_ns > began_ns - granule_of(ctime_ns)


def granule_of(time_ns: int) -> int:
    """How far apart two writes have to be for their times to differ, judged by the look of one of them."""
    return COARSE_GRANULE_NS if time_ns % 1_000_000_000 == 0 else GRANULE_NS


class OpenFile(io.FileIO):
    """A file opened for reading under the expectation that it has a given signature. Unbuffered; a context manager.

    That it has ended is told only when it still is that version: reading at its end raises StaleError otherwise.
    """

    def __init__(self, fd: int, path: str, expected: Signature) -> None:
        super().__init__(fd, "rb", closefd=True)
        self.path = path
        self.expected = expected

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size if size is not None else -1)
        assert block is not None  # a regular file never blocks
        if not block:
            self.confirm()
        return block

    def confirm(self) -> None:
        """See that what has been read is of one version, the one that was opened. Raises StaleError."""
        if not has_signature(os.fstat(self.fileno()), self.expected):
            raise StaleError(f"{self.path}: the file changed while it was read")


class Reader:
    """Reads files of a tree. Thread-safe; blocking; the hash runs without the interpreter's lock."""

    def __init__(self, looker: Looker) -> None:
        self._looker = looker

    def open(self, path: str, expected: Signature) -> OpenFile:
        """Open a file that is expected to have this signature. Raises StaleError, PathError, SpaceError."""
        dirfd.check(path)
        try:
            fd = self._looker.open(path, _READ_FLAGS)
        except (OutsideError, DanglingError) as exc:
            raise StaleError(f"{path}: a link on the way leads elsewhere") from exc
        except OSError as exc:
            if faults.is_absent(exc):
                raise StaleError(f"{path}: the file is gone") from exc
            raise _unreadable(exc, path) from exc
        try:
            if not has_signature(os.fstat(fd), expected):
                raise StaleError(f"{path}: the file changed")
            return OpenFile(fd, path, expected)
        except BaseException:
            os.close(fd)
            raise

    def is_unchanged(self, path: str, expected: Signature) -> bool:
        """Whether the path still is what has this signature."""
        try:
            fd = self._looker.open(path, os.O_PATH)
        except (OSError, OutsideError, DanglingError):
            return False
        try:
            return has_signature(os.fstat(fd), expected)
        finally:
            os.close(fd)

    def read(self, path: str, keep: Contents | None = None) -> Local | None:
        """The local side of `path`, hashed if it is a file; None when absent. A file that keeps changing: CHANGING.

        keep: gets the bytes of a small one.

        Raises SpaceError when the machine is short of descriptors or memory.
        """
        for _ in range(_TRIES):
            try:
                return self._read_file(path, keep)
            except _NotAFileError:
                return self._looker.look(path).local
            except ChangedError:
                continue
        return _CHANGING

    def _read_file(self, path: str, keep: Contents | None) -> Local | None:
        try:
            dirfd.check(path)
            began_ns = time.time_ns()
            fd = self._looker.open(path, _READ_FLAGS)
        except (DirectoryError, OutsideError, DanglingError) as exc:
            raise _NotAFileError from exc
        except OSError as exc:
            found = self._looker.look(path)  # a link, a socket, or absent: the look knows; else it is unreadable
            if found.kind == "file":
                return Local(faults.obstacle(exc, path), found.signature)
            raise _NotAFileError from exc
        try:
            before = os.fstat(fd)
            if not self._looker.is_file(before) or path.endswith("/"):
                raise _NotAFileError
            signature = signature_of(before)
            if keep is None or signature.size > keep.largest:
                return _local(signature, before, hash_descriptor(fd, signature), began_ns)
            data = _read_small(fd, signature)
            local = _local(signature, before, hashlib.sha256(data).digest(), began_ns)
            keep.keep(path, signature, data)
            return local
        except OSError as exc:
            return Local(faults.obstacle(exc, path), None)
        finally:
            os.close(fd)


def _local(signature: Signature, status: os.stat_result, digest: bytes, began_ns: int) -> Local:
    executable = bool(status.st_mode & stat.S_IXUSR)
    entry = Entry(Kind.FILE, digest, signature.size, executable, signature.mtime_ns)
    return Local(entry, signature, is_racy(signature.ctime_ns, began_ns))


def hash_descriptor(fd: int, expected: Signature) -> bytes:
    """SHA-256 of a file from its descriptor's position to its end. Raises ChangedError when it isn't as expected."""
    size = expected.size
    if size <= _BLOCK:
        return hashlib.sha256(_read_small(fd, expected)).digest()
    hasher = hashlib.sha256()
    view = memoryview(_buffer())
    done = count = 0
    while done <= size and (length := os.readv(fd, [view])):
        hasher.update(view[:length])
        done += length
        count += 1
        if count % _CHECK_EVERY == 0 and not has_signature(os.fstat(fd), expected):
            raise ChangedError
    if done != size or not has_signature(os.fstat(fd), expected):
        raise ChangedError
    return hasher.digest()


def _read_small(fd: int, expected: Signature) -> bytes:
    """A file of at most one block, mostly by one read; a byte more is asked for, to notice growth. Raises as above."""
    size = expected.size
    data = os.read(fd, size + 1)
    if len(data) < size:  # a short read, or the file shrank
        while more := os.read(fd, size + 1 - len(data)):
            data += more
    if len(data) != size or not has_signature(os.fstat(fd), expected):
        raise ChangedError
    return data


def _buffer() -> bytearray:
    """A block for each thread, so that a large file doesn't cost an allocation for every read."""
    found: bytearray | None = getattr(_buffers, "block", None)
    if found is None:
        found = _buffers.block = bytearray(_BLOCK)
    return found


def _unreadable(exc: OSError, path: str) -> DirectoryError:
    problem = faults.obstacle(exc, path)
    return PathError(f"{path}: {problem.detail}", reason=problem.reason)


class ChangedError(Exception):
    """The file was written while it was hashed."""


class _NotAFileError(Exception):
    """What is there isn't a regular file: a look tells more."""
