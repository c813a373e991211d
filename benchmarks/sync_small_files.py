"""`jetsync sync` of many small files against nats-py's own ObjectStore, which does the same one file after the other.

    python benchmarks/sync_small_files.py [FILES] [--size BYTES] [--rounds N] [--dir DIR]

In each round, in turn, on the same nats-server and the same disk, with fresh buckets and directories:

    push           jetsync: `sync`, first time            nats-py: read each file, `put`
    nothing to do  jetsync: `sync` again                   nats-py: hash each file, `get_info`, compare the digests
    pull           jetsync: `sync` in an empty directory   nats-py: `list`, `get` each, write it

jetsync is timed as the command that a user runs, start of the interpreter and fsync included; nats-py as a program that
is running and connected, without fsync. Each `get` of nats-py leaves a consumer behind for a while, and at 1,000 or so
the server gives no more: they are removed now and then, which isn't counted. Prints the median of each, and the median
of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

BIN = Path(sys.executable).parent
PER_DIRECTORY = 100


@contextmanager
def nats_server(store: Path) -> Iterator[str]:
    """A server of our own on a free loopback port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = shutil.which("nats-server", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        sys.exit("there is no nats-server: run `make install`")
    command = [found, "-js", "-sd", str(store), "-a", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit("the nats-server doesn't come up")


def make_files(root: Path, files: int, size: int) -> None:
    for number in range(files):
        target = root / f"{number // PER_DIRECTORY:05}" / f"file-{number:07}"
        if number % PER_DIRECTORY == 0:
            target.parent.mkdir(parents=True)
        target.write_bytes(os.urandom(size))


# -- jetsync -----------------------------------------------------------------------------------------------------------


class Agent:
    """One configuration with one mapping; `sync` runs the command and gives its seconds."""

    def __init__(self, home: Path, url: str, bucket: str, directory: Path) -> None:
        home.mkdir()
        directory.mkdir(exist_ok=True)
        self._config = home / "config.yaml"
        config = {
            "version": 1,
            "name": home.name,
            "state_dir": "./state",
            "nats": {"servers": [url]},
            "http": False,
            "buckets": {bucket: {}},
            "mappings": [{"name": "files", "directory": str(directory), "bucket": bucket, "mode": "two-way"}],
        }
        self._config.write_text(json.dumps(config))

    def sync(self) -> float:
        # Compiled modules are a part of every installation, so they are allowed here too.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        began = time.perf_counter()
        result = subprocess.run(
            [BIN / "jetsync", "-c", self._config, "sync"], capture_output=True, text=True, env=environment, check=False
        )
        seconds = time.perf_counter() - began
        if result.returncode:
            sys.exit(f"jetsync sync failed ({result.returncode}):\n{result.stdout}{result.stderr}")
        return seconds


def jetsync_round(work: Path, url: str, bucket: str, source: Path) -> dict[str, float]:
    sender = Agent(work / "sender", url, bucket, source)
    receiver = Agent(work / "receiver", url, bucket, work / "received")
    figures = {"push": sender.sync(), "nothing to do": sender.sync(), "pull": receiver.sync()}
    check(source, work / "received")
    return figures


# -- nats-py -----------------------------------------------------------------------------------------------------------


async def stock_round(work: Path, url: str, bucket: str, source: Path) -> dict[str, float]:
    connection = await nats.connect(url)
    try:
        jetstream = connection.jetstream()
        store = await jetstream.create_object_store(bucket)
        received = work / "received-stock"
        figures = {
            "push": await timed(lambda: stock_push(store, source)),
            "nothing to do": await timed(lambda: stock_compare(store, source)),
            "pull": await stock_pull(store, received, lambda: remove_consumers(jetstream, f"OBJ_{bucket}")),
        }
        check(source, received)
        return figures
    finally:
        await connection.close()


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def stock_push(store: ObjectStore, source: Path) -> None:
    for name in names(source):
        await store.put(name, (source / name).read_bytes())


async def stock_compare(store: ObjectStore, source: Path) -> None:
    for name in names(source):
        digest = base64.urlsafe_b64encode(hashlib.sha256((source / name).read_bytes()).digest()).decode()
        info = await store.get_info(name)
        if info.digest != f"SHA-256={digest}":
            sys.exit(f"{name} differs")


async def stock_pull(store: ObjectStore, target: Path, tidy: Callable[[], Awaitable[None]]) -> float:
    """The seconds that it took, without those of `tidy`."""
    began = time.perf_counter()
    tidied = 0.0
    for number, info in enumerate(await store.list()):
        assert info.name is not None
        if number % 500 == 499:
            tidied += await timed(tidy)
        path = target / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        found = await store.get(info.name)
        path.write_bytes(found.data or b"")
    return time.perf_counter() - began - tidied


async def remove_consumers(jetstream: JetStreamContext, stream: str) -> None:
    for consumer in await jetstream.consumers_info(stream):
        with suppress(NotFoundError):  # it has ended by itself meanwhile
            await jetstream.delete_consumer(stream, consumer.name)


# -- all ---------------------------------------------------------------------------------------------------------------


def names(root: Path) -> list[str]:
    """The files below root, without jetsync's own directory."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != ".jetsync")


def check(source: Path, received: Path) -> None:
    expected, got = names(source), names(received)
    if expected != got or any((source / name).read_bytes() != (received / name).read_bytes() for name in expected[:50]):
        sys.exit(f"{received} isn't what {source} is: {len(got)} files of {len(expected)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=int, nargs="?", default=10_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where to work; default: the temporary directory")
    arguments = parser.parse_args()
    ours: list[dict[str, float]] = []
    stock: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="jetsync-bench-", dir=arguments.dir) as folder:
        for number in range(arguments.rounds):
            work = Path(folder) / f"round-{number}"
            make_files(work / "files", arguments.files, arguments.size)
            os.sync()
            with nats_server(work / "server") as url:
                ours.append(jetsync_round(work, url, "ours", work / "files"))
                stock.append(asyncio.run(stock_round(work, url, "stock", work / "files")))
            shutil.rmtree(work)
    what = f"{arguments.files:,} files of {arguments.size:,} bytes"
    print(f"{what}, median of {arguments.rounds} rounds, {os.cpu_count()} CPUs")
    print(f"{'':16}{'jetsync':>10}{'nats-py':>10}{'ratio':>8}")
    for what in ours[0]:
        ratio = statistics.median(b[what] / a[what] for a, b in zip(ours, stock, strict=True))
        mine, theirs = (statistics.median(figures[what] for figures in rounds) for rounds in (ours, stock))
        print(f"{what:16}{mine:9.2f}s{theirs:9.2f}s{ratio:7.1f}x")


if __name__ == "__main__":
    main()
