"""What every command shares: the configuration, logging, and a loop that ends cleanly on a signal."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

    from agent.config.load import Loaded
    from agent.config.model import Config

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTLY = 3
EXIT_DIFFERENCES = 4
EXIT_CONNECT = 5


class SignalledError(Exception):
    """The command was ended by a signal, after it had cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(slots=True)
class Context:
    """`config_path`: as given by -c or $JETSYNC_CONFIG; None = the default places."""

    config_path: Path | None = None

    def load(self) -> Config:
        """:raises ConfigError: with every problem of the file"""
        return self.read().config

    def read(self) -> Loaded:
        """:raises ConfigError: with every problem of the file"""
        from agent.config import read

        return read(self.config_path)


def start_logging(config: Config) -> None:
    from agent.observe.logging import configure

    configure(config.log)


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine; SIGINT, SIGTERM and SIGHUP (a closed terminal, not under nohup) cancel it once; it may clean up.

    :raises SignalledError: it was ended by a signal
    """
    import asyncio  # not for `version`, `status` and the like

    received: list[int] = []

    async def supervised() -> T:
        task = asyncio.ensure_future(work())
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, stop, number)
        return await task

    _calm_the_collector()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(supervised())
    except KeyboardInterrupt:
        raise SignalledError(received[0] if received else signal.SIGINT) from None
    except asyncio.CancelledError as error:
        if not received:  # a mistake of ours, which must not look like Ctrl-C
            raise RuntimeError("the command was cancelled, and no signal had come") from error
        raise SignalledError(received[0]) from None


def _calm_the_collector() -> None:
    """Have the cycle collector come seldom, and never look at what was imported.

    Entries, rows and plans hold no cycles, and there are hundreds of thousands of them for a moment: by the defaults
    they would all be walked through again and again, which was a sixth of the work of a first sync.
    """
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (extra `speed`), else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def print_json(value: object) -> None:
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    sys.stdout.write("\n")
