"""The image in a container: its start until /readyz, and its memory: the figures of "Sizing" in docs/kubernetes.md.

    .venv/bin/python -m benchmarks.container [--rounds 5] [--files 100 10000 100000]

It needs a container engine, as tests/deploy does (tests/support/engine.py), and builds the image first. Containers are
as the chart has them: user 65532, a read-only root file system, no capabilities, a limit of 512 MiB. Files have 4 KiB.
Memory and CPU are those of both processes: RSS when nothing has happened for ten seconds, and the peak (VmHWM).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.support.engine import Engine
from tests.support.server import NatsServer, free_port

SIZE = 4096
USER = 65532
QUIET_SECONDS = 10.0
_numbers = itertools.count(1)


class Running:
    """A container that is ready. seconds: from `docker run` until /readyz."""

    def __init__(self, engine: Engine, image: str, home: Path, port: int) -> None:
        self._engine = engine
        began = time.monotonic()
        self.name = f"jetsync-bench-{os.getpid()}-{next(_numbers)}"
        engine.docker(
            *("run", "--detach", "--name", self.name, "--network", "host", "--read-only", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--memory", 512 << 20, "--memory-swap", 512 << 20),
            *("--volume", f"{home}/config:/etc/jetsync:ro", "--volume", f"{home}/state:/var/lib/jetsync"),
            *("--volume", f"{home}/data:/data", image),
        )
        while not self._ready(port):
            time.sleep(0.01)
        self.seconds = time.monotonic() - began
        first = int(engine.inspect(self.name, "{{.State.Pid}}"))
        self._pids = [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]
        self.cpu = self._cpu()

    @staticmethod
    def _ready(port: int) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def _cpu(self) -> float:
        """Seconds of CPU of both processes so far, which the load of a machine changes least."""
        words = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._pids]
        return sum(int(word[11]) + int(word[12]) for word in words) / os.sysconf("SC_CLK_TCK")

    def memory(self, field: str) -> float:
        """MiB of both processes."""
        lines = [line for pid in self._pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024

    def stop(self) -> None:
        self._engine.docker("stop", "--time", 30, self.name)
        self._engine.docker("rm", self.name)


def home(folder: Path, url: str, bucket: str, mode: str, files: int = 0) -> tuple[Path, int]:
    """A configuration, an empty state and a directory, all of the image's user; and the port of /readyz."""
    port = free_port()
    for name in ("config", "state", "data"):
        (folder / name).mkdir(parents=True)
    mapping = {"name": "files", "directory": "/data", "bucket": bucket, "mode": mode}
    config = {"version": 1, "nats": {"servers": [url]}, "http": {"listen": f"127.0.0.1:{port}"}}
    config |= {"buckets": {bucket: {}}, "mappings": [mapping]}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    for number in range(files):
        path = folder / "data" / f"{number // 500:04d}" / f"{number:06d}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(SIZE))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    return folder, port


@contextlib.contextmanager
def working() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="jetsync-container-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def starts(engine: Engine, image: str, folder: Path, port: int, rounds: int) -> list[tuple[float, float]]:
    """(seconds, seconds of CPU) until ready with nothing to do, again and again; by time."""
    found = []
    for _ in range(rounds):
        running = Running(engine, image, folder, port)
        found.append((running.seconds, running.cpu))
        running.stop()
    return sorted(found)


def measure(engine: Engine, image: str, place: Path, url: str, *, files: int, rounds: int) -> None:
    sender, port = home(place / "sender", url, f"b{files}", "push-mirror", files)
    pushing = Running(engine, image, sender, port)
    told = [f"{files:,} files: first push {pushing.seconds:.1f} s, {pushing.cpu:.1f} s of CPU"]
    told.append(f"peak {pushing.memory('VmHWM'):.0f} MiB")
    pushing.stop()

    receiver, port = home(place / "receiver", url, f"b{files}", "pull-mirror")
    pulling = Running(engine, image, receiver, port)
    time.sleep(QUIET_SECONDS)
    told.append(
        f"first pull {pulling.seconds:.1f} s, {pulling.cpu:.1f} s of CPU, peak {pulling.memory('VmHWM'):.0f} MiB"
    )
    told.append(f"idle after it {pulling.memory('VmRSS'):.0f} MiB")
    pulling.stop()

    again = starts(engine, image, receiver, port, rounds)
    seconds, cpu = ([pair[index] for pair in again] for index in (0, 1))
    told.append(
        f"start with nothing to do {statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}),"
        f" {statistics.median(cpu):.2f} s of CPU"
    )
    running = Running(engine, image, receiver, port)
    time.sleep(QUIET_SECONDS)
    told.append(f"idle {running.memory('VmRSS'):.0f} MiB, of it anonymous {running.memory('RssAnon'):.0f} MiB")
    running.stop()
    print("; ".join(told), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.container", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, nargs="*", default=[0, 100, 10_000, 100_000])
    options = parser.parse_args()
    with working() as place:
        engine = Engine.start(place / "engine")
        try:
            image = engine.build()
            size = int(engine.inspect(image, "{{.Size}}"))
            base = int(engine.inspect(engine.base(), "{{.Size}}"))
            print(f"image {size / 1e6:.0f} MB, {(size - base) / 1e6:.1f} MB over its base")
            with NatsServer(place / "nats") as server:
                for files in options.files:
                    measure(engine, image, place / str(files), server.url, files=files, rounds=options.rounds)
        finally:
            engine.close()


if __name__ == "__main__":
    main()
