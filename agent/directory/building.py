"""A version that is being built, in `versions/<id>.partial/`: see `versions`.

    tidy        what an earlier attempt left counts when it is as the manifest has it, digest included; the rest goes
    furnish     directories and symlinks
    reuse       files that the previous version has are hard-linked; what a file with the same bytes but another mode
                gives is copied. What is then still missing is in `missing`
    put, open   the bytes of what was missing, hashed while they are written
    spread      the same content at other paths
    check       exactly the manifest's paths, sizes and modes
    flush       everything is on the device

A file of the previous version that doesn't look as it did when it was installed is hashed before it is used, and left
alone when its digest is another one: so damage done there doesn't travel on. What was linked is looked at once more
under its new name.

A file has its final mode only when it is complete. Nothing here is ever visible as `current`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

from agent.core import names
from agent.core.entries import Entry, Kind, Reason
from agent.core.manifest import Manifest
from agent.directory import syscalls
from agent.directory.dirfd import DIRECTORY_FLAGS
from agent.directory.faults import from_os, is_full, mapped
from agent.directory.removal import remove_tree
from agent.directory.syscalls import Capabilities
from agent.directory.versiontree import DIRECTORY_MODE, Found, Look, Stop, VersionTree, mode_of
from agent.errors import DigestError, PathError, StaleError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Why a file can't have another name: too many of them, not ours (protected_hardlinks), a file system without.
_NO_LINK = frozenset(
    {errno.EMLINK, errno.EPERM, errno.EACCES, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
)


class Previous(NamedTuple):
    """The version whose files are reused, and what was recorded of them (empty: nothing is known)."""

    tree: VersionTree
    looks: dict[str, Look]


class Building(VersionTree):
    """Used by one thread at a time, except `put` and `open`.

    missing: digest -> paths that need it and that nothing here can give. damaged: files of the previous version that
    weren't used, since their bytes aren't what was installed.
    """

    def __init__(
        self, fd: int, can: Capabilities, manifest: Manifest, *, name: str, stop: Stop = lambda: False
    ) -> None:
        super().__init__(fd, can, manifest, name=name, stop=stop)
        self.missing: dict[bytes, list[str]] = {}
        self.damaged: list[str] = []
        self._there: set[str] = set()
        self._by_content: dict[bytes, dict[bool, str]] = defaultdict(dict)

    def tidy(self) -> None:
        """Remove what isn't as it must be. Raises PathError, SpaceError."""
        with mapped(self.name, "looking at what an earlier attempt left"):
            for found in self.walk():
                if self._is_right(found):
                    self._has(found.path)
                elif stat.S_ISDIR(found.status.st_mode) and found.path in self.directories:
                    self._set_directory_mode(found.directory, found.name)
                elif stat.S_ISDIR(found.status.st_mode):
                    remove_tree(self, found.path)
                else:
                    os.unlink(found.name, dir_fd=found.directory)

    def _is_right(self, found: Found) -> bool:
        if self.differs(found):
            return False
        entry = self.manifest.entries.get(found.path)
        return entry is None or entry.kind is not Kind.FILE or self.digest(found.path) == entry.digest

    def _has(self, path: str) -> None:
        entry = self.manifest.entries.get(path)
        self._there.add(path)
        if entry is not None and entry.kind is Kind.FILE:
            self._by_content[entry.digest].setdefault(bool(entry.executable), path)

    def furnish(self) -> None:
        """Make the directories and symlinks. Raises PathError, SpaceError."""
        for path in sorted(self.directories - self._there, key=len):
            with mapped(f"{self.name}/{path}", "making it"), self.parent(path) as (fd, name):
                try:
                    os.mkdir(name, 0o700, dir_fd=fd)
                except FileExistsError:
                    pass
                self._set_directory_mode(fd, name)
        for path, entry in self.manifest.entries.items():
            if entry.kind is Kind.LINK and path not in self._there:
                with mapped(f"{self.name}/{path}", "making it"), self.parent(path) as (fd, name):
                    os.symlink(names.link_text(path, entry.target), name, dir_fd=fd)

    @staticmethod
    def _set_directory_mode(parent: int, name: str) -> None:
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        try:
            os.fchmod(fd, DIRECTORY_MODE | (os.fstat(fd).st_mode & stat.S_ISGID))
        finally:
            os.close(fd)

    # -- from the previous version -----------------------------------------------------------------------------------

    def reuse(self, previous: Previous | None) -> None:
        """Take what is here already; the rest is `missing`. Raises PathError, SpaceError."""
        elsewhere = {} if previous is None else {entry.digest: path for path, entry in previous.tree.manifest.files}
        for path, entry in self.manifest.files:
            self.go_on()
            if path in self._there or self._from_here(path, entry):
                continue
            sources = dict.fromkeys((path, elsewhere.get(entry.digest, path)))
            if previous is None or not any(self._from_previous(previous, source, path, entry) for source in sources):
                self.missing.setdefault(entry.digest, []).append(path)

    def _from_previous(self, previous: Previous, source: str, path: str, entry: Entry) -> bool:
        there = previous.tree.manifest.entries.get(source)
        if there is None or there.digest != entry.digest:
            return False
        try:
            if there.executable == entry.executable:
                if self._linked(previous.tree, source, path, entry, previous.looks.get(source)):
                    return True
            elif self._copied(previous.tree, source, path, entry):
                return True
        except (StaleError, PathError):
            pass
        except OSError as error:
            if is_full(error):
                raise from_os(error, f"{self.name}/{path}", "taking it from the previous version") from error
        self.damaged.append(source)  # gone, unreadable, or not what was installed
        return False

    def _linked(self, source: VersionTree, old: str, path: str, entry: Entry, recorded: Look | None) -> bool:
        """Give the file `old` of another version, or of this one, the name `path` here. Raises OSError."""
        with source.parent(old) as (old_fd, old_name):
            status = os.stat(old_name, dir_fd=old_fd, follow_symlinks=False)
            look = Look.of(status)
            if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != mode_of(entry):
                return self._copied(source, old, path, entry)
            if look.size != entry.size or (look != recorded and source.digest(old) != entry.digest):
                return False
            with self.parent(path) as (fd, name):
                try:
                    os.link(old_name, name, src_dir_fd=old_fd, dst_dir_fd=fd, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _NO_LINK:
                        raise
                    return self._copied(source, old, path, entry)
                if Look.of(os.stat(name, dir_fd=fd, follow_symlinks=False)) != look:
                    os.unlink(name, dir_fd=fd)  # somebody has put another file there meanwhile
                    return False
        self._has(path)
        return True

    def _copied(self, source: VersionTree, old: str, path: str, entry: Entry) -> bool:
        """The same bytes in a file of its own; False when they are others. Raises OSError, PathError, SpaceError."""
        try:
            with self.open_new(path, entry) as file:
                for block in source.blocks(old):
                    file.write(block)
                file.finish()
        except DigestError:
            return False
        return True

    # -- what was missing --------------------------------------------------------------------------------------------

    @property
    def bytes_missing(self) -> int:
        """What is to be fetched."""
        return sum(self.manifest.entries[paths[0]].size for paths in self.missing.values())

    @property
    def bytes_needed(self) -> int:
        """What that takes on the disk: where the executable bits of one content differ, it is there twice."""
        total = 0
        for paths in self.missing.values():
            entries = [self.manifest.entries[path] for path in paths]
            total += entries[0].size * len({entry.executable for entry in entries})
        return total

    def put(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write small files whole. Raises DigestError, PathError, SpaceError."""
        for path, data in files:
            with self.open_new(path, self.manifest.entries[path]) as file:
                file.write(data)
                file.finish()

    def open_new(self, path: str, entry: Entry) -> NewFile:
        """A file to be written. Raises PathError, SpaceError."""
        with mapped(f"{self.name}/{path}", "making it"), self.parent(path) as (fd, name):
            try:
                os.unlink(name, dir_fd=fd)  # of a download that was broken off, in this run
            except FileNotFoundError:
                pass
            return NewFile(self, path, entry, os.open(name, _CREATE, 0o600, dir_fd=fd))

    def spread(self) -> None:
        """Every content that was missing is at one of its paths now: have it at the others. Raises PathError, ..."""
        for digest in list(self.missing):
            for path in self.missing.pop(digest):
                self.go_on()
                entry = self.manifest.entries[path]
                if path not in self._there and not self._from_here(path, entry):
                    raise DigestError(f"{self.name}/{path} has changed while it was installed", remedy="install again")

    def _from_here(self, path: str, entry: Entry) -> bool:
        """Whether another path of this tree could give it."""
        has = self._by_content.get(entry.digest)
        if not has:
            return False
        executable = bool(entry.executable)
        with mapped(f"{self.name}/{path}", "making it"):
            if executable in has:
                return self._linked(self, has[executable], path, entry, self._look(has[executable]))
            return self._copied(self, has[not executable], path, entry)

    def _look(self, path: str) -> Look:
        with self.parent(path) as (fd, name):
            return Look.of(os.stat(name, dir_fd=fd, follow_symlinks=False))

    # -- the end -----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Have everything on the device. On network file systems that is asked for each file. Raises SpaceError, ..."""
        with mapped(self.name, "flushing it"):
            if not syscalls.network_file_system(self.fd):
                syscalls.syncfs(self.fd)
                return
            for path in (*(path for path, _ in self.manifest.files), *self.directories, ""):
                self.go_on()
                fd = self.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


class NewFile:
    """One file on its way; leaving the block without `finish` removes it. Used by one thread at a time."""

    def __init__(self, building: Building, path: str, entry: Entry, fd: int) -> None:
        self._building = building
        self._path = path
        self._entry = entry
        self._fd = fd
        self._hasher = hashlib.sha256()
        self._whole = False

    def write(self, block: bytes | memoryview) -> None:
        """Append. Raises SpaceError, PathError."""
        self._hasher.update(block)
        with mapped(self._name, "writing it"):
            written = os.write(self._fd, block)
            while written < len(block):
                block = memoryview(block)[written:]
                written = os.write(self._fd, block)

    def write_all(self, blocks: Iterable[bytes]) -> None:
        """Append them all. Raises as `write`."""
        for block in blocks:
            self.write(block)

    def finish(self) -> None:
        """:raises DigestError: these aren't the bytes that the manifest has for this path"""
        if self._hasher.digest() != self._entry.digest:
            raise DigestError(
                f"{self._name}: the bytes don't have the digest that the manifest says", remedy="publish again"
            )
        with mapped(self._name, "completing it"):
            os.fchmod(self._fd, mode_of(self._entry))
            mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        if mode != mode_of(self._entry):
            raise PathError(
                f"{self._name}: the file system has made it mode {mode:04o}",
                reason=Reason.UNWRITABLE,
                remedy="use a file system that keeps permissions",
            )
        self._whole = True
        self._building._has(self._path)  # noqa: SLF001 - a part of Building

    @property
    def _name(self) -> str:
        return f"{self._building.name}/{self._path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """What isn't finished is removed."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if not self._whole:
            try:
                with self._building.parent(self._path) as (fd, name):
                    os.unlink(name, dir_fd=fd)
            except OSError:
                pass  # the next attempt sees that it isn't whole
