"""The system calls that Python's `os` lacks, and a record of which of them this kernel and file system have.

openat2     opens a path below a directory in one call that can't be led astray: no symlink in it is followed and no
            mount point crossed. Old kernels (before 5.6) and old seccomp profiles refuse it; `dirfd` then walks.
renameat2   RENAME_NOREPLACE never overwrites, RENAME_EXCHANGE swaps two names atomically. Some file systems (NFS,
            many FUSE ones, vfat for EXCHANGE) answer EINVAL; `place` then falls back to hard links.
syncfs      flushes one file system: the grouped form of many fsync calls.
fstatfs     tells the type of a file system.
sync_file_range
            begins to write a part of a file to its device, so that a later fsync has less to wait for.

`Capabilities` is data: it starts as what the kernel has (`probe`), a file system's refusal clears a field, and tests
hand in a poorer one to walk the fallbacks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

AT_FDCWD = -100

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

# The same number on every architecture: openat2 came after the numbers were unified (except alpha, which adds 110).
_SYS_OPENAT2 = 437

_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_HOW_SIZE = 24

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]

_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.restype = ctypes.c_int
    _renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

_syncfs = _libc.syncfs
_syncfs.restype = ctypes.c_int
_syncfs.argtypes = [ctypes.c_int]

_fstatfs = _libc.fstatfs
_fstatfs.restype = ctypes.c_int
_fstatfs.argtypes = [ctypes.c_int, ctypes.c_char_p]

_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(_libc, "sync_file_range", None)  # musl lacks it on some architectures
if _sync_file_range is not None:
    _sync_file_range.restype = ctypes.c_int
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

# statfs(2): file systems where another machine can change files without this kernel noticing.
_NETWORK = {
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x517B: "smb",
    0x65735546: "fuse",  # sshfs, s3fs, glusterfs, virtiofs and the like
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x6B414653: "kafs",
    0x73757245: "coda",
    0x0BD00BD0: "lustre",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x786F4256: "vboxsf",
    0xBACBACBC: "vmhgfs",
    0x564C: "ncpfs",
}
_OVERLAY = 0x794C7630
# vfat, exfat, ntfs, ntfs3, hfs, hfsplus, cifs, smb2
CASE_INSENSITIVE_TYPES = frozenset({0x4D44, 0x2011BAB0, 0x5346544E, 0x7366746E, 0x4244, 0x482B, 0xFF534D42, 0xFE534D42})


@dataclass(slots=True)
class Capabilities:
    """What may be used. A field goes from True to False when the file system refuses, never back."""

    openat2: bool = True
    exchange: bool = True
    noreplace: bool = True
    hard_links: bool = True

    @classmethod
    def probe(cls, root_fd: int) -> Capabilities:
        """What the kernel (or the seccomp profile around us) lets through; the file system speaks up at first use."""
        rename = _kernel_has_renameat2(root_fd)
        return cls(openat2=_kernel_has_openat2(root_fd), exchange=rename, noreplace=rename)


def _kernel_has_openat2(root_fd: int) -> bool:
    try:
        os.close(openat2(root_fd, ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _kernel_has_renameat2(root_fd: int) -> bool:
    # An empty name is refused with ENOENT by the call itself; a filter around us says EPERM or ENOSYS instead.
    try:
        renameat2(root_fd, "", root_fd, "", RENAME_NOREPLACE)
    except OSError as exc:
        return exc.errno == errno.ENOENT
    return True


def _raise(path: str, other: str | None = None) -> None:
    number = ctypes.get_errno()
    if other is None:
        raise OSError(number, os.strerror(number), path)
    raise OSError(number, os.strerror(number), path, None, other)


def openat2(dir_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` below `dir_fd`: no symlink is followed, no mount is crossed, ".." can't leave.

    With O_PATH | O_NOFOLLOW the last component may be a symlink (the descriptor is then the link itself).

    Raises OSError: ELOOP a symlink is on the way; EXDEV another mount, or an escape; the usual ones of open(2).
    """
    how = struct.pack("=QQQ", flags, mode, _RESOLVE)
    encoded = os.fsencode(path)
    while True:
        fd: int = _syscall(_SYS_OPENAT2, dir_fd, encoded, how, _HOW_SIZE)
        if fd >= 0:
            return fd
        if ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN):
            _raise(path)


def renameat2(src_fd: int, src: str, dst_fd: int, dst: str, flags: int) -> None:
    """rename(2) by descriptors with `flags`. Raises OSError; ENOSYS where the C library is too old."""
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), src)
    while _renameat2(src_fd, os.fsencode(src), dst_fd, os.fsencode(dst), flags):
        if ctypes.get_errno() != errno.EINTR:
            _raise(src, dst)


def syncfs(fd: int) -> None:
    """Write everything of the file system that holds `fd` to its device. Raises OSError."""
    if _syncfs(fd):
        _raise("")


def begin_to_write(fd: int, start: int, size: int) -> None:
    """Have these bytes of a file on their way to the device, where that can be asked for. It promises nothing: only an
    fsync does."""
    if _sync_file_range is not None:
        _sync_file_range(fd, start, size, _SYNC_FILE_RANGE_WRITE)


def file_system_type(fd: int) -> int:
    """statfs(2)'s f_type; 0 when it can't be told."""
    buffer = ctypes.create_string_buffer(256)
    if _fstatfs(fd, buffer):
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF


def network_file_system(fd: int) -> str:
    """The name of a file system that others can change behind this kernel's back ("nfs", "fuse"...); "" for local."""
    return _NETWORK.get(file_system_type(fd), "")


def is_overlay(fd: int) -> bool:
    """On overlayfs the st_dev of files may differ from that of their directory (kernel docs, overlayfs.rst)."""
    return file_system_type(fd) == _OVERLAY
