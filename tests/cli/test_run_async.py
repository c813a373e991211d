"""How a command's event loop ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterator

import pytest

from agent.cli.context import SignalledError, run_async

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The command is a process of its own, and sets its signals and its collector as it likes."""
    thresholds, handlers = gc.get_threshold(), {number: signal.getsignal(number) for number in SIGNALS}
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_signal_cancels_the_work_and_is_told():
    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    with pytest.raises(SignalledError) as told:
        run_async(work)
    assert told.value.args == SignalledError(signal.SIGTERM).args


def test_work_that_is_cancelled_without_a_signal_does_not_look_like_ctrl_c():
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="no signal had come"):
        run_async(work)
