"""Apply: make a decision visible on the disk, under the expectation it was made with, and tell what really came of it.

Each operation opens the parent by descriptor, looks at the target again, and then does one rename (see `place`). What
was there before goes to the trash, or to a conflict copy, after a look that it is what was expected; when it isn't, it
is put back and StaleError says so. A crash between any two steps leaves every file whole, under its path or in the
trash. The returned Local has the signature as it is *after* the operation, since rename and link move ctime.

Errors: StaleError look again and decide anew; PathError this path can't be done (UNWRITABLE, STRUCTURE_CLASH,
OTHER_FILE_SYSTEM...); SpaceError try later.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from agent.core import names
from agent.core.entries import Entry, Kind, Local, Reason
from agent.directory import dirfd, expect, metadata, place
from agent.directory.dirfd import Tree
from agent.directory.faults import mapped, structure_clash
from agent.directory.look import is_empty, signature_of
from agent.directory.metadata import take_over
from agent.directory.options import DirectoryOptions
from agent.directory.stage import Staged, Staging
from agent.directory.trash import Spot, Trash
from agent.errors import PathError, StaleError

_ATTEMPTS = 20  # of opening a parent that others keep removing


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of an operation. displaced: the path of the conflict copy that the old version became, if it did."""

    local: Local
    displaced: str | None = None


class _Kept(Enum):
    """Whether a conflict copy has its name before the original is taken."""

    NO = "no"
    MADE = "made"
    THERE = "there"


class Applier:
    """Changes the files of one tree. Thread-safe: parents may be made and removed by several threads at once."""

    def __init__(self, tree: Tree, options: DirectoryOptions, staging: Staging, trash: Trash) -> None:
        self._tree = tree
        self._options = options
        self._staging = staging
        self._trash = trash

    # ---- files and links ----

    def put_file(
        self, path: str, staged: Staged, expected: Local | None, *, keep_as: str | None = None, durable: bool = True
    ) -> Applied:
        """Make a finished staged file the file at `path`; see `Directory.put_file`."""
        assert staged.finished, "finish() completes the file before it is put"
        self.check(path, expected)
        new = Spot(staged.staging_fd, staged.name)
        with mapped(path, "putting it in place", existing=expected is not None):
            status, displaced = self._install(
                new, path, expected, keep_as, durable=durable, prepare=lambda old: take_over(new, staged, old)
            )
        staged.placed = True
        return Applied(local_of(status, staged), displaced)

    def put_link(
        self, path: str, link_target: str, expected: Local | None, *, keep_as: str | None = None, durable: bool = True
    ) -> Applied:
        """Make a symlink to `link_target` (relative to the root) at `path`; see `Directory.put_link`."""
        self.check(path, expected)
        new = Spot(*self._staging.link(names.link_text(path, link_target), path))
        try:
            with mapped(path, "putting it in place", existing=expected is not None):
                inode = new.status().st_ino
                status, displaced = self._install(new, path, expected, keep_as, durable=durable)
        finally:
            _unlink_if_there(new)
        # It may not be our link any more, and what came since may even have its inode: then the next look finds out.
        ours = status.st_ino == inode and stat.S_ISLNK(status.st_mode)
        return Applied(Local(Entry(Kind.LINK, target=link_target), signature_of(status), racy=not ours), displaced)

    def _install(
        self,
        new: Spot,
        path: str,
        expected: Local | None,
        keep_as: str | None,
        *,
        durable: bool,
        prepare: Callable[[os.stat_result], None] | None = None,
    ) -> tuple[os.stat_result, str | None]:
        """Put `new` at `path`. prepare: called with the lstat of what it will replace. Gives lstat of the result."""
        if keep_as is not None:
            self.check(keep_as, None)
        if expected is None:
            return self._install_new(new, path, durable=durable), None
        with self._tree.parent(path) as (fd, name):
            target = Spot(fd, name)
            before = expect.status_of_expected(target, path, expected)
            if prepare:
                prepare(before)
            ours = new.status()
            displaced = self._replace(new, target, path, expected, keep_as)
            return _settled(target, ours, durable=durable), displaced

    def _install_new(self, new: Spot, path: str, *, durable: bool) -> os.stat_result:
        for _ in range(_ATTEMPTS):
            with self._parent_for_write(path, durable=durable) as (fd, name):
                target = Spot(fd, name)
                ours = new.status()  # raises when it is the new file that is missing, not its parent
                try:
                    self._create(new, target, path)
                except FileNotFoundError:
                    new.status()  # the same
                    continue
                return _settled(target, ours, durable=durable)
        raise StaleError(f"{path}: others keep removing its directory")

    def _create(self, new: Spot, target: Spot, path: str) -> None:
        try:
            place.create(self._tree.can, new, target)
        except FileExistsError as exc:
            if not stat.S_ISDIR(target.status().st_mode):
                raise StaleError(f"{path}: something was created there meanwhile") from exc
            # Directories without a file in them that aren't entries of the tree are in nobody's way.
            if self._options.empty_directories:
                raise structure_clash(path, "a directory is in the way") from exc
            try:
                _remove_hollow(target.fd, target.name)
            except OSError as not_empty:
                raise structure_clash(path, "a directory with files in it is in the way") from not_empty
            place.create(self._tree.can, new, target)

    def _replace(self, new: Spot, target: Spot, path: str, expected: Local, keep_as: str | None) -> str | None:
        """Swap `new` in; the old version goes to the trash and, as `keep_as`, stays in the tree."""
        with self._trash.slot(path) as slot:
            kept = self._keep(target, path, expected, keep_as) if keep_as else None
            try:
                place.replace(self._tree.can, new, target, slot, lambda spot: expect.check_moved(spot, path, expected))
            except BaseException:
                if kept is _Kept.MADE and keep_as:
                    self._unkeep(keep_as)
                raise
            if kept is _Kept.NO and keep_as:
                self._install_new(slot, keep_as, durable=False)
            elif kept:
                slot.unlink()
            else:
                self._trash.discard(slot)
        return keep_as

    def _keep(self, target: Spot, path: str, expected: Local, keep_as: str) -> _Kept:
        """Give the old version its second name before the first is taken, so that no crash can hide it in the trash.

        NO where there are no hard links. A copy of that name is accepted if it is the same file already, left by a
        crash right here, or another one of the same content.
        """
        with self._parent_for_write(keep_as, durable=False) as (fd, name):
            copy = Spot(fd, name)
            try:
                os.link(target.name, name, src_dir_fd=target.fd, dst_dir_fd=fd, follow_symlinks=False)
            except FileExistsError as exc:
                if copy.status().st_ino != target.status().st_ino and not expect.has_content(copy, expected.side):
                    raise StaleError(f"{path}: its conflict copy's name {keep_as} is taken") from exc
                return _Kept.THERE
            except OSError:
                return _Kept.NO
        return _Kept.MADE

    def _unkeep(self, keep_as: str) -> None:
        with self._tree.parent(keep_as) as (fd, name):
            _unlink_if_there(Spot(fd, name))

    def delete(self, path: str, expected: Local, *, durable: bool = True) -> list[str]:
        """Move what is at `path` into the trash; see `Directory.delete`."""
        self.check(path, expected)
        with mapped(path, "deleting it", existing=True):
            if path.endswith("/"):
                self._remove_directory(path)
            else:
                self._take_away(path, expected, durable=durable)
        return self._remove_emptied(path)

    def _take_away(self, path: str, expected: Local, *, durable: bool) -> None:
        with self._tree.parent(path) as (fd, name):
            target = Spot(fd, name)
            expect.status_of_expected(target, path, expected)
            with self._trash.slot(path) as slot:
                place.take(target, slot)
                try:
                    expect.check_moved(slot, path, expected)
                except BaseException:
                    place.put_back(self._tree.can, slot, target)
                    raise
                self._trash.discard(slot)
            if durable:
                os.fsync(fd)

    def move(self, src: str, dst: str, expected: Local, *, durable: bool = True) -> Local:
        """Rename within the tree, over nothing; see `Directory.move`."""
        self.check(src, expected)
        self.check(dst, None)
        with mapped(dst, f"moving {src} there"):
            with self._parent_for_write(dst, durable=durable) as (dst_fd, dst_name), self._source(src) as source:
                target = Spot(dst_fd, dst_name)
                expect.status_of_expected(source, src, expected)
                try:
                    place.create(self._tree.can, source, target)
                except FileExistsError as exc:
                    if not _same_but_for_case(source, target):
                        raise StaleError(f"{dst}: something was created there meanwhile") from exc
                    # On a case-insensitive file system "a" and "A" are one file: this only changes its spelling.
                    os.rename(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
                try:
                    status = expect.check_moved(target, src, expected)
                except BaseException:
                    place.put_back(self._tree.can, target, source)
                    raise
                if durable:
                    os.fsync(dst_fd)
                    os.fsync(source.fd)
        self._remove_emptied(src)
        return Local(expected.side, signature_of(status), expected.racy)

    def put_into_trash(self, path: str, staged: Staged) -> None:
        """Move a finished staged file to where the trash would keep a version of `path`."""
        assert staged.finished, "finish() completes the file before it is put"
        self.check(path, None)
        with mapped(path, "putting it into the trash"), self._trash.slot(path) as slot:
            place.take(Spot(staged.staging_fd, staged.name), slot)
            staged.placed = True
            self._trash.discard(slot)

    def restore(self, path: str, batch: str | None) -> None:
        """Move the newest version (or that of a batch) from the trash back to `path`, over nothing."""
        self.check(path, None)
        with mapped(path, "restoring it"), self._trash.kept(path, batch) as spot:
            if spot is None:
                raise PathError(f"{path}: not in the trash", reason=Reason.UNWRITABLE, remedy="see `trash list`")
            try:
                self._install_new(spot, path, durable=True)
            except (StaleError, PathError) as exc:
                remedy = "move it away first"
                raise PathError(f"{path}: something is there already", reason=Reason.UNWRITABLE, remedy=remedy) from exc

    def set_metadata(self, path: str, expected: Local, *, executable: bool | None, mtime_ns: int | None) -> Local:
        """Set the x bits and the mtime of a file; see `Directory.set_metadata`."""
        self.check(path, expected)
        if not isinstance(expected.side, Entry) or expected.side.kind is not Kind.FILE:
            return expected
        with mapped(path, "setting its metadata", existing=True):
            return metadata.set_metadata(self._tree, path, expected, executable=executable, mtime_ns=mtime_ns)

    # ---- directories ----

    def make_directory(self, path: str, *, durable: bool = True) -> Local:
        """Make the directory of the entry `path` ("a/b/")."""
        self.check(path, None)
        with mapped(path, "making the directory"):
            made = self._tree.make_directory(path.rstrip("/"), self._options.directory_mode)
            if durable:
                self.sync_directories(made)
        return Local(Entry(Kind.DIRECTORY))

    def sync_directories(self, paths: Iterable[str]) -> None:
        """fsync the parents of these paths, each once. One that is gone again doesn't matter."""
        for parent in {path.rstrip("/").rpartition("/")[0] for path in paths}:
            with mapped(parent, "flushing the directory"):
                try:
                    fd = self._tree.open_directory(parent)
                except FileNotFoundError:
                    continue
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def _remove_directory(self, path: str) -> None:
        with self._tree.parent(path[:-1]) as (fd, name):
            below = os.open(name, dirfd.DIRECTORY_FLAGS, dir_fd=fd)
            try:
                if not is_empty(below):
                    raise StaleError(f"{path}: the directory isn't empty any more")
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=fd)

    def _remove_emptied(self, path: str) -> list[str]:
        """Remove the parents that this operation has emptied, innermost first, never the root."""
        removed = []
        for parent in reversed(names.parents_of(path)):
            try:
                with self._tree.parent(parent) as (fd, name):
                    os.rmdir(name, dir_fd=fd)
            except OSError:
                break  # something else is in it, or it is a mount point, or not ours to remove
            removed.append(parent + "/")
        return removed

    # ---- shared ----

    def check(self, path: str, expected: Local | None) -> None:
        """Refuse what must never be done. Raises PathError."""
        dirfd.check(path)
        expect.refuse_obstacle(path, expected)
        if self._options.read_only:
            raise PathError(f"{path}: the directory is opened for reading only", reason=Reason.UNWRITABLE)

    @contextmanager
    def _source(self, path: str) -> Iterator[Spot]:
        with mapped(path, "moving it", existing=True), self._tree.parent(path) as (fd, name):
            yield Spot(fd, name)

    @contextmanager
    def _parent_for_write(self, path: str, *, durable: bool) -> Iterator[tuple[int, str]]:
        """The parent of `path`, made when it is missing."""
        fd = self.open_parent(path.rpartition("/")[0], durable=durable)
        try:
            yield fd, path.rpartition("/")[2]
        finally:
            os.close(fd)

    def open_parent(self, directory: str, *, durable: bool) -> int:
        """A descriptor of the directory, made when it is missing. Raises OSError, StaleError."""
        for _ in range(_ATTEMPTS):
            try:
                return self._tree.open_directory(directory)
            except FileNotFoundError:
                made = self._tree.make_directory(directory, self._options.directory_mode)
                if durable:
                    self.sync_directories(made)
        raise StaleError(f"{directory}/: others keep removing the directory")


def _settled(target: Spot, ours: os.stat_result, *, durable: bool) -> os.stat_result:
    """lstat of what was just put in place; durable: the name survives a power cut from here on.

    `ours` is its lstat from before, for when it has been moved away or deleted already. It was there, and whoever did
    that has seen it: that is a change like any other, and no reason to put it there again.
    """
    try:
        status = target.status()
    except FileNotFoundError:
        status = ours
    if durable:
        os.fsync(target.fd)
    return status


def local_of(status: os.stat_result, staged: Staged) -> Local:
    """The local side after our file was put in place. When somebody was there since, it is marked racy: look again."""
    ours = (status.st_ino, status.st_size, status.st_mtime_ns) == (staged.inode, staged.size, staged.mtime_ns)
    racy = not ours or expect.own_write_is_racy(staged.mtime_ns)
    return expect.local_of_file(status, staged.digest, racy=racy)


def _same_but_for_case(one: Spot, other: Spot) -> bool:
    first, second = one.status(), other.status()
    same = (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
    return same and one.name != other.name and one.name.casefold() == other.name.casefold()


def _remove_hollow(fd: int, name: str) -> None:
    """Remove a directory that holds nothing but directories, at any depth. Raises OSError; then all of it is left,
    unless somebody interfered."""
    for path in list(_hollow(fd, name, "")):
        os.rmdir(path, dir_fd=fd)


def _hollow(fd: int, name: str, prefix: str) -> Iterator[str]:
    """The directory and all below it, innermost first. Raises OSError when there is anything else."""
    below = os.open(name, dirfd.DIRECTORY_FLAGS, dir_fd=fd)
    try:
        with os.scandir(below) as found:
            entries = list(found)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        for entry in entries:
            yield from _hollow(below, entry.name, f"{prefix}{name}/")
    finally:
        os.close(below)
    yield prefix + name


def _unlink_if_there(spot: Spot) -> None:
    try:
        spot.unlink()
    except OSError:
        pass  # placed, or gone
