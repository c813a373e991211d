"""One `sync`, one `plan`, by the process that asks for it. Results are the JSON of DESIGN section 3.

The running agent answers the same through its control socket (`service`), with the same functions. What only an agent
needs isn't imported here: a `sync` with nothing to do is mostly imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.config.model import Config
from agent.supervisor.wiring import Supervisor
from agent.sync.report import Report

RESULT_VERSION = 1


async def sync_once(config: Config, *, names: Sequence[str], timeout: float, offline_ok: bool) -> dict[str, Any]:
    """One `sync` by this process."""
    async with Supervisor(config) as supervisor:
        return await sync(supervisor, names=names, timeout=timeout, offline_ok=offline_ok)


async def plan_once(config: Config, *, names: Sequence[str], timeout: float) -> dict[str, Any]:
    """One `plan` by this process."""
    async with Supervisor(config, dry=True) as supervisor:
        return await plan(supervisor, names=names, timeout=timeout)


async def sync(supervisor: Supervisor, *, names: Sequence[str], timeout: float, offline_ok: bool) -> dict[str, Any]:
    """Bring mappings to convergence once."""
    reports = await supervisor.sync(names, timeout=timeout)
    result = _result(reports)
    if offline_ok and any(report.exit_code == 5 for report in reports) and not supervisor.uplink.online:
        result["offline_ok"] = await supervisor.converged_before(names)
    return result


async def plan(supervisor: Supervisor, *, names: Sequence[str], timeout: float) -> dict[str, Any]:
    """What `sync` would do."""
    return _result(await supervisor.plan(names, timeout=timeout))


def _result(reports: Sequence[Report]) -> dict[str, Any]:
    return {"version": RESULT_VERSION, "mappings": [report.as_json() for report in reports], "snapshots": []}
