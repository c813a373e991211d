"""What kind of place a root is, found out without writing."""

from __future__ import annotations

import codecs
import fcntl
import os
import stat
import sys

from agent.directory import syscalls
from agent.errors import RootError

_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h, 64 bit
_FS_CASEFOLD_FL = 0x40000000
_NAMES = 200  # tried at most


def check_encoding() -> None:
    """File names have to be UTF-8 to Python too. Raises RootError in a locale where they aren't."""
    encoding = sys.getfilesystemencoding()
    if codecs.lookup(encoding).name != "utf-8":
        raise RootError(f"file names would be read as {encoding}", remedy="set PYTHONUTF8=1 or a UTF-8 locale")


def is_writable(root_fd: int) -> bool:
    """Whether something can be made in the directory: not on a read-only mount, and with permission."""
    if os.fstatvfs(root_fd).f_flag & os.ST_RDONLY:
        return False
    return os.access(".", os.W_OK | os.X_OK, dir_fd=root_fd, effective_ids=os.access in os.supports_effective_ids)


def is_case_insensitive(root_fd: int) -> bool:
    """Whether names that differ only by case are one: by trying names that are there, else by the file system."""
    try:
        with os.scandir(root_fd) as found:
            for _, entry in zip(range(_NAMES), found, strict=False):
                other = entry.name.swapcase()
                if other != entry.name and entry.name.isascii():
                    return _is_same(root_fd, entry.name, other)
    except OSError:
        pass
    return _has_casefold_flag(root_fd) or syscalls.file_system_type(root_fd) in syscalls.CASE_INSENSITIVE_TYPES


def _is_same(root_fd: int, name: str, other: str) -> bool:
    try:
        first = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
        second = os.stat(other, dir_fd=root_fd, follow_symlinks=False)
    except OSError:
        return False
    # Two hard links "a" and "A" would pass for one name, were it not for their count; directories have none.
    alone = first.st_nlink == 1 or stat.S_ISDIR(first.st_mode)
    return first.st_ino == second.st_ino and alone


def _has_casefold_flag(root_fd: int) -> bool:
    """ext4 and f2fs fold case by directory, when told so."""
    try:
        flags = fcntl.ioctl(root_fd, _FS_IOC_GETFLAGS, b"\0" * 8)
    except OSError:
        return False  # a file system without such flags
    return bool(int.from_bytes(flags[:4], sys.byteorder) & _FS_CASEFOLD_FL)
