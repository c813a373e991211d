"""When the agent is ready, and if it isn't, why: a pure function of what each mapping says of itself.

`http.ready` of the configuration chooses what ready means (DESIGN section 2):

    once       every mapping has converged once since this start. It stays so when the server goes away later: what was
               brought is there, and taking a pod out of service wouldn't bring the server back
    connected  the same, and the server is connected right now
    local      a mapping also counts when its state was loaded, its directory is served, and this state had converged
               before: an edge node starts while its link is down, with what it had
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ReadyPolicy = Literal["once", "connected", "local"]


@dataclass(frozen=True, slots=True)
class MappingReadiness:
    """What readiness asks of a mapping (or of a subscription).

    converged: once since this start. serving: state loaded and directory present. converged_before: this state
    converged in an earlier run. sentence: what it is doing, for people. halted: stopped for safety, as `sentence` says.
    """

    name: str
    converged: bool = False
    serving: bool = False
    converged_before: bool = False
    sentence: str = ""
    halted: bool = False


@dataclass(frozen=True, slots=True)
class Readiness:
    """started: the supervisor has set up every mapping that the configuration names; before that nothing is ready."""

    started: bool
    connected: bool
    mappings: Sequence[MappingReadiness] = ()


def check(readiness: Readiness, policy: ReadyPolicy) -> dict[str, str]:
    """Every check by its name, with "" where it passes and the reason where it doesn't. Ready = all are "".

    The checks are `agent`, `nats` (only for `connected`) and `mapping/<name>`.
    """
    checks = {"agent": "" if readiness.started else "is starting"}
    if policy == "connected":
        checks["nats"] = "" if readiness.connected else "is not connected"
    for mapping in readiness.mappings:
        checks[f"mapping/{mapping.name}"] = _why_not(mapping, policy)
    return checks


def notes(readiness: Readiness) -> dict[str, str]:
    """What stands beside a check that passes, by its name: a halted mapping is told whether or not it was ready."""
    return {f"mapping/{mapping.name}": mapping.sentence for mapping in readiness.mappings if mapping.halted}


def ready(checks: Mapping[str, str]) -> bool:
    return not any(checks.values())


def _why_not(mapping: MappingReadiness, policy: ReadyPolicy) -> str:
    if mapping.converged or (policy == "local" and mapping.serving and mapping.converged_before):
        return ""
    why = "has not converged since the start"
    if policy == "local" and mapping.converged_before:
        why = "has not loaded its state and directory yet"
    return f"{why}: {mapping.sentence}" if mapping.sentence else why
