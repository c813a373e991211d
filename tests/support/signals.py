"""Signals whose effect has happened when the call returns.

SIGSTOP stops a process of several threads one after the other, each at its next return from the kernel: on a busy
machine a server "stopped" a moment ago still answers what was in its socket. So this waits until the kernel says that
every thread stands still.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def freeze(pid: int, *, timeout: float = 20.0) -> None:
    """SIGSTOP, and wait until no thread of the process runs any more. TimeoutError when one still does."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + timeout
    while states := _moving(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} was sent SIGSTOP {timeout:g} s ago, its threads are in {states}")
        time.sleep(0.001)


def _moving(pid: int) -> set[str]:
    """States of the threads that aren't stopped (T), or gone (Z, X)."""
    stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return {stat.rpartition(")")[2].split()[0] for stat in stats} - {"T", "t", "Z", "X"}
