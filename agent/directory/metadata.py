"""Permission bits, owner and mtime: set by descriptor, read back, and never a reason to fail.

What the file system or the owner refuses to set is recorded as it is (DESIGN section 4: "a failed set is recorded, not
retried"); the caller compares what it asked for with the Local it gets.
"""

from __future__ import annotations

import os
import stat

from agent.core.entries import Entry, Local
from agent.directory import expect
from agent.directory.dirfd import Tree
from agent.directory.look import signature_of
from agent.directory.stage import Staged, with_executable
from agent.directory.trash import Spot
from agent.errors import StaleError


def set_metadata(tree: Tree, path: str, expected: Local, *, executable: bool | None, mtime_ns: int | None) -> Local:
    """Set x bits and mtime of a file that is as expected; None leaves as it is. Raises StaleError, OSError."""
    assert isinstance(expected.side, Entry)
    fd = tree.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        before = os.fstat(fd)
        if signature_of(before) != expected.signature:
            raise StaleError(f"{path}: changed since it was last looked at")
        timed = _set(fd, before, executable, mtime_ns)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    written = after.st_size != before.st_size or after.st_mtime_ns not in (before.st_mtime_ns, mtime_ns)
    # RACE: a write between fstat and utime is hidden by the mtime we set. So the file counts as racy: the next look
    # reads it again, and finds the write. The worst outcome is that it waits until then.
    return expect.local_of_file(after, expected.side.digest, racy=expected.racy or timed or written)


def _set(fd: int, before: os.stat_result, executable: bool | None, mtime_ns: int | None) -> bool:
    """Set what can be set; True when the time was. A refusal isn't an error: what is read back tells (DESIGN 4)."""
    mode = stat.S_IMODE(before.st_mode)
    try:
        if executable is not None and with_executable(mode, executable=executable) != mode:
            os.fchmod(fd, with_executable(mode, executable=executable))
    except OSError:
        pass
    if mtime_ns is None or mtime_ns == before.st_mtime_ns:
        return False
    try:
        os.utime(fd, ns=(before.st_atime_ns, mtime_ns))
    except (OSError, OverflowError):
        return False
    return True


def take_over(new: Spot, staged: Staged, old: os.stat_result) -> None:
    """Give the new file the owner and the permission bits of the one it replaces; only x is ours to decide.

    A file that people made private stays private. Without the right to set the owner it becomes our own, as with any
    program that writes by rename.
    """
    if not stat.S_ISREG(old.st_mode):
        return
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if staged.executable is not None:
        mode = with_executable(mode, executable=staged.executable)
    if (staged.uid, staged.gid) != (old.st_uid, old.st_gid):
        try:
            os.chown(new.name, old.st_uid, old.st_gid, dir_fd=new.fd, follow_symlinks=False)
        except PermissionError:
            pass
    if mode != staged.mode:
        os.chmod(new.name, mode, dir_fd=new.fd)
        staged.mode = mode
