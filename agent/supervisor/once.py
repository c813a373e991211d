"""One `sync`, one `plan`, by the process that asks for it. Results are the JSON of DESIGN section 3.

The running agent answers the same through its control socket (`service`), with the same functions. What only an agent
needs isn't imported here: a `sync` with nothing to do is mostly imports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent.config.model import Config
from agent.errors import ConnectError
from agent.observe.meter import Meters
from agent.snapshots.report import SnapshotReport
from agent.supervisor.wiring import Supervisor, split_names
from agent.sync.report import Report

RESULT_VERSION = 1


async def sync_once(
    config: Config,
    *,
    names: Sequence[str],
    timeout: float,
    offline_ok: bool,
    metrics: Meters | None = None,
    told: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """One `sync` by this process. told: called in the end, as long as `metrics` say how it is."""
    async with Supervisor(config, metrics=metrics) as supervisor:
        result = await sync(supervisor, names=names, timeout=timeout, offline_ok=offline_ok)
        if metrics is not None:
            await supervisor.gauges.show()
        told()
        return result


async def plan_once(config: Config, *, names: Sequence[str], timeout: float) -> dict[str, Any]:
    """One `plan` by this process."""
    async with Supervisor(config, dry=True) as supervisor:
        return await plan(supervisor, names=names, timeout=timeout)


async def sync(supervisor: Supervisor, *, names: Sequence[str], timeout: float, offline_ok: bool) -> dict[str, Any]:
    """Bring mappings to convergence once; then publications and subscriptions (`items` says which)."""
    mappings, others = split_names(supervisor.config, names)
    items = supervisor.items.chosen(others) if others or not names else []
    reports = await supervisor.sync(mappings, timeout=timeout) if mappings or not names else []
    converged = await supervisor.items.converge(items, timeout=timeout)
    result = _result(reports, converged)
    codes = {report.exit_code for report in reports} | {report.exit_code for report in converged}
    if offline_ok and ConnectError.exit_code in codes and not supervisor.uplink.online:
        before = await supervisor.converged_before(mappings) if mappings or not names else True
        result["offline_ok"] = before and await supervisor.items.converged_before(items)
    return result


async def plan(supervisor: Supervisor, *, names: Sequence[str], timeout: float) -> dict[str, Any]:
    """What `sync` would do."""
    return _result(await supervisor.plan(names, timeout=timeout))


def _result(reports: Sequence[Report], snapshot_reports: Sequence[SnapshotReport] = ()) -> dict[str, Any]:
    return {
        "version": RESULT_VERSION,
        "mappings": [report.as_json() for report in reports],
        "snapshots": [report.as_json() for report in snapshot_reports],
    }
