"""Commands as a user runs them, measured: wall time, CPU time, and the peak of the resident memory.

A small interpreter stands between: it forks, executes the command, waits for it and tells what the kernel has counted.
Without it the peak would be ours: a process that is started directly inherits that of whoever started it. Its own,
some 10 MiB, is the least that can be told. Nobody outlives the benchmark (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

BIN = Path(sys.executable).parent

_LAUNCHER = """if 1:
    import ctypes, json, os, sys, time
    told, command, libc = int(sys.argv[1]), sys.argv[2:], ctypes.CDLL(None)
    libc.prctl(1, 9)
    os.set_inheritable(told, False)
    began = time.perf_counter()
    child = os.fork()
    if not child:
        try:
            libc.prctl(1, 9)
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    figures = [seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]
    os.write(told, json.dumps(figures).encode())
    sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """seconds by the clock; cpu: seconds of user and system time; rss: peak in bytes; server: CPU seconds of the server
    meanwhile. None: not known."""

    seconds: float
    cpu: float | None = None
    rss: int | None = None
    server: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    measure: Measure
    out: str


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Run a command to its end, which has to be exit 0; stdin is empty, stdout is kept."""
    told, tell = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-ISc", _LAUNCHER, str(tell), *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=[tell],
            env=environment(env),
            cwd=cwd,
            check=False,
        )
    finally:
        os.close(tell)
    with os.fdopen(told) as pipe:
        figures = pipe.read()
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return Done(Measure(*json.loads(figures)), done.stdout)


def with_server(pid: int, work: Callable[[], Measure]) -> Measure:
    """Do it, and add what the server with this id has used of the CPU meanwhile."""
    before = cpu_seconds(pid)
    measure = work()
    return replace(measure, server=cpu_seconds(pid) - before)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without what would change the commands. Compiled modules are part of every
    installation, so they may be written here too."""
    dropped = ("JETSYNC_", "RCLONE_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "NO_COLOR": "1", **(extra or {})}


def find(name: str) -> Path | None:
    """A program beside the interpreter, or in PATH."""
    for folder in [BIN, *map(Path, os.environ.get("PATH", "").split(os.pathsep))]:
        if os.access(folder / name, os.X_OK):
            return folder / name
    return None


# -- processes that run for a while ------------------------------------------------------------------------------------


def resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes of a line of /proc/PID/status: VmRSS now, VmHWM the peak, RssAnon without pages of files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
