"""Logs: structlog, to stderr, one line per event; for people on a terminal, JSON for machines.

A line goes through: the level -> time stamp (UTC, ISO 8601) -> exceptions made short -> secrets hidden -> rendered.
What the agent raises on purpose (JetsyncError) becomes `error` and `remedy`; a traceback would tell nothing more, and
is only added at level debug. Anything else is a bug, and keeps its traceback.

The libraries below us (nats, aiohttp, watchdog, asyncio) use the standard library's logging: their warnings and errors
are routed in, with the name of the library; their access and debug logs are not. A log that can't be written (a closed
pipe, a full disk) never stops the agent.

"Each problem is reported once" (issue of a path, an unreachable server) is kept by `Once`: it remembers what was said
about a key, and lets the same thing through again only after it changed or cleared.

structlog is imported by the functions and not by the module: it costs as much as a whole `jetsync status`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Collection, Hashable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from agent.errors import JetsyncError
from agent.observe import keys
from agent.observe.redact import hide_fields, printable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    Logger = FilteringBoundLogger

Event = MutableMapping[str, Any]

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_FIRST_FIELDS: Final = ("timestamp", "level", "event")
_SILENT_LIBRARIES: Final = ("aiohttp.access",)
_NESTED_ERRORS_SHOWN: Final = 3


class LogSettings(Protocol):
    """What `log` of the configuration has. `level`: debug | info | warning | error; `format`: auto | console | json."""

    @property
    def level(self) -> str: ...
    @property
    def format(self) -> str: ...


def get_logger(**fields: object) -> Logger:
    """A logger whose lines all carry `fields`, for example `get_logger(mapping="inbox")`."""
    logger: Logger = _structlog().get_logger(**fields)
    return logger


def _structlog() -> Any:
    """structlog, imported without rich: of rich it would take nothing but tracebacks, and ours are plain."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # whoever imports it now is told that it isn't there
        try:
            import structlog
        finally:
            del sys.modules["rich"]
    import structlog

    return structlog


def configure(log: LogSettings, *, stream: TextIO | None = None) -> None:
    """Set up logging for this process; may be called again (a reload changes the level), also for existing loggers.

    stream: default stderr. `format: auto` is console when it is a terminal, else JSON; colours follow NO_COLOR,
    FORCE_COLOR and TERM=dumb. An unknown level counts as info.
    """
    structlog = _structlog()
    out = sys.stderr if stream is None else stream
    level = LEVELS.get(log.level, logging.INFO)
    console = log.format == "console" or (log.format == "auto" and _is_terminal(out))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _ShortErrors(debug=level <= logging.DEBUG),
            _without_secrets,
            *(_console(out) if console else [_as_json]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Output(out),
        cache_logger_on_first_use=False,
    )
    _route_libraries(level)


def _console(out: TextIO) -> list[Any]:
    from structlog.dev import ConsoleRenderer, plain_traceback

    return [_as_printable, ConsoleRenderer(colors=_colours(out), exception_formatter=plain_traceback, pad_event_to=40)]


def _is_terminal(out: TextIO) -> bool:
    try:
        return out.isatty()
    except (AttributeError, ValueError):
        return False


def _colours(out: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (_is_terminal(out) and os.environ.get("TERM") != "dumb")


class _Output:
    """Where rendered lines go. Lines of several threads don't mix, and a failing write is nobody's problem."""

    _lock = threading.Lock()

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):  # closed, or full; UnicodeEncodeError is a ValueError
            pass

    debug = info = warning = warn = error = err = critical = fatal = exception = log = msg


# -- processors -------------------------------------------------------------------------------------------------------


class _ShortErrors:
    """An exception, given as `exc_info` or as the value of a field, becomes one line and a remedy."""

    def __init__(self, *, debug: bool) -> None:
        self._debug = debug

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        given = event.pop("exc_info", None)
        if given:
            self._explain(event, _exception_of(given))
        error = event.get(keys.ERROR)
        if isinstance(error, BaseException):
            del event[keys.ERROR]
            self._explain(event, error)
        return event

    def _explain(self, event: Event, error: BaseException | None) -> None:
        if error is None:
            return
        leaves = _leaves(error)
        shown = leaves[:_NESTED_ERRORS_SHOWN]
        more = len(leaves) - len(shown)
        event.setdefault(keys.ERROR, "; ".join(map(_message, shown)) + (f"; and {more} more" if more else ""))
        event.setdefault(keys.ERROR_CLASS, type(leaves[0]).__name__)
        remedies = dict.fromkeys(leaf.remedy for leaf in shown if isinstance(leaf, JetsyncError) and leaf.remedy)
        if remedies:
            event.setdefault(keys.REMEDY, "; ".join(remedies))
        if self._debug or not all(isinstance(leaf, JetsyncError | OSError) for leaf in leaves):
            event["exception"] = "".join(traceback.format_exception(error)).rstrip()


def _exception_of(given: object) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple) and len(given) == 3:
        return given[1] if isinstance(given[1], BaseException) else None
    return sys.exc_info()[1]


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside (nested) exception groups, as asyncio.TaskGroup raises them; else the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _message(error: BaseException) -> str:
    if isinstance(error, JetsyncError):
        return error.message
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _without_secrets(_logger: object, _method: str, event: Event) -> Event:
    return hide_fields(dict(event))


def _as_printable(_logger: object, _method: str, event: Event) -> Event:
    """File names may hold escape sequences: none reaches a terminal. (A traceback keeps its line ends.)"""
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join(printable(line) for line in str(value).split("\n"))
        elif isinstance(value, str):
            event[key] = printable(value)
    return event


def _as_json(_logger: object, _method: str, event: Event) -> str:
    ordered = {key: event[key] for key in _FIRST_FIELDS if key in event}
    ordered.update(event)
    return json.dumps(ordered, default=str)


# -- the standard library's logging ---------------------------------------------------------------------------------


class _Routed(logging.Handler):
    """Brings a record of the standard library's logging into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_logger().log(
                min(record.levelno, logging.ERROR) // 10 * 10,
                record.getMessage(),
                exc_info=record.exc_info or None,
                **{keys.LIBRARY: record.name},
            )
        except Exception:  # noqa: BLE001 - logging must never take its caller down
            self.handleError(record)


def _route_libraries(level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Routed)]:
        root.removeHandler(handler)
    root.addHandler(_Routed(max(level, logging.WARNING)))
    root.setLevel(max(level, logging.WARNING))
    for name in _SILENT_LIBRARIES:
        library = logging.getLogger(name)
        library.propagate = False
        library.disabled = True


# -- each problem once ----------------------------------------------------------------------------------------------


class Once:
    """Remembers what was reported, so that each problem is reported once, until it changes or clears.

        if once.news("inbox/a.txt", obstacle.reason):
            log.warning("can't be read", path=..., reason=..., remedy=...)

    limit: keys remembered, and so reported one by one. Beyond it `news` is False and `suppressed` counts: a directory
    with a million unreadable files is a number in the status, not a million lines.
    """

    def __init__(self, *, limit: int = 1000) -> None:
        self._said: dict[Hashable, object] = {}
        self._limit = limit
        self.suppressed = 0

    def __len__(self) -> int:
        return len(self._said)

    def news(self, key: Hashable, what: object = True) -> bool:
        """Whether `what` is to be reported about `key` now: it is new, or differs from what was said last."""
        if key in self._said:
            changed = self._said[key] != what
            self._said[key] = what
            return changed
        if len(self._said) >= self._limit:
            self.suppressed += 1
            return False
        self._said[key] = what
        return True

    def clear(self, key: Hashable) -> bool:
        """The problem is gone. True when it had been reported (so that its end may be reported too)."""
        known = key in self._said
        self._said.pop(key, None)
        return known

    def keep(self, current: Collection[Hashable]) -> list[Hashable]:
        """At the end of a full look: clear all keys that are not in `current`, and start `suppressed` anew.

        current: a set, or what looks up as fast. The cleared keys are given back in the order they were reported in.
        """
        gone = [key for key in self._said if key not in current]
        for key in gone:
            del self._said[key]
        self.suppressed = 0
        return gone
