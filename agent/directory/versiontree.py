"""One version on the disk: a directory that has exactly what a manifest says, looked at by descriptor.

Files have mode 0444 or 0555 and directories 0755, whatever the umask, so that users with another UID can read them;
symlinks are relative. A directory with the set-group-ID bit passes its group on to all that is made in it.

What a file looks like (size, time, inode) is recorded when its version is complete. A file that still looks so has the
bytes that it had then, and isn't read again; any other one is hashed before anybody relies on it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from agent.core import names
from agent.core.entries import Entry, Kind
from agent.core.manifest import Manifest
from agent.directory.dirfd import Beneath
from agent.directory.faults import mapped
from agent.directory.syscalls import Capabilities
from agent.errors import StaleError

FILE_MODE = 0o444
EXECUTABLE_MODE = 0o555
DIRECTORY_MODE = 0o755
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BLOCK = 1 << 20

Stop = Callable[[], bool]


class Look(NamedTuple):
    """What is recorded of a file."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Look:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class Found(NamedTuple):
    """One thing in the tree. `directory`: open while the walk stands there; `name` is its name in it."""

    path: str
    status: os.stat_result
    directory: int
    name: str


class StoppedError(Exception):
    """Somebody doesn't want the work to go on."""


class VersionTree(Beneath):
    """A version, or one that is being built. Thread-safe; close it."""

    def __init__(
        self, fd: int, can: Capabilities, manifest: Manifest, *, name: str, stop: Stop = lambda: False
    ) -> None:
        """name: for messages. stop: asked between two files and while one is read."""
        super().__init__(fd, can)
        self.manifest = manifest
        self.name = name
        self.directories = directories_of(manifest.entries)
        self._stop = stop

    def close(self) -> None:
        os.close(self.fd)

    def go_on(self) -> None:
        """:raises StoppedError"""
        if self._stop():
            raise StoppedError

    def walk(self) -> Iterator[Found]:
        """Everything in the tree, a directory (path without slash) before what is in it; a loop, as trees may be deep.

        Raises OSError: EXDEV where something is mounted.
        """
        todo = [""]
        while todo:
            directory = todo.pop()
            fd = self.open_directory(directory)
            try:
                for name in sorted(os.listdir(fd)):
                    self.go_on()
                    path = f"{directory}/{name}" if directory else name
                    try:
                        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield Found(path, status, fd, name)
                    if stat.S_ISDIR(status.st_mode) and self._is_still_there(fd, name):
                        todo.append(path)
            finally:
                os.close(fd)

    @staticmethod
    def _is_still_there(fd: int, name: str) -> bool:
        """The caller of a walk may remove what it was given."""
        try:
            os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def differs(self, found: Found) -> str:
        """Why this isn't as the manifest has it, in words; "" when it is. The digest of a file isn't looked at."""
        kind = stat.S_IFMT(found.status.st_mode)
        mode = stat.S_IMODE(found.status.st_mode)
        if kind == stat.S_IFDIR:
            if found.path not in self.directories:
                return "is a directory that isn't of this snapshot"
            return "" if mode & 0o777 == DIRECTORY_MODE else f"has mode {mode:04o}"
        entry = self.manifest.entries.get(found.path)
        if entry is None:
            return "isn't of this snapshot"
        if entry.kind is Kind.LINK:
            right = kind == stat.S_IFLNK and os.readlink(found.name, dir_fd=found.directory) == names.link_text(
                found.path, entry.target
            )
            return "" if right else f"isn't a symlink to {entry.target}"
        if kind != stat.S_IFREG:
            return "isn't a file"
        if found.status.st_size != entry.size:
            return f"has {found.status.st_size} bytes, not {entry.size}"
        return "" if mode == mode_of(entry) else f"has mode {mode:04o}, not {mode_of(entry):04o}"

    def check(self) -> dict[str, Look]:
        """See that the tree has exactly the paths of the manifest, with the right sizes and modes.

        Gives what its files look like. Raises StaleError, which names the first path that is wrong; PathError.
        """
        looks: dict[str, Look] = {}
        seen = 0
        with mapped(self.name, "checking it", existing=True):
            for found in self.walk():
                wrong = self.differs(found)
                if wrong:
                    raise StaleError(f"{self.name}/{found.path} {wrong}")
                if stat.S_ISREG(found.status.st_mode):
                    looks[found.path] = Look.of(found.status)
                seen += 1
        if seen != len(self.directories) + sum(not path.endswith("/") for path in self.manifest.entries):
            raise StaleError(f"{self.name}: something of the snapshot is missing")
        return looks

    def damage(self, recorded: Mapping[str, Look]) -> str:
        """What is wrong with the tree, files that don't look as recorded hashed; "" when all is right."""
        try:
            for path, look in self.check().items():
                if recorded.get(path) != look and self.digest(path) != self.manifest.entries[path].digest:
                    return f"{self.name}/{path} doesn't have the content of the snapshot"
        except StaleError as error:
            return error.message
        return ""

    def digest(self, path: str) -> bytes:
        """SHA-256 of a file, as it is now. Raises StaleError, PathError."""
        with mapped(f"{self.name}/{path}", "reading it", existing=True):
            fd = self.open(path, _READ)
            try:
                return self._hash(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
            finally:
                os.close(fd)

    def _hash(self, fd: int) -> bytes:
        hasher = hashlib.sha256()
        while block := os.read(fd, _BLOCK):
            self.go_on()
            hasher.update(block)
        return hasher.digest()

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of a file. Raises OSError."""
        fd = self.open(path, _READ)
        try:
            while block := os.read(fd, _BLOCK):
                self.go_on()
                yield block
        finally:
            os.close(fd)


def mode_of(entry: Entry) -> int:
    """The permission bits of a file in a version."""
    return EXECUTABLE_MODE if entry.executable else FILE_MODE


def directories_of(entries: Mapping[str, Entry]) -> set[str]:
    """All directories that the entries need, without trailing slashes."""
    found: set[str] = set()
    for path in entries:
        parent = path.removesuffix("/") if path.endswith("/") else path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found
