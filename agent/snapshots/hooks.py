"""What a subscription runs and tells around a change: commands, and a webhook.

A command is text for the shell, or a list of arguments that is run as it is; in the folder of the configuration file,
without input, with the environment of the agent and

    JETSYNC_SUBSCRIPTION, JETSYNC_SNAPSHOT     the subscription's name; the id that is (or is about to be) current
    JETSYNC_PREVIOUS                           the id before, "" at first
    JETSYNC_DIRECTORY, JETSYNC_VERSION         the subscription's directory, and versions/<id> in it

It has a process group of its own, which is killed when its time is over or the agent stops. The end of what it writes
goes into the log. What it leaves running in the background when it has succeeded goes on.

The webhook is a POST of {"subscription","snapshot","previous","directory"} with the header Jetsync-Snapshot; any
status from 200 to 299 is a success. Redirects aren't followed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.config.suggest import without_secrets
from agent.errors import RefusedError, SnapshotError
from agent.objectstore import uninterrupted
from agent.observe.logging import get_logger

COMMAND_SECONDS = 60.0
WEBHOOK_SECONDS = 10.0
# Between the friendly and the unfriendly signal, and for output that is still under way when a command has ended.
_TERM_SECONDS = 2.0
_OUTPUT_SECONDS = 0.1
_OUTPUT = 4096

Command = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What happens. previous: "" at first. directory, version: where."""

    subscription: str
    snapshot: str
    previous: str
    directory: Path
    version: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "JETSYNC_SUBSCRIPTION": self.subscription,
            "JETSYNC_SNAPSHOT": self.snapshot,
            "JETSYNC_PREVIOUS": self.previous,
            "JETSYNC_DIRECTORY": str(self.directory),
            "JETSYNC_VERSION": str(self.version),
        }

    def as_json(self) -> dict[str, str]:
        return {
            "subscription": self.subscription,
            "snapshot": self.snapshot,
            "previous": self.previous,
            "directory": str(self.directory),
        }


async def run(command: Command, change: Change, *, folder: Path, seconds: float = COMMAND_SECONDS) -> None:
    """Run a command to its end.

    :raises RefusedError: it can't be run, fails, or takes too long
    """
    shown = command if isinstance(command, str) else " ".join(command)
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else command
    reading, writing = os.pipe()
    output = _Output(reading)
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                cwd=folder,
                env={**os.environ, **change.environment},
                start_new_session=True,
            )
        finally:
            os.close(writing)
        code = await _end_of(process, seconds)
    except OSError as error:
        raise RefusedError(f"the command {shown!r} can't be run: {error.strerror}", remedy="correct it") from error
    finally:
        await output.close()
    told = output.text
    if told:
        get_logger(subscription=change.subscription).info("command_output", command=shown, output=told)
    if code is None:
        raise RefusedError(f"the command {shown!r} didn't end within {seconds:g} s", remedy="see what it waits for")
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        last = told.rstrip().rpartition("\n")[2][-200:]
        raise RefusedError(f"the command {shown!r} {how}" + (f": {last}" if last else ""), remedy="see its output")


async def _end_of(process: asyncio.subprocess.Process, seconds: float) -> int | None:
    """Its exit code, or None when its time was over."""
    try:
        async with asyncio.timeout(seconds):
            return await process.wait()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            await uninterrupted(_killed(process))


async def _killed(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_TERM_SECONDS):
                await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived the friendly signal


class _Output:
    """Reads a pipe so that nobody has to wait for us, and keeps the end of what came."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = b""
        self._ended = asyncio.Event()
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        self._data = (self._data + data)[-_OUTPUT:]
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._ended.set()

    async def close(self) -> None:
        """What is in the pipe now still counts; a child in the background may hold it open for ever."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_OUTPUT_SECONDS):
                    await self._ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)

    @property
    def text(self) -> str:
        return self._data.decode("utf-8", "replace").strip()


async def post(url: str, change: Change, *, seconds: float = WEBHOOK_SECONDS) -> None:
    """Tell the webhook.

    :raises SnapshotError: it can't be reached, or answers something else than success
    """
    import aiohttp

    shown, remedy = without_secrets(url), "it is told again until it answers with success"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            session.post(
                url, json=change.as_json(), headers={"Jetsync-Snapshot": change.snapshot}, allow_redirects=False
            ) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error).replace(url, shown)
        raise SnapshotError(
            f"the webhook {shown} can't be told: {why or type(error).__name__}", remedy=remedy
        ) from error
    if not 200 <= status < 300:
        raise SnapshotError(f"the webhook {shown} answered with status {status}", remedy=remedy)
