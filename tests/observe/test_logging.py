"""Log lines as they come out: for machines, for people, from libraries, and each problem once."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from agent.errors import ConnectError, ObjectNotFoundError
from agent.observe import keys
from agent.observe.logging import Once, configure, get_logger


@dataclass(frozen=True)
class Log:
    level: str = "info"
    format: str = "json"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def out() -> io.StringIO:
    stream = io.StringIO()
    configure(Log(), stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def failure(error: Exception) -> Exception:
    """The error as it is when it was raised somewhere."""
    try:
        raise error
    except type(error) as raised:
        return raised


# -- forms ------------------------------------------------------------------------------------------------------------


def test_a_line_for_machines_is_one_json_object_with_time_level_and_event_first(out: io.StringIO) -> None:
    get_logger(mapping="inbox").info("3 files sent", count=3, path="a\nb\udcff")
    [line] = lines(out)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    del line["timestamp"]
    assert line == {"level": "info", "event": "3 files sent", "mapping": "inbox", "count": 3, "path": "a\nb\udcff"}


def test_a_line_for_people_is_one_line_whatever_a_file_is_called() -> None:
    stream = Terminal()
    configure(Log(format="console"), stream=stream)
    get_logger().warning("can't be\nread", path="evil\x1b[2J\nname", reason="unreadable")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b[2J" not in text
    assert "evil\\x1b[2J\\nname" in text
    assert "unreadable" in text


@pytest.mark.parametrize(
    ("format_", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("console", io.StringIO(), False),
    ],
    ids=["auto to a pipe", "auto to a terminal", "json to a terminal", "console to a pipe"],
)
def test_the_form_follows_the_format_and_the_terminal(format_: str, stream: io.StringIO, is_json: bool) -> None:
    configure(Log(format=format_), stream=stream)
    get_logger().info("hello")
    assert stream.getvalue().startswith("{") is is_json


@pytest.mark.parametrize(
    ("environment", "stream", "coloured"),
    [
        ({}, Terminal(), True),
        ({}, io.StringIO(), False),
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"TERM": "dumb"}, Terminal(), False),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, Terminal(), False),
    ],
)
def test_colours_follow_the_terminal_and_the_environment(
    environment: dict[str, str], stream: io.StringIO, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    configure(Log(format="console"), stream=stream)
    get_logger().info("hello")
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_lines_below_the_level_are_left_out_and_a_reload_changes_it_for_existing_loggers() -> None:
    stream = io.StringIO()
    configure(Log(level="warning"), stream=stream)
    log = get_logger(mapping="inbox")
    log.info("not this")
    log.warning("this")
    configure(Log(level="debug"), stream=stream)
    log.debug("and this")
    assert [line["event"] for line in lines(stream)] == ["this", "and this"]


def test_a_log_that_can_not_be_written_stops_nobody() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    configure(Log(), stream=Full())
    get_logger().error("still running")
    closed = io.StringIO()
    configure(Log(), stream=closed)
    closed.close()
    get_logger().error("still running")


# -- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_of_ours_is_its_message_and_remedy_without_a_traceback(out: io.StringIO) -> None:
    error = failure(ConnectError("no answer from nats://u:p@hub:4222", remedy="look at nats.servers"))
    get_logger().error("can't connect", exc_info=error)
    get_logger().error("can't connect", error=error)
    for line in lines(out):
        assert line[keys.ERROR] == "no answer from nats://***@hub:4222"
        assert line[keys.REMEDY] == "look at nats.servers"
        assert line[keys.ERROR_CLASS] == "ConnectError"
        assert "exception" not in line


def test_at_level_debug_it_has_its_traceback_too() -> None:
    stream = io.StringIO()
    configure(Log(level="debug"), stream=stream)
    get_logger().error("can't connect", exc_info=failure(ConnectError("no answer")))
    assert "in failure" in lines(stream)[0]["exception"]


def test_a_bug_keeps_its_traceback(out: io.StringIO) -> None:
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        get_logger().exception("a cycle failed")
    [line] = lines(out)
    assert line[keys.ERROR].startswith("ZeroDivisionError: ")
    assert "1 // 0" in line["exception"]


def test_a_group_of_errors_is_told_by_its_members(out: io.StringIO) -> None:
    group = ExceptionGroup(
        "unhandled errors in a TaskGroup",
        [ObjectNotFoundError(f"object {name} is gone", remedy="look again") for name in "abcde"],
    )
    get_logger().error("a transfer failed", exc_info=failure(group))
    [line] = lines(out)
    assert line[keys.ERROR] == "object a is gone; object b is gone; object c is gone; and 2 more"
    assert line[keys.REMEDY] == "look again"
    assert "exception" not in line


def test_a_traceback_on_a_terminal_keeps_its_lines_and_loses_control_characters() -> None:
    stream = Terminal()
    configure(Log(format="console"), stream=stream)
    get_logger().error("a cycle failed", exc_info=failure(ValueError("evil\x1b[2J")))
    assert "\x1b[2J" not in stream.getvalue()
    assert stream.getvalue().count("\n") > 2


def test_secrets_do_not_come_out(out: io.StringIO) -> None:
    get_logger(password="hunter2").info("hello", servers=["nats://a:hunter2@b"], nats={"token": "hunter2"})
    assert "hunter2" not in out.getvalue()


# -- libraries --------------------------------------------------------------------------------------------------------


def test_warnings_of_libraries_are_routed_in_and_their_chatter_is_not(out: io.StringIO) -> None:
    logging.getLogger("nats.aio.client").info("connected")
    logging.getLogger("nats.aio.client").warning("slow consumer %s", "nats://a:b@c")
    logging.getLogger("asyncio").critical("gone")
    logging.getLogger("aiohttp.access").error("GET /livez 200")
    first, second = lines(out)
    assert (first["level"], first["event"], first[keys.LIBRARY]) == (
        "warning",
        "slow consumer nats://***@c",
        "nats.aio.client",
    )
    assert (second["level"], second["event"]) == ("error", "gone")


def test_an_exception_in_a_library_is_told_and_configuring_twice_does_not_double_it(out: io.StringIO) -> None:
    configure(Log(), stream=out)
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("watchdog").exception("an emitter failed")
    [line] = lines(out)
    assert line[keys.ERROR] == "ValueError: odd"
    assert "test_logging.py" in line["exception"]


# -- each problem once ------------------------------------------------------------------------------------------------


def test_a_problem_is_news_once_until_it_changes_or_clears() -> None:
    once = Once()
    assert once.news("a", "unreadable")
    assert not once.news("a", "unreadable")
    assert once.news("a", "changing")
    assert once.news("b", "unreadable")
    assert once.clear("a")
    assert not once.clear("a")
    assert once.news("a", "changing")


def test_what_a_full_look_no_longer_finds_is_cleared_and_told() -> None:
    once = Once()
    for path in "abc":
        once.news(path)
    assert once.keep({"b"}) == ["a", "c"]
    assert not once.news("b")
    assert once.news("a")


def test_beyond_the_limit_problems_are_counted_and_not_remembered() -> None:
    once = Once(limit=2)
    assert [once.news(number) for number in range(5)] == [True, True, False, False, False]
    assert once.suppressed == 3
    assert len(once) == 2
    assert once.news(0, "changed"), "what was reported still is when it changes"
    assert once.keep(set()) == [0, 1]
    assert once.suppressed == 0
    assert once.news(4)
