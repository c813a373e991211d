"""Shared by the tests of the directory: values, small builders, and a way to run code inside a mount namespace."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

from agent.core.entries import Entry, Kind, Local, Sighting, Signature
from agent.core.filters import Filters
from agent.directory import Applied, Directory

REPOSITORY = Path(__file__).resolve().parents[2]
EVERYTHING_IN = Filters()
OLD_NS = 1_500_000_000_123_456_789  # a time long ago, with a fraction, so that nothing is racy


def write(path: Path, content: bytes | str = b"content", *, age: float = 10.0) -> Path:
    """A file that was last modified `age` seconds ago; its ctime is now, though."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    then = time.time_ns() - int(age * 1e9)
    os.utime(path, ns=(then, then))
    return path


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def put(
    directory: Directory,
    path: str,
    content: bytes,
    expected: Local | None = None,
    *,
    keep_as: str | None = None,
    executable: bool | None = None,
    mtime_ns: int | None = OLD_NS,
    durable: bool = True,
) -> Applied:
    with directory.stage(path) as staged:
        staged.write(content)
        staged.finish(executable=executable, mtime_ns=mtime_ns, durable=durable)
        return directory.put_file(path, staged, expected, keep_as=keep_as, durable=durable)


def read(directory: Directory, path: str) -> Local:
    local = directory.read(path)
    assert local is not None
    return local


def entry_of(local: Local | None) -> Entry:
    assert local is not None
    assert isinstance(local.side, Entry)
    return local.side


def content_digest(local: Local | None) -> bytes:
    entry = entry_of(local)
    assert entry.kind is Kind.FILE
    return entry.digest


def user_tree(root: Path) -> dict[str, bytes | str | None]:
    """Everything below a root but the agent's own directory: content of files, text of links, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] == ".jetsync":
            continue
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def staged_left(root: Path) -> list[str]:
    staging = root / ".jetsync/staging"
    return os.listdir(staging) if staging.exists() else []


class Known:
    """What a scan is to compare with, from pairs."""

    def __init__(self, sides: Iterable[tuple[str, Local]] = ()) -> None:
        self.sides = dict(sides)

    def local_signatures(self, below: str = "") -> Iterator[Sighting]:
        for path, local in self.sides.items():
            if below and not path.startswith(below + "/"):
                continue
            file = isinstance(local.side, Entry) and local.side.kind is Kind.FILE
            signature = local.signature or Signature(0, 0, 0, 0, 0)
            yield (path, 1 if file else 2, *astuple(signature), local.racy)

    def local_side(self, path: str) -> Local | None:
        return self.sides.get(path)


def known_of(directory: Directory, hints: Iterable[str] | None = None) -> list[tuple[str, Local]]:
    """What a caller would know after having taken in a whole scan: every path with its local side, not racy."""
    paths = hints if hints is not None else [hint.path for hint in directory.scan(Known(), EVERYTHING_IN)]
    known = []
    for path in sorted(paths, key=str.encode):
        local = read(directory, path)
        known.append((path, Local(local.side, local.signature)))
    return known


def hints_of(
    directory: Directory, known: Iterable[tuple[str, Local]] = (), filters: Filters = EVERYTHING_IN, *, below: str = ""
) -> list[tuple[str, str]]:
    """Hints as pairs (path, kind, or the reason of a problem)."""
    scan = directory.scan(Known(known), filters, below=below)
    return [(hint.path, hint.obstacle.reason if hint.obstacle else hint.kind) for hint in scan]


def wait_for(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def run_as_root_in_namespace(script: str, *arguments: str | Path, prepare: str = "true", uid: int | None = None) -> str:
    """Run Python code in its own mount namespace, after the shell commands of `prepare`; as `uid` when given.

    The test is skipped where that isn't possible. Returns what the code printed.
    """
    needs = shutil.which("unshare") and (uid is None or shutil.which("setpriv"))
    if os.geteuid() != 0 or not needs or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root, unshare and setpriv")
    drop = f"setpriv --reuid={uid} --regid={uid} --clear-groups " if uid is not None else ""
    command = f'set -e\n{prepare}\nexec {drop}"$PYTHON" - "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", *map(str, arguments)],
        input=textwrap.dedent(script),
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
