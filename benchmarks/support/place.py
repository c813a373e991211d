"""Where a run works: one temporary folder, and everything that was started for it.

Leaving the `with` block ends all children by their ids, last first, and removes the folder; so do Ctrl-C and SIGTERM.
Children also die with this process when it is killed (see `process`).
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Place:
    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self._stack = ExitStack()
        self._count = 0
        self.folder = Path()

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job begins with it ignored
            signal.signal(number, _interrupt)
        self.folder = Path(tempfile.mkdtemp(prefix="jetsync-bench-", dir=self._parent))
        self._stack.callback(_remove, self.folder)
        return self

    def __exit__(self, *exc: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one would leave half of the folder behind
            signal.signal(number, signal.SIG_IGN)
        self._stack.close()

    def keep(self, resource: Any) -> Any:
        """Enter a context manager that ends with the place."""
        return self._stack.enter_context(resource)

    def new(self, name: str) -> Path:
        """The path of something that isn't there yet, in a folder that is."""
        self._count += 1
        folder = self.folder / f"{self._count:03}"
        folder.mkdir()
        return folder / name


def clear(path: Path) -> None:
    """Remove a tree, and let the disk finish with it: what comes next shouldn't pay for what was before."""
    shutil.rmtree(path, ignore_errors=True)
    os.sync()


def _remove(folder: Path) -> None:
    """A command that was interrupted may write for a moment more."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
