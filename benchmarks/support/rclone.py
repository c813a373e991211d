"""The peer for directories: rclone, with `rclone serve s3` on loopback as its server, storing files on the same disk.

Its defaults are used, but for the listing: `--fast-list` asks for all names at once, which is its best here.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.support.process import Measure, environment, find, run, with_server
from tests.support.server import DIE_WITH_PARENT, free_port

_KEY, _SECRET = "bench", "bench-secret"
COMMAND = find("rclone")


class Rclone:
    """Made by `rclone_server`. Buckets are made by the first `push`."""

    def __init__(self, program: Path, port: int, server: int) -> None:
        self._program = program
        self._server = server
        self._environment = {
            "RCLONE_CONFIG": "",
            "RCLONE_CONFIG_S3_TYPE": "s3",
            "RCLONE_CONFIG_S3_PROVIDER": "Rclone",
            "RCLONE_CONFIG_S3_ENDPOINT": f"http://127.0.0.1:{port}",
            "RCLONE_CONFIG_S3_ACCESS_KEY_ID": _KEY,
            "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": _SECRET,
        }

    def push(self, source: Path, bucket: str) -> Measure:
        return self._sync(str(source), f"s3:{bucket}")

    def pull(self, bucket: str, target: Path) -> Measure:
        return self._sync(f"s3:{bucket}", str(target))

    def _sync(self, source: str, target: str) -> Measure:
        command: list[str | Path] = [self._program, "sync", source, target, "--fast-list", "--filter", "- /.jetsync/**"]
        return with_server(self._server, lambda: run(command, env=self._environment).measure)


@contextmanager
def rclone_server(store: Path) -> Iterator[Rclone | None]:
    """None where there is no rclone: `make bench` installs it."""
    if COMMAND is None:
        yield None
        return
    store.mkdir(parents=True)
    port = free_port()
    command = [str(COMMAND), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{_KEY},{_SECRET}"]
    told = store.parent / f"{store.name}.log"
    with told.open("wb") as log:
        process = subprocess.Popen(
            [*DIE_WITH_PARENT, *command, str(store)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment({"RCLONE_CONFIG": ""}),
        )
    try:
        if not _comes_up(port, process):
            sys.exit(f"rclone serve s3 doesn't come up:\n{told.read_text(errors='replace')[-2000:]}")
        yield Rclone(COMMAND, port, process.pid)
    finally:
        process.terminate()
        process.wait()


def _comes_up(port: int, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            if process.poll() is not None:
                return False
            time.sleep(0.05)
    return False
