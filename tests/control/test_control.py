"""The control socket, both ends for real: the server in this loop, the blocking client in threads."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent import errors
from agent.control.client import call, running
from agent.control.protocol import REQUEST_LIMIT, SOCKET_NAME, ControlError, decode
from agent.control.server import ControlServer, Emit, Handler, may_talk, serve

NOBODY = 65534


async def echo(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
    return {"args": args}


async def counting(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
    for number in range(args["to"]):
        emit({"number": number})
    return {"done": args["to"]}


def failing(error: Exception) -> Handler:
    async def fail(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        raise error

    return fail


class Waiting:
    """A handler that waits until it is released, and tells when it is entered and cancelled."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {"released": True}


async def ask(
    state_dir: Path, command: str, args: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any] | None:
    return await asyncio.to_thread(call, state_dir, command, args, **more)


async def raw(state_dir: Path, data: bytes) -> bytes:
    """The line that the server says to these bytes. (Its close resets the connection when it hasn't read them all.)"""
    reader, writer = await asyncio.open_unix_connection(state_dir / SOCKET_NAME)
    writer.write(data)
    answer = await reader.readline()
    writer.close()
    return answer


async def test_a_command_is_carried_out_by_the_agent(tmp_path: Path) -> None:
    async with serve(tmp_path, {"echo": echo}):
        assert await ask(tmp_path, "echo", {"names": ["inbox", "ü", "\udcff"]}) == {
            "args": {"names": ["inbox", "ü", "\udcff"]}
        }
        assert await ask(tmp_path, "echo") == {"args": {}}


async def test_events_come_in_order_before_the_result(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    async with serve(tmp_path, {"count": counting}):
        assert await ask(tmp_path, "count", {"to": 5}, on_event=seen.append) == {"done": 5}
        assert await ask(tmp_path, "count", {"to": 5}) == {"done": 5}
    assert seen == [{"number": number} for number in range(5)]


async def test_a_result_of_many_megabytes_arrives_whole(tmp_path: Path) -> None:
    async def large(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        return {"conflicts": ["x" * 100] * 100_000}

    async with serve(tmp_path, {"large": large}):
        answer = await ask(tmp_path, "large")
    assert answer == {"conflicts": ["x" * 100] * 100_000}


async def test_events_are_dropped_for_a_client_that_does_not_read_and_the_result_is_not(tmp_path: Path) -> None:
    all_sent = asyncio.Event()

    async def chatty(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        for _ in range(2000):
            emit({"text": "x" * 1000})
        all_sent.set()
        return {"done": True}

    async with serve(tmp_path, {"chatty": chatty}):
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME, limit=1 << 22)
        writer.write(b'{"command": "chatty"}\n')
        await all_sent.wait()
        lines = (await reader.read()).splitlines()
        writer.close()
    assert lines[-1] == b'{"result":{"done":true}}'
    assert 10 < len(lines) < 1500


# -- nobody there -----------------------------------------------------------------------------------------------------


async def test_without_an_agent_the_answer_is_none(tmp_path: Path) -> None:
    assert call(tmp_path, "status") is None
    assert call(tmp_path / "missing", "status") is None
    (tmp_path / "file").touch()
    assert call(tmp_path / "file", "status") is None
    assert not running(tmp_path)


async def test_the_socket_of_a_killed_agent_is_nobody_and_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / SOCKET_NAME))
    stale.close()
    assert call(tmp_path, "echo") is None
    async with serve(tmp_path, {"echo": echo}):
        assert await ask(tmp_path, "echo") == {"args": {}}
    assert list(tmp_path.iterdir()) == []


async def test_a_second_agent_on_the_same_state_directory_is_refused(tmp_path: Path) -> None:
    async with serve(tmp_path, {"echo": echo}):
        with pytest.raises(errors.LockedError, match="another agent runs"):
            await ControlServer(tmp_path, {}).start()
        assert await ask(tmp_path, "echo") == {"args": {}}


async def test_stopping_does_not_remove_the_socket_of_a_successor(tmp_path: Path) -> None:
    first = ControlServer(tmp_path, {})
    await first.start()
    (tmp_path / SOCKET_NAME).unlink()
    async with serve(tmp_path, {"echo": echo}):
        await first.stop()
        assert await ask(tmp_path, "echo") == {"args": {}}


async def test_a_state_directory_that_can_not_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no control socket") as caught:
        await ControlServer(tmp_path / "missing", {}).start()
    assert "state_dir" in caught.value.remedy


async def test_a_path_that_is_too_long_for_a_socket_works_all_the_same(tmp_path: Path) -> None:
    long = tmp_path.joinpath(*["long-directory-name-" * 5] * 4)
    long.mkdir(parents=True)
    assert call(long, "echo") is None
    descriptors = len(os.listdir("/proc/self/fd"))
    async with serve(long, {"echo": echo}):
        assert await ask(long, "echo", {"a": 1}) == {"args": {"a": 1}}
        assert stat.S_IMODE((long / SOCKET_NAME).stat().st_mode) == 0o600
        with pytest.raises(errors.LockedError):
            await ControlServer(long, {}).start()
    assert list(long.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # the executor's thread may hold one


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.BucketNotFoundError("bucket inbox doesn't exist", remedy="declare it"),
        errors.RevisionError("somebody was faster", actual=41),
        errors.PathError("a/b can't be read", reason="unreadable", remedy="chmod it"),
        errors.NotAllowedError("no permission"),
        errors.ConfigError(
            [errors.ConfigProblem("c.yaml", 3, 7, "unknown key"), errors.ConfigProblem("c.yaml", 0, 0, "x")]
        ),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_the_agent_is_raised_as_the_same_error(tmp_path: Path, error: errors.JetsyncError) -> None:
    async with serve(tmp_path, {"fail": failing(error)}):
        with pytest.raises(type(error)) as caught:
            await ask(tmp_path, "fail")
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)
    assert caught.value.exit_code == error.exit_code


async def test_an_error_of_an_unknown_class_keeps_its_message_and_exit_code(tmp_path: Path) -> None:
    class NewerError(errors.JetsyncError):
        exit_code = 3

    async with serve(tmp_path, {"fail": failing(NewerError("too new", remedy="update"))}):
        with pytest.raises(ControlError, match="too new; update") as caught:
            await ask(tmp_path, "fail")
    assert caught.value.exit_code == 3


async def test_a_bug_in_a_handler_is_an_error_and_the_server_goes_on(tmp_path: Path) -> None:
    async def unsendable(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        return {"path": tmp_path}

    handlers = {"bug": failing(ZeroDivisionError("hidden")), "unsendable": unsendable, "echo": echo}
    handlers["os"] = failing(ConnectionResetError("a connection of the handler's own"))
    async with serve(tmp_path, handlers):
        for command, kind in ("bug", "ZeroDivisionError"), ("unsendable", "TypeError"), ("os", "ConnectionResetError"):
            with pytest.raises(ControlError, match=f"the agent failed: {kind}"):
                await ask(tmp_path, command)
        assert await ask(tmp_path, "echo") == {"args": {}}


async def test_a_handler_cancelled_from_inside_is_an_answer(tmp_path: Path) -> None:
    async def cancelled(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        raise asyncio.CancelledError

    async with serve(tmp_path, {"cancelled": cancelled}):
        with pytest.raises(ControlError, match="gave up"):
            await ask(tmp_path, "cancelled")


async def test_an_unknown_command_says_that_the_versions_may_differ(tmp_path: Path) -> None:
    async with serve(tmp_path, {"echo": echo}):
        with pytest.raises(ControlError, match=r"doesn't know the command 'verify'.*version"):
            await ask(tmp_path, "verify")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"hello\n", "isn't JSON"),
        (b"\xff\xfe\x00\n", "isn't JSON"),
        (b"[" * 100_000 + b"\n", "isn't JSON"),
        (b"[1]\n", "isn't an object"),
        (b'{"command": 7}\n', "not a request"),
        (b'{"command": "echo", "args": []}\n', "not a request"),
        (b'{"command": ["echo"]}\n', "not a request"),
        (b"x" * (REQUEST_LIMIT + 100_000), "longer than"),
    ],
    ids=["words", "bytes", "deep", "list", "number", "args", "list command", "endless"],
)
async def test_garbage_is_answered_with_an_error_and_the_server_goes_on(tmp_path: Path, data: bytes, says: str) -> None:
    async with serve(tmp_path, {"echo": echo}):
        answer = decode(await raw(tmp_path, data))
        assert says in answer["error"]["message"]
        assert answer["error"]["exit_code"] == 1
        assert await ask(tmp_path, "echo") == {"args": {}}


async def test_a_client_that_leaves_without_a_word_or_in_the_middle_of_one_does_no_harm(tmp_path: Path) -> None:
    async with serve(tmp_path, {"echo": echo}):
        for data in b"", b'{"comm':
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / SOCKET_NAME))
                client.sendall(data)
        assert await ask(tmp_path, "echo") == {"args": {}}


async def test_a_request_that_is_too_long_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with serve(tmp_path, {"echo": echo}):
        with pytest.raises(ControlError, match="too long"):
            await ask(tmp_path, "echo", {"names": ["x" * REQUEST_LIMIT]})


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "closed the connection before it answered"),
        (b'{"event": {}}\n', "closed the connection before it answered"),
        (b'{"resul', "closed the connection before it answered"),
        (b"what?\n", "isn't JSON"),
        (b"{}\n", "neither event, result nor error"),
        (b'{"error": 7}\n', "didn't say which"),
        (b'{"error": {"class": "JetsyncError.__init__", "message": "odd"}}\n', "odd"),
        (b'{"error": {"class": "ConfigError", "message": "bad", "details": {"problems": 7}}}\n', "bad"),
    ],
)
async def test_whatever_comes_back_instead_of_an_answer_is_an_error(tmp_path: Path, answer: bytes, says: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / SOCKET_NAME)
    with pytest.raises(errors.JetsyncError, match=says):
        await ask(tmp_path, "echo")
    server.close()


# -- waiting ----------------------------------------------------------------------------------------------------------


async def test_many_callers_are_served_at_the_same_time(tmp_path: Path) -> None:
    waiting = Waiting()
    together = 0

    async def meet(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        nonlocal together
        together += 1
        if together == 20:
            waiting.release.set()
        return await waiting(args, emit)

    async with serve(tmp_path, {"meet": meet}):
        with ThreadPoolExecutor(20) as threads:
            loop = asyncio.get_running_loop()
            callers = [loop.run_in_executor(threads, lambda: call(tmp_path, "meet", timeout=30)) for _ in range(20)]
            assert await asyncio.gather(*callers) == [{"released": True}] * 20


async def test_more_than_64_callers_are_turned_away_until_others_have_left(tmp_path: Path) -> None:
    waiting = Waiting()
    async with serve(tmp_path, {"wait": waiting}):
        writers = []
        for _ in range(64):
            _, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
            writer.write(b'{"command": "wait"}\n')
            writers.append(writer)
        with pytest.raises(ControlError, match="busy"):
            await ask(tmp_path, "wait")
        for writer in writers:
            writer.close()
        waiting.release.set()
        await _eventually(lambda: ask(tmp_path, "wait"), {"released": True})


async def _eventually(question: Callable[[], Awaitable[object]], answer: object) -> None:
    while True:
        try:
            assert await question() == answer
            return
        except ControlError:
            await asyncio.sleep(0.01)


async def test_a_client_that_goes_away_ends_the_waiting(tmp_path: Path) -> None:
    waiting = Waiting()
    async with serve(tmp_path, {"wait": waiting}):
        _, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
        writer.write(b'{"command": "wait"}\n')
        await waiting.entered.wait()
        assert not waiting.cancelled.is_set()
        writer.close()
        await asyncio.wait_for(waiting.cancelled.wait(), 10)


async def test_a_client_stops_waiting_after_its_time_out(tmp_path: Path) -> None:
    waiting = Waiting()
    async with serve(tmp_path, {"wait": waiting}):
        with pytest.raises(ControlError, match="did not answer in time"):
            await ask(tmp_path, "wait", timeout=0.1)
        await asyncio.wait_for(waiting.cancelled.wait(), 10)


async def test_an_exception_in_on_event_leaves_the_conversation(tmp_path: Path) -> None:
    waiting = Waiting()

    async def begin(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        emit({"begun": True})
        return await waiting(args, emit)

    def interrupt(event: dict[str, Any]) -> None:
        raise KeyError("enough")

    async with serve(tmp_path, {"begin": begin}):
        with pytest.raises(KeyError, match="enough"):
            await ask(tmp_path, "begin", on_event=interrupt)
        await asyncio.wait_for(waiting.cancelled.wait(), 10)


async def test_a_stopping_agent_says_so_to_those_who_wait(tmp_path: Path) -> None:
    waiting = Waiting()
    server = ControlServer(tmp_path, {"wait": waiting})
    await server.start()
    asked = asyncio.create_task(ask(tmp_path, "wait"))
    await waiting.entered.wait()
    await server.stop()
    with pytest.raises(ControlError, match="the agent is stopping"):
        await asked
    assert waiting.cancelled.is_set()
    assert call(tmp_path, "wait") is None
    assert list(tmp_path.iterdir()) == []
    await server.stop()


async def test_a_client_that_does_not_read_can_not_keep_the_agent_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.control.server._CLOSE_SECONDS", 0.05)
    asked = asyncio.Event()

    async def large(args: dict[str, Any], emit: Emit) -> Mapping[str, Any]:
        asked.set()
        return {"text": "x" * 10_000_000}

    server = ControlServer(tmp_path, {"large": large})
    await server.start()
    _, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME, limit=1)
    writer.write(b'{"command": "large"}\n')
    await asked.wait()
    await asyncio.wait_for(server.stop(), 10)
    assert not server._conversations
    writer.close()


# -- who may talk -----------------------------------------------------------------------------------------------------


async def test_the_socket_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with serve(tmp_path, {}):
            assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_own_user_and_root_may_talk_and_others_may_not() -> None:
    assert may_talk(os.geteuid())
    assert may_talk(0)
    assert not may_talk(os.geteuid() + 1)


AS_NOBODY = f"""
import os, sys
from pathlib import Path
from agent.control.client import call
os.chdir(sys.argv[1])
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
try:
    print(call(Path("."), "echo"))
except Exception as error:
    print(type(error).__name__, error.exit_code, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize(
    ("mode", "says"),
    [(0o600, "NotAllowedError 5 not allowed to talk"), (0o777, "NotAllowedError 5 the agent doesn't take commands of")],
    ids=["by the file's mode", "by the kernel's word, even when the file lets them"],
)
async def test_another_user_is_refused(tmp_path: Path, mode: int, says: str) -> None:
    async with serve(tmp_path, {"echo": echo}):
        tmp_path.chmod(0o755)
        (tmp_path / SOCKET_NAME).chmod(mode)
        child = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", AS_NOBODY, str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert child.stdout.startswith(says)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_state_directory_that_cannot_be_entered_is_what_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    told = subprocess.check_output([sys.executable, "-c", AS_NOBODY, str(tmp_path)], text=True)
    assert told.startswith("NotAllowedError 5 state_dir .: user ")
    assert "fsGroup" in told


def test_asking_for_the_agent_loads_neither_event_loop_nor_logging() -> None:
    program = "import sys, agent.control.client; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "agent.control.client" in loaded
    assert not {"asyncio", "aiohttp", "structlog", "prometheus_client", "nats", "pydantic"} & set(loaded)


def test_the_server_runs_on_uvloop_too(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with serve(tmp_path, {"echo": echo}):
            assert await ask(tmp_path, "echo", {"a": 1}) == {"args": {"a": 1}}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
