"""From a configuration to running mappings. `wiring` makes and stops everything; `service` is what commands call."""

from agent.supervisor.service import bucket_work, plan_once, serve, sync_once
from agent.supervisor.wiring import Supervisor

__all__ = ["Supervisor", "bucket_work", "plan_once", "serve", "sync_once"]
