"""jetsync as a user has it: a configuration, a state directory, and the installed command in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from benchmarks.support.process import BIN, Measure, environment, run
from tests.support.server import DIE_WITH_PARENT, free_port

COMMAND = BIN / "jetsync"


class Agent:
    """One mapping between `directory` and `bucket`. `options` are keys of the mapping (settle, mode, ...)."""

    def __init__(self, home: Path, url: str, bucket: str, directory: Path, **options: Any) -> None:
        self.home = home
        self.directory = directory
        self.http_port = free_port()
        home.mkdir(parents=True, exist_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        mapping = {"name": "files", "directory": str(directory), "bucket": bucket, "mode": "two-way", **options}
        self._config: dict[str, Any] = {
            "version": 1,
            "name": home.name,
            "state_dir": "./state",
            "nats": {"servers": [url]},
            "buckets": {bucket: {}},
            "mappings": [mapping],
        }

    @property
    def config_file(self) -> Path:
        return self.home / "config.yaml"

    def _write(self, http: Any, **mapping: Any) -> None:
        (before,) = self._config["mappings"]
        self.config_file.write_text(json.dumps({**self._config, "http": http, "mappings": [{**before, **mapping}]}))

    def sync(self) -> Measure:
        """`jetsync sync`, as one command. A busy server is waited for: slow is a figure, given up is none."""
        return self._command("sync", "--timeout", "30m")

    def make_bucket(self) -> None:
        self._command("bucket", "apply")

    def _command(self, *words: str) -> Measure:
        self._write(False)
        return run([COMMAND, "-c", self.config_file, *words]).measure

    def run(self, **mapping: Any) -> Running:
        """`jetsync run`, with further keys of the mapping; use it as a context manager."""
        self._write({"listen": f"127.0.0.1:{self.http_port}"}, **mapping)
        return Running(self)


class Running:
    """An agent in the background, from its start until the end of the with-block. ready: seconds until it was."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._log = agent.home / "run.log"
        self.ready = 0.0

    def __enter__(self) -> Self:
        began = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*DIE_WITH_PARENT, str(COMMAND), "-c", str(self._agent.config_file), "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )
        try:
            self._wait_ready()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.ready = time.perf_counter() - began
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """The mapping's part of /api/v1/status."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._agent.http_port}/api/v1/status", timeout=30) as answer:
            page: dict[str, Any] = json.load(answer)["mappings"][0]
        return page

    def _wait_ready(self) -> None:
        while True:
            if self._process.poll() is not None:
                sys.exit(f"jetsync run ended with {self._process.returncode}:\n{self.log[-4000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._agent.http_port}/readyz", timeout=30):
                    return
            except OSError:  # also 503, an HTTPError: not yet
                time.sleep(0.02)
