"""The renames by which files get to their places and leave them, with fallbacks for poorer file systems.

    create      src -> dst, never over anything       RENAME_NOREPLACE, else link + unlink, else look + rename
    replace     new <-> target, the old one to slot   RENAME_EXCHANGE, else link + rename, else rename + create
    take        target -> slot                        rename

`replace` first moves the new file into the slot and then swaps slot and target: the old file lands in the trash by the
same atomic step that shows the new one, and the path is never absent. All work on spots (descriptor and name) whose
descriptors the caller has opened below the root; none follows a link.

Whoever calls looks at what came out, and calls `put_back` when it isn't what was expected.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from agent.directory import syscalls
from agent.directory.syscalls import Capabilities
from agent.directory.trash import Spot

_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES})

Check = Callable[[Spot], object]  # looks at what came out; raises when it isn't what was expected


def create(can: Capabilities, src: Spot, dst: Spot) -> None:
    """Move src to dst, which must not exist. Raises FileExistsError, OSError."""
    if can.noreplace:
        try:
            syscalls.renameat2(src.fd, src.name, dst.fd, dst.name, syscalls.RENAME_NOREPLACE)
            return
        except OSError as exc:
            if exc.errno not in _UNSUPPORTED:
                raise
    _create_by_link(can, src, dst)
    can.noreplace = False  # only now: EINVAL may also have meant the name


def _create_by_link(can: Capabilities, src: Spot, dst: Spot) -> None:
    if can.hard_links:
        try:
            os.link(src.name, dst.name, src_dir_fd=src.fd, dst_dir_fd=dst.fd, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
        else:
            src.unlink()
            return
    # RACE: no NOREPLACE and no hard links (vfat before 4.9, some FUSE file systems). A file that somebody creates at
    # dst between this look and the rename is overwritten: the worst outcome is the loss of that new file.
    try:
        dst.status()
    except FileNotFoundError:
        os.rename(src.name, dst.name, src_dir_fd=src.fd, dst_dir_fd=dst.fd)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dst.name)


def take(src: Spot, slot: Spot) -> None:
    """Move what stands at src into a slot that the trash keeps free for us. Raises OSError."""
    os.rename(src.name, slot.name, src_dir_fd=src.fd, dst_dir_fd=slot.fd)


def replace(can: Capabilities, new: Spot, target: Spot, slot: Spot, check: Check) -> None:
    """Put the file at `new` in the place of `target`, whose old content goes to `slot`; afterwards `new` is gone.

    check(slot) looks at the old content; when it raises, the target is as before (or newer, if others write on), `new`
    is back in its place, and the error goes on. Raises FileNotFoundError when there is no target, OSError.
    """
    if can.exchange:
        take(new, slot)
        ours = slot.status().st_ino
        try:
            _exchange(slot, target)
        except OSError as exc:
            take(slot, new)
            if exc.errno not in _UNSUPPORTED:
                raise
        else:
            _check_exchanged(new, target, slot, check, ours)
            return
    if can.hard_links and _linked(target, slot):
        _replace_by_link(new, target, slot, check)
    else:
        _replace_by_moves(can, new, target, slot, check)
    can.exchange = False


def _exchange(one: Spot, other: Spot) -> None:
    syscalls.renameat2(one.fd, one.name, other.fd, other.name, syscalls.RENAME_EXCHANGE)


def _check_exchanged(new: Spot, target: Spot, slot: Spot, check: Check, ours: int) -> None:
    try:
        check(slot)
    except BaseException:
        # RACE: somebody may have replaced or removed our file in the few microseconds since the exchange. Then what
        # comes back out is theirs (or nothing does), and one of the two stays in the slot, that is in the trash: the
        # worst outcome is that it has to be restored from there.
        try:
            _exchange(slot, target)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target.name) from None
        if slot.status().st_ino == ours:
            take(slot, new)
        raise


def _linked(target: Spot, slot: Spot) -> bool:
    """Give the target's file a second name in the slot; False where that can't be."""
    try:
        os.link(target.name, slot.name, src_dir_fd=target.fd, dst_dir_fd=slot.fd, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _NO_LINKS:
            return False
        raise
    return True


def _replace_by_link(new: Spot, target: Spot, slot: Spot, check: Check) -> None:
    try:
        check(slot)
    except BaseException:
        slot.unlink()
        raise
    # RACE: no EXCHANGE. What others write into the file now is in the slot too, as it is the same file; but a file
    # that somebody renames over the target between the check and this rename is lost: that is the worst outcome.
    os.rename(new.name, target.name, src_dir_fd=new.fd, dst_dir_fd=target.fd)


def _replace_by_moves(can: Capabilities, new: Spot, target: Spot, slot: Spot, check: Check) -> None:
    # RACE: no EXCHANGE and no hard links. The path is absent for a moment; a crash within it leaves the old file in
    # the trash only, and the next run downloads the new one again. A file created in that moment makes `create` fail,
    # and then the old one stays in the trash. Nothing is lost.
    take(target, slot)
    try:
        check(slot)
        create(can, new, target)
    except BaseException:
        put_back(can, slot, target)
        raise


def put_back(can: Capabilities, slot: Spot, target: Spot) -> bool:
    """Move what is in the slot back to where it was. False when something new stands there: then it stays."""
    try:
        create(can, slot, target)
    except FileExistsError:
        return False
    return True
