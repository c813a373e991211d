"""What `jetsync demo` shows: two agents, two directories, one bucket on an embedded server, in a temporary place; live.

It says what it does, step by step, and checks what it says; it ends by itself or on Ctrl-C, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.errors import JetsyncError

STEP_SECONDS = 15.0


def say(text: str) -> None:
    print(text, flush=True)


async def tour(folder: Path) -> None:
    from agent.config import from_dict
    from agent.config.model import Log
    from agent.observe.logging import configure
    from agent.supervisor.wiring import Supervisor

    configure(Log(level="error"))
    paris, oslo = folder / "paris", folder / "oslo"
    paris.mkdir()
    oslo.mkdir()
    say("jetsync demo: two agents, two directories, one bucket; everything is in a temporary place\n")
    say(f"  paris  {paris}")
    say(f"  oslo   {oslo}\n")

    def config(name: str, directory: Path, nats: Mapping[str, object]) -> dict[str, object]:
        return {
            "version": 1,
            "name": name,
            "state_dir": str(folder / f"state-{name}"),
            "nats": nats,
            "http": False,
            "buckets": {"demo": {}},
            # Its directories are emptied again, which elsewhere a person would have to approve.
            "mappings": [
                {"name": "demo", "directory": str(directory), "bucket": "demo", "mode": "two-way", "max_delete": "100%"}
            ],
        }

    async with contextlib.AsyncExitStack() as stack:
        embedded = {"embedded": {"store_dir": str(folder / "nats"), "port": 0}}
        first = await stack.enter_async_context(Supervisor(from_dict(config("paris", paris, embedded), base=folder)))
        say("1. paris runs an embedded nats-server with JetStream on loopback")
        server = first.uplink.embedded
        assert server is not None
        password = folder / "password"
        password.write_text(server.password)
        nats = {"servers": [server.url], "user": server.user, "password_file": str(password)}
        second = await stack.enter_async_context(Supervisor(from_dict(config("oslo", oslo, nats), base=folder)))
        first.start_mappings(first.config.mappings)
        second.start_mappings(second.config.mappings)
        await first.sync([], timeout=STEP_SECONDS)
        await second.sync([], timeout=STEP_SECONDS)
        say("2. both agents have connected; the bucket `demo` is there and both directories are equal (empty)\n")
        await _show(paris, oslo)
    say("\nThat's it. Both agents and the server have stopped, and the temporary place is gone.")


async def _show(paris: Path, oslo: Path) -> None:
    await _step(
        "paris: write hello.txt",
        lambda: (paris / "hello.txt").write_text("hello from paris\n"),
        "oslo has hello.txt",
        lambda: (oslo / "hello.txt").read_text() == "hello from paris\n",
    )

    def small() -> None:
        (oslo / "data").mkdir()
        for number in range(500):
            (oslo / "data" / f"{number:03}.txt").write_text(f"file {number}\n")

    await _step(
        "oslo:  write 500 files in data/",
        small,
        "paris has all 500",
        lambda: len(list((paris / "data").glob("*.txt"))) == 500,
    )
    await _step(
        "paris: write 64 MiB into big.bin",
        lambda: (paris / "big.bin").write_bytes(bytes(range(256)) * (1 << 18)),
        "oslo has the same 64 MiB",
        lambda: (oslo / "big.bin").stat().st_size == 64 << 20,
    )
    await _step(
        "oslo:  rename big.bin to renamed.bin (no content is sent again)",
        lambda: (oslo / "big.bin").rename(oslo / "renamed.bin"),
        "paris has renamed it too",
        lambda: (paris / "renamed.bin").exists() and not (paris / "big.bin").exists(),
    )
    await _step(
        "paris: chmod +x hello.txt",
        lambda: (paris / "hello.txt").chmod(0o755),
        "oslo's copy is executable",
        lambda: bool((oslo / "hello.txt").stat().st_mode & 0o100),
    )

    def remove() -> None:
        shutil.rmtree(oslo / "data")

    await _step(
        "oslo:  delete data/ with its 500 files",
        remove,
        "paris has deleted them too (its copies are in paris/.jetsync/trash for 7 days)",
        lambda: not (paris / "data").exists(),
    )
    say("\nequal: " + ", ".join(sorted(path.name for path in paris.iterdir() if path.name != ".jetsync")))


async def _step(does: str, action: Callable[[], object], expects: str, check: Callable[[], bool]) -> None:
    """Do something on one side and wait until the other side has it."""
    say(f"   {does}")
    await asyncio.to_thread(action)
    started = time.monotonic()
    while not await asyncio.to_thread(_holds, check):
        if time.monotonic() - started > STEP_SECONDS * 4:
            raise JetsyncError(f"the demo failed: not so after {STEP_SECONDS * 4:.0f} s: {expects}")
        await asyncio.sleep(0.01)
    say(f"      -> {expects}, {time.monotonic() - started:.2f} s later")


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:
        return False
