"""From a configuration to running mappings. `wiring` makes and stops it; commands call `service` and `requests`."""

from agent.supervisor.requests import home_work, resolve_alone, verify_alone
from agent.supervisor.service import bucket_work, plan_once, serve, sync_once
from agent.supervisor.wiring import Supervisor

__all__ = [
    "Supervisor",
    "bucket_work",
    "home_work",
    "plan_once",
    "resolve_alone",
    "serve",
    "sync_once",
    "verify_alone",
]
