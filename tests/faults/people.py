"""People who work in a directory that an agent syncs, and who know exactly what they destroyed.

What they make is made aside (on the same file system, outside the mapping) and renamed in; what stood there is
exchanged out by the same system call, so nothing can come between looking and replacing:

    take a name     RENAME_NOREPLACE, or RENAME_EXCHANGE when something is there; what came out is given up
    delete          rename out; what came out is given up
    unlink, mv      as the shell does it: a hard link is kept of what is there. When its link count is one afterwards,
                    it was what the call destroyed; when not, an agent was faster, and the ledger is told so
    append, write   in place, through one descriptor: what the inode holds is read from it before it is changed, and
                    agents never change an inode that people have

All of them fail as system calls do (the name is a directory, the parent isn't one): an OSError, and nothing happened.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import random
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.ledger import Ledger, of_bytes, of_target

AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def rename(source: Path, goal: Path, how: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(goal), how):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(goal))


class Person:
    """Works in `root`. aside: a directory on the same file system where things are made and taken to."""

    def __init__(self, name: str, root: Path, aside: Path, *, ledger: Ledger, chance: random.Random, seed: int) -> None:
        self.name = name
        self.root = root
        self.aside = aside
        self.ledger = ledger
        self.chance = chance
        self.seed = seed
        self._numbers = itertools.count(1)
        aside.mkdir(parents=True, exist_ok=True)

    # ---- contents ----

    def content(self) -> bytes:
        """Never the same twice; mostly small, sometimes of many chunks."""
        word = f"{self.name}-{self.seed}-{next(self._numbers)}.".encode()
        return word * self.chance.choice([1, 1, 1, 1, 20, 20_000, 100_000])

    def _spare(self) -> Path:
        return self.aside / f"{next(self._numbers)}"

    # ---- what they do ----

    def save(self, path: str, content: bytes | None = None) -> None:
        """A file takes the name, whatever had it."""
        content = self.content() if content is None else content
        new = self._spare()
        new.write_bytes(content)
        new.chmod(0o755 if self.chance.random() < 0.15 else 0o644)
        self._take(new, path)
        self.ledger.wrote(of_bytes(content), self._story("saved", path))

    def save_over(self, path: str) -> None:
        """As editors do: a temporary file is renamed over the name."""
        content = self.content()
        new, goal = self._spare(), self.root / path
        new.write_bytes(content)
        with self._destroys(goal) as there:
            new.rename(goal) if there else rename(new, goal, NOREPLACE)
        self.ledger.wrote(of_bytes(content), self._story("saved over", path))

    def link(self, path: str) -> None:
        target = f"gone-{self.name}-{self.seed}-{next(self._numbers)}"
        new = self._spare()
        new.symlink_to(target)  # beside itself: wherever the link is moved to, that is inside
        self._take(new, path)
        self.ledger.wrote(of_target(target), self._story("linked", path))

    def make_directory(self, path: str) -> None:
        """A directory with a file in it takes the name, whatever had it."""
        content = self.content()
        new = self._spare()
        new.mkdir()
        (new / "x").write_bytes(content)
        self._take(new, path)
        self.ledger.wrote(of_bytes(content), self._story("saved", f"{path}/x"))

    def copy(self, path: str, goal: str) -> None:
        self.save(goal, (self.root / path).read_bytes())

    def delete(self, path: str) -> None:
        """A file, a link, or a whole tree."""
        out = self._spare()
        (self.root / path).rename(out)
        self.ledger.saw_all(out, self._story("deleted", path))

    def unlink(self, path: str) -> None:
        with self._destroys(self.root / path):
            (self.root / path).unlink()

    def move(self, path: str, goal: str) -> None:
        """A file or a tree; a file that has the new name is overwritten."""
        source, where = self.root / path, self.root / goal
        source.lstat()
        if source == where:
            return
        where.parent.mkdir(parents=True, exist_ok=True)
        if where.is_dir():
            rename(source, where, NOREPLACE)
        with self._destroys(where) as there:
            source.rename(where) if there else rename(source, where, NOREPLACE)

    def append(self, path: str) -> None:
        self._in_place(path, truncate=False)

    def overwrite(self, path: str) -> None:
        """Truncated and written again, with moments between in which it is empty, and half written."""
        self._in_place(path, truncate=True)

    def chmod(self, path: str) -> None:
        mode = (self.root / path).lstat().st_mode
        if stat.S_ISREG(mode):
            (self.root / path).chmod((mode & 0o777) ^ 0o111)

    def touch(self, path: str) -> None:
        """Clocks are wrong now and then: a time in the past, now, or in the future."""
        then = time.time_ns() + self.chance.choice([-(10**17), -(10**9), 0, 10**13, 10**17])
        os.utime(self.root / path, ns=(then, then), follow_symlinks=False)

    def empty_directory(self, path: str) -> None:
        (self.root / path).mkdir(parents=True)

    # ---- how ----

    def _story(self, verb: str, path: str) -> str:
        return f"{self.name} {verb} {path} at {time.strftime('%H:%M:%S')}.{time.time_ns() // 10**6 % 1000:03}"

    def _take(self, new: Path, path: str) -> None:
        goal = self.root / path
        goal.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(1000):
            with suppress(FileExistsError):
                rename(new, goal, NOREPLACE)
                return
            with suppress(FileNotFoundError):
                rename(new, goal, EXCHANGE)
                self.ledger.saw_all(new, self._story("replaced", path))
                return
        raise FileExistsError(path)

    @contextmanager
    def _destroys(self, path: Path) -> Iterator[bool]:
        """Around a system call that destroys the file at `path`. Gives whether there is one."""
        kept = self._spare()
        try:
            os.link(path, kept, follow_symlinks=False)
        except FileNotFoundError:
            yield False
            return
        try:
            yield True
            # RACE: an agent came between the link and the call: it has what is kept in its trash, and what it had put
            # there is what was destroyed; nobody has seen that.
            if kept.lstat().st_nlink > 1:
                self.ledger.blurred += 1
            else:
                self.ledger.saw_all(kept, self._story("destroyed", str(path.relative_to(self.root))))
        finally:
            kept.unlink()

    def _in_place(self, path: str, *, truncate: bool) -> None:
        content = self.content()
        fd = os.open(self.root / path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            with open(fd, "rb", closefd=False) as file:
                before = file.read()
            self.ledger.saw(of_bytes(before), self._story("overwrote" if truncate else "appended to", path))
            if truncate:
                os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_END)
            for part in (content[: len(content) // 2], content[len(content) // 2 :]):
                if os.write(fd, part) < len(part):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                time.sleep(self.chance.choice([0, 0, 0.01, 0.3]))
            after = content if truncate else before + content
            self.ledger.wrote(of_bytes(after), self._story("rewrote" if truncate else "appended to", path))
        finally:
            os.close(fd)
