"""Fixtures for all tests. One nats-server for each pytest-xdist worker; buckets are told apart by name.

nats_server, nats_url   the session's server (JetStream, newest version): never stop it
fresh_server            a server of this test alone, to be stopped, killed and paused
any_server              the session's server in each version that is here: the test runs once for each
server_binaries         "2.15" -> path, for tests that start their own
make_server             makes servers that end with the test: make_server(config_extra=..., jetstream=False, binary=...)
bucket_name             a bucket name that no other test uses
no_consumers_left       fails the test when consumers stay on the session's server (ask for it, or usefixtures)

Each async test also fails when it leaves tasks behind. A time-out ends the test, never the worker that runs it.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support.explain import differences
from tests.support.server import NatsServer, binaries

VERSIONS = ("2.15", "2.12", "2.9")  # newest first; "2.15" stands for whatever the `server` extra brings

_numbers = itertools.count(1)
_in_phase = False  # a fixture or a test of ours runs, and not pytest's own code between them


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> Generator[None, object, object]:
    """The alarm raises where it finds the test; between setup, call and teardown nobody would catch that but the
    worker, which ends. A test that fails near its limit and then tells about large values does come that far."""
    result = yield
    ends_the_test = signal.getsignal(signal.SIGALRM)

    def alarm(number: int, frame: FrameType | None) -> None:
        if _in_phase and callable(ends_the_test):
            ends_the_test(number, frame)
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.1)  # look again; the end of the test or its failure takes it away

    if callable(ends_the_test):  # else it is a thread that ends the process, as Windows has it
        signal.signal(signal.SIGALRM, alarm)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def _phase(item: pytest.Item) -> Generator[None, object, object]:
    global _in_phase  # noqa: PLW0603 - there is one alarm in a process
    _in_phase = True
    try:
        return (yield)
    finally:
        _in_phase = False


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _phase


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_assertrepr_compare(op: str, left: object, right: object) -> Generator[None, object, object]:
    told = differences(left, right) if op == "==" else None
    with pytest.MonkeyPatch.context() as patch:
        if told:  # pytest's own is made whatever the wrapper says, in full where it takes itself to be in CI
            for name in ("CI", "BUILD_NUMBER"):
                patch.delenv(name, raising=False)
        usual = yield
    return [told] if told else usual


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(inspect.unwrap(item.obj)):
            # First in, last out: it looks when all other fixtures of the test have cleaned up.
            item.fixturenames.insert(0, "no_tasks_left")


@pytest.fixture
async def no_tasks_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left: set[asyncio.Task[Any]] = set()
    deadline = time.monotonic() + 1.0  # tasks that were told to end may need a few turns of the loop
    while True:
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.01)
    if left:
        names = "\n".join(f"  {task.get_name()}: {task.get_coro()}" for task in left)
        pytest.fail(f"the test left tasks behind:\n{names}")


@pytest.fixture(scope="session")
def server_binaries() -> dict[str, Path]:
    return binaries()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    yield from _session_server(tmp_path_factory.mktemp("nats-server"), "nats-server")


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@pytest.fixture(scope="session", params=VERSIONS)
def any_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    if request.param == VERSIONS[0]:
        yield request.getfixturevalue("nats_server")
        return
    binary = binaries().get(request.param)
    if binary is None:
        pytest.skip(f"no nats-server {request.param} here; `make servers` brings it")
    yield from _session_server(tmp_path_factory.mktemp(f"nats-server-{request.param}"), binary)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    made: list[NatsServer] = []

    def make(**options: Any) -> NatsServer:
        server = NatsServer(tmp_path / f"nats-server-{len(made)}", **options)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.stop()
        shutil.rmtree(server.store_dir / "jetstream", ignore_errors=True)


@pytest.fixture
def fresh_server(make_server: Callable[..., NatsServer]) -> NatsServer:
    return make_server()


@pytest.fixture
def bucket_name(worker_id: str) -> str:
    return f"{worker_id}-{next(_numbers)}"


@pytest.fixture
def no_consumers_left(nats_server: NatsServer) -> Iterator[None]:
    before = nats_server.consumers()
    yield
    left: set[tuple[str, str]] = set()
    deadline = time.monotonic() + 2.0  # the monitoring page may lag behind a delete that was just acknowledged
    while True:
        left = nats_server.consumers() - before
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not left, f"the test left consumers on the server: {sorted(left)}"


def _session_server(store: Path, binary: str | Path) -> Iterator[NatsServer]:
    server = NatsServer(store, binary=binary)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(store / "jetstream", ignore_errors=True)
