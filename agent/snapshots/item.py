"""What publications and subscriptions have in common, for whoever runs and asks them."""

from __future__ import annotations

from typing import Literal, Protocol

from agent.observe.status import SnapshotCounts, SnapshotStatus
from agent.snapshots.report import Progress, SnapshotReport, no_progress


class Item(Protocol):
    """`run` is its only task; the other methods may be called from anywhere in the event loop, while it runs.

    readies: whether the agent is ready only when this has converged. converged: once since the start; of a
    subscription, whatever the commands and the webhook afterwards said.
    """

    @property
    def kind(self) -> Literal["publication", "subscription"]: ...

    @property
    def name(self) -> str: ...

    @property
    def readies(self) -> bool: ...

    @property
    def converged(self) -> bool: ...

    async def run(self) -> None:
        """Do what it is there for, until `drain`."""

    async def drain(self) -> bool:
        """Begin nothing new; `run` returns when what is under way has ended. False: that may never be."""
        ...

    async def converge(self, on_progress: Progress = no_progress) -> SnapshotReport:
        """One attempt, and what came of it. on_progress: called while it transfers."""
        ...

    async def converged_before(self) -> bool:
        """Whether an attempt has come through, in this run or an earlier one."""
        ...

    def poke(self) -> None:
        """The connection is back: what failed may be tried at once."""

    def status(self) -> SnapshotStatus: ...

    def counts(self) -> SnapshotCounts: ...
