"""The facade: one mapping's directory, opened once, used by many threads.

All calls block (they are meant for a thread pool), and all go by descriptor from the root that was opened; see `dirfd`
for why nothing can lead out of it. The parts: `look` what is at a path, `read` its digest, `scan` the differences of
the whole tree, `stage` bytes near, `apply` them, `trash` what they replace. Watching is `watch`, apart from this.

Durability. `durable=True` (the default) makes each call durable by itself: fsync of the file in `finish`, of its
directory in `put_file`. For many small files the same costs a fraction when grouped:

    stage_many(durable=False)  ->  sync()  ->  put_many()  ->  sync()

so that a name never becomes durable before the bytes it stands for, and the caller commits after the second sync.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.core.entries import Local, Signature
from agent.core.filters import Filters
from agent.directory import faults, probe, syscalls, together
from agent.directory.apply import Applied, Applier
from agent.directory.contents import Contents
from agent.directory.dirfd import Tree
from agent.directory.flush import Flush
from agent.directory.identity import RootFile, is_empty
from agent.directory.look import Look, Looker
from agent.directory.options import DirectoryOptions
from agent.directory.own import OwnPlace
from agent.directory.partial import Partial, Partials
from agent.directory.read import OpenFile, Reader
from agent.directory.scan import Known, Scan
from agent.directory.space import Space
from agent.directory.stage import Staged, Staging, Whole
from agent.directory.syscalls import Capabilities
from agent.directory.together import Placing
from agent.directory.trash import Trash
from agent.errors import DirectoryError


class Directory:
    """One mapping's directory. Thread-safe. Paths are relative to the root, valid by `core.names`.

    Errors of the changing methods: StaleError (not as expected any more: look again), PathError (this path can't be
    done; `reason` says why), SpaceError (no space, quota or descriptors: later).
    """

    def __init__(self, tree: Tree, options: DirectoryOptions) -> None:
        self._tree = tree
        self.options = options
        self._own = OwnPlace(tree, read_only=options.read_only)
        self.root_file = RootFile(tree)
        self._looker = Looker(tree, options)
        self._reader = Reader(self._looker)
        self._staging = Staging(self._own, file_mode=options.file_mode)
        self.partials = Partials(self._own, file_mode=options.file_mode)
        self.space = Space(tree)
        self.trash = Trash(self._own, keep=options.trash)
        self._applier = Applier(tree, options, self._staging, self.trash)
        self._flush = Flush(tree.fd)
        self._case_insensitive: bool | None = None

    @classmethod
    def open(
        cls, path: Path, *, options: DirectoryOptions | None = None, capabilities: Capabilities | None = None
    ) -> Self:
        """Open the root; a symlink at `path` itself is followed once, now. Nothing is written.

        capabilities: for tests, what the file system is assumed to have. Raises RootError.
        """
        probe.check_encoding()
        return cls(Tree(path, capabilities=capabilities), options or DirectoryOptions())

    def close(self) -> None:
        """Close all descriptors; nothing may be in use any more."""
        self.root_file.close()
        self._own.close()
        self._tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- the root ----

    @property
    def path(self) -> Path:
        return self._tree.path

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the opened root; they count within one process only."""
        return self._tree.device, self._tree.inode

    @property
    def empty(self) -> bool:
        """Whether the root has no entry that a mapping could know. Raises OSError."""
        return is_empty(self._tree)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written: by the options, a read-only mount, or missing permission."""
        return self.options.read_only or not probe.is_writable(self._tree.fd)

    @property
    def case_insensitive(self) -> bool:
        """Whether "a" and "A" are one file here; found out at first use, without writing."""
        if self._case_insensitive is None:
            self._case_insensitive = probe.is_case_insensitive(self._tree.fd)
        return self._case_insensitive

    @property
    def network_file_system(self) -> str:
        """The type where others can change the tree behind this kernel's back ("nfs", "fuse"...); "" for local ones."""
        return syscalls.network_file_system(self._tree.fd)

    def check_root(self) -> None:
        """See that the path still names the opened directory (not moved, removed, unmounted). Raises RootError."""
        self._tree.check_root()

    def free_bytes(self) -> int:
        """Free space for this user on the file system, in bytes."""
        status = os.fstatvfs(self._tree.fd)
        return status.f_bavail * status.f_frsize

    # ---- looking ----

    def look(self, path: str) -> Look:
        """One lstat of `path` ("d/" for the entry of an empty directory). Raises SpaceError only."""
        return self._looker.look(path)

    def signatures(self, paths: Iterable[str]) -> dict[str, Signature | None]:
        """One lstat of each; None for what isn't a file or can't be told: `look` tells more. Raises nothing."""
        return self._looker.signatures(paths)

    def read(self, path: str, keep: Contents | None = None) -> Local | None:
        """The local side, hashed if a file; None when absent. Changing all the time: Obstacle CHANGING.

        Look first: reading opens what is there. keep: gets the bytes of a small one. Raises SpaceError only.
        """
        return self._reader.read(path, keep)

    def is_unchanged(self, path: str, expected: Signature) -> bool:
        """Whether the path still is what has this signature."""
        return self._reader.is_unchanged(path, expected)

    def open_read(self, path: str, expected: Signature) -> OpenFile:
        """Open a file for an upload: an unbuffered binary file. After reading, `.confirm()` raises StaleError when it
        changed meanwhile. Raises StaleError when it isn't as expected, PathError, SpaceError."""
        return self._reader.open(path, expected)

    def scan(
        self,
        known: Known,
        filters: Filters,
        *,
        below: str = "",
        stop: Callable[[], bool] = lambda: False,
    ) -> Scan:
        """Walk the tree (or what is below a directory, without trailing slash) and yield the differences to `known`.

        See `scan.Scan`.
        """
        return Scan(self._looker, known, filters, below=below, stop=stop)

    # ---- changing ----

    def stage(self, path: str = "") -> Staged:
        """A new staged file (a context manager); `path` is for messages. Raises SpaceError, PathError."""
        return self._staging.open(path)

    def stage_partial(self, path: str, *, key: str, digest: bytes) -> Partial | None:
        """A staged file that is kept when its download is broken off, as the last attempt has left it. key: what the
        bytes depend on besides. None while another thread has it. Raises SpaceError, PathError."""
        return self.partials.open(key, path, digest)

    def stage_many(self, files: Sequence[Whole], *, durable: bool = True) -> list[Staged | DirectoryError]:
        """Stage files that are at hand whole; each is finished, or its error says why not. To be discarded."""
        return self._staging.many(files, durable=durable)

    def put_many(self, items: Iterable[Placing]) -> list[Local | DirectoryError]:
        """`put_file` for each, with its own outcome; none is durable before the next `sync`."""
        return together.put_many(self._tree, self._applier, items)

    def put_file(
        self, path: str, staged: Staged, expected: Local | None, *, keep_as: str | None = None, durable: bool = True
    ) -> Applied:
        """Make the finished staged file the file at `path`, in one atomic step.

        expected: what is there now (None: nothing). Missing parents are made. The replaced file goes to the trash or,
        with `keep_as`, becomes that path (which must be free). The new file keeps the replaced one's owner and
        permission bits, but for x. A refused file stays staged, and may be put again.
        """
        return self._applier.put_file(path, staged, expected, keep_as=keep_as, durable=durable)

    def put_link(
        self, path: str, target: str, expected: Local | None, *, keep_as: str | None = None, durable: bool = True
    ) -> Applied:
        """Make a symlink at `path` to `target` (both relative to the root), otherwise like put_file."""
        return self._applier.put_link(path, target, expected, keep_as=keep_as, durable=durable)

    def make_directory(self, path: str, *, durable: bool = True) -> Local:
        """Make the directory of an entry ("a/b/"); one that is there already is fine."""
        return self._applier.make_directory(path, durable=durable)

    def delete(self, path: str, expected: Local, *, durable: bool = True) -> list[str]:
        """Move the file or link to the trash, or remove the empty directory of "a/b/".

        Parents that this empties are removed too; they are returned as "a/b/", innermost first.
        """
        return self._applier.delete(path, expected, durable=durable)

    def move(self, src: str, dst: str, expected: Local, *, durable: bool = True) -> Local:
        """Rename a file or link, never over anything; emptied parents of src are removed. Gives dst's local side."""
        return self._applier.move(src, dst, expected, durable=durable)

    def set_metadata(
        self, path: str, expected: Local, *, executable: bool | None = None, mtime_ns: int | None = None
    ) -> Local:
        """Set x bits and mtime (None: leave). What couldn't be set shows in the result, it isn't an error."""
        return self._applier.set_metadata(path, expected, executable=executable, mtime_ns=mtime_ns)

    def put_into_trash(self, path: str, staged: Staged) -> None:
        """Keep a finished staged file in the trash, as a version of `path` that never was here. Raises SpaceError..."""
        self._applier.put_into_trash(path, staged)

    def restore(self, path: str, *, batch: str | None = None) -> None:
        """Move the newest version of `path` (or that of a batch) back from the trash. Raises PathError when it isn't
        there, or when something is at `path`."""
        self._applier.restore(path, batch)

    # ---- durability and cleaning ----

    def sync(self) -> None:
        """Write everything of this file system to its device: the grouped form of many fsyncs. Raises SpaceError..."""
        with faults.mapped(str(self.path), "flushing the file system"):
            self._flush()

    def sync_directories(self, paths: Iterable[str]) -> None:
        """fsync the parents of `paths`, each once."""
        self._applier.sync_directories(paths)

    def sweep_staging(self) -> int:
        """Remove what earlier runs left in staging, but for `partials` that can go on; for the holder of the root's
        lock. Returns how many files."""
        return 0 if self.options.read_only else self._staging.sweep(self.partials.belongs)
