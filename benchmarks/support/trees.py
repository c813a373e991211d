"""Trees of files, made fast: nothing here is synced to disk file by file."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

PER_DIRECTORY = 100


def name_of(number: int, *, per_directory: int = PER_DIRECTORY) -> str:
    return f"{number // per_directory:05}/file-{number:07}"


def make(root: Path, files: int, size: int, *, per_directory: int = PER_DIRECTORY) -> None:
    """`files` files of `size` random bytes, no two equal: each begins with its number (unless that doesn't fit)."""
    noise = random.Random(files).randbytes(size + 4096)
    for number in range(files):
        if number % per_directory == 0:
            (root / f"{number // per_directory:05}").mkdir(parents=True)
        start = number * 7 % 4096
        content = (b"%x." % number + noise[start : start + size])[:size]
        descriptor = os.open(
            root / name_of(number, per_directory=per_directory), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644
        )
        os.write(descriptor, content)
        os.close(descriptor)
    os.sync()


def make_large(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - start)))
    os.sync()


def names(root: Path) -> list[str]:
    """The files below root, sorted, without jetsync's own directory."""
    return sorted(_names(str(root), ""))


def _names(folder: str, before: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != ".jetsync":
                    yield from _names(entry.path, f"{before}{entry.name}/")
            else:
                yield before + entry.name


def check_equal(one: Path, other: Path, *, some: int = 100) -> None:
    """The same names on both sides, and for some of them the same bytes; the program ends otherwise."""
    expected, got = names(one), names(other)
    looked_at = random.Random(1).sample(expected, min(some, len(expected)))
    if expected != got or any((one / name).read_bytes() != (other / name).read_bytes() for name in looked_at):
        sys.exit(f"{other} isn't what {one} is: {len(got)} files, {len(expected)} expected")
