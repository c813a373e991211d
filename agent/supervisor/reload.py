"""Reloading: a new configuration file comes into force while the agent runs, or doesn't, and says so.

One task does it all, so that two reloads never mix: it waits for another file (`configwatch`) or for SIGHUP, reads the
file, compares it by value with what is in force (`config.reload`), and has the supervisor go over to it. What can fail
comes first (the file itself, the files with secrets where the way to the server changes, the address of the HTTP
endpoints); from then on nothing can, so that a reload happens as a whole or not at all. What fails leaves everything as
it was: each problem is logged with its place in the file, and `status` and the metrics say it as long as it is so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent.config.load import Loaded, check_files, read
from agent.config.reload import Changes, Delta, compare
from agent.errors import ConfigError, ConfigProblem, JetsyncError
from agent.observe.logging import configure, get_logger
from agent.observe.metrics import Metrics
from agent.observe.status import ConfigStatus
from agent.supervisor.configwatch import ConfigWatch
from agent.supervisor.pages import Pages
from agent.supervisor.wiring import Supervisor

_NATS = "nats"


class Reloader:
    """`run` is its only task."""

    def __init__(self, loaded: Loaded, supervisor: Supervisor, pages: Pages, metrics: Metrics) -> None:
        """loaded: the file that the supervisor was started with."""
        self._path = loaded.path
        self._supervisor = supervisor
        self._pages = pages
        self._metrics = metrics
        self._watch = ConfigWatch(loaded.path, loaded.digest)
        self._log = get_logger()
        self._in_force(loaded, ())

    def ask(self) -> None:
        """SIGHUP: read the file now, whether or not it looks changed."""
        self._watch.ask()

    async def run(self) -> None:
        """Until cancelled."""
        async with self._watch:
            while True:
                await self._watch.next()
                try:
                    await self.reload()
                except Exception as error:  # noqa: BLE001 - the guard: the agent runs on, and takes the next file
                    self._log.exception("reload_crashed")
                    self._refused(f"unforeseen: {error!r}")

    async def reload(self) -> bool:
        """Read the file, and go over to it; whether it is in force now."""
        try:
            loaded, changes = await asyncio.to_thread(self._read)
            if changes.http:
                await self._pages.use(changes.config.http)
        except ConfigError as error:
            self._tell(error.problems)
            self._refused(str(error.problems[0]), problems=len(error.problems))
            return False
        except JetsyncError as error:
            self._refused(str(error))
            return False
        if changes.log:
            configure(changes.config.log)
        await self._supervisor.reconfigure(changes)
        self._in_force(loaded, changes.restart)
        self._log.info("reloaded", file=str(self._path), **_told(changes))
        for key in changes.restart:
            self._log.warning("restart_needed", key=key, remedy="restart the agent: it goes on with what it had so far")
        return True

    def _read(self) -> tuple[Loaded, Changes]:
        """In a thread: it reads files.

        :raises ConfigError
        """
        loaded = read(self._path)
        changes = compare(self._supervisor.config, loaded.config)
        problems = [
            loaded.problem(finding.loc, f"{finding.message} (with {' and '.join(changes.restart)} as before)")
            for finding in changes.findings
        ]
        if changes.nats:
            problems += [problem for problem in check_files(loaded.config, loaded) if _of_nats(problem)]
        if problems:
            raise ConfigError(problems)
        return loaded, changes

    # -- what is said of it --------------------------------------------------------------------------------------

    def _in_force(self, loaded: Loaded, restart: Sequence[str]) -> None:
        now = time.time()
        self._supervisor.loaded = ConfigStatus(loaded=now, hash=loaded.digest, restart_needed=tuple(restart))
        self._metrics.config_loaded(True, now)
        self._metrics.config_in_force(loaded.digest)
        self._metrics.restart_needed(restart)

    def _tell(self, problems: Sequence[ConfigProblem]) -> None:
        for problem in problems:
            self._log.error("config_problem", problem=str(problem), line=problem.line, column=problem.column)

    def _refused(self, why: str, **more: Any) -> None:
        self._supervisor.loaded = replace(self._supervisor.loaded, error=why)
        self._metrics.config_loaded(False, time.time())
        self._log.error(
            "not_reloaded",
            file=str(self._path),
            error=why,
            remedy="correct the file; what was in force before stays in force",
            **more,
        )


def _of_nats(problem: ConfigProblem) -> bool:
    return problem.message.startswith(_NATS)


def _told(changes: Changes) -> dict[str, Any]:
    """What came of it, for the log: names of what is different; nothing where nothing is."""
    kinds = {
        "mappings": changes.mappings,
        "publications": changes.publications,
        "subscriptions": changes.subscriptions,
    }
    told: dict[str, Any] = {f"{kind}_{what}": names for kind, delta in kinds.items() for what, names in _names(delta)}
    settings = [key for key in ("nats", "http", "log") if getattr(changes, key)]
    return told | ({"settings": settings} if settings else {}) or {"unchanged": True}


def _names(delta: Delta) -> list[tuple[str, list[str]]]:
    found = (("added", delta.added), ("changed", delta.changed), ("removed", delta.removed))
    return [(what, list(names)) for what, names in found if names]
