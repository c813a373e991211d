"""How a publication or a subscription stands: its state, the last error, what is current; and the log lines of these.

An error is told once, until another one comes or an attempt has come through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from agent.errors import JetsyncError, SpaceError, StaleError
from agent.observe.logging import Once, get_logger
from agent.observe.reasons import reason_of
from agent.observe.status import LastError, SnapshotStatus, State

Kind = Literal["publication", "subscription"]

_FAILED: dict[Kind, str] = {"publication": "not_published", "subscription": "not_installed"}
_NOTHING: dict[Kind, str] = {"publication": "nothing is published yet", "subscription": "nothing is installed yet"}


class Standing:
    """current: the id of the snapshot, "" for none. succeeded: when an attempt last came through (seconds since 1970).

    now: seconds since 1970.
    """

    def __init__(
        self, kind: Kind, name: str, *, repository: str, channel: str, directory: str, now: Callable[[], float]
    ) -> None:
        self._kind = kind
        self._name = name
        self._repository = repository
        self._channel = channel
        self._directory = directory
        self._now = now
        self._state = State.STARTING
        self._since = now()
        self._error: LastError | None = None
        self.log = get_logger(**{kind: name})
        self.once = Once()
        self.current = ""
        self.succeeded: float | None = None
        self.foreign: tuple[str, ...] = ()

    def enter(self, state: State) -> None:
        if state is not self._state:
            self._state, self._since = state, self._now()

    def came_through(self) -> None:
        """An attempt ended well."""
        self.succeeded = self._now()
        self._error = None
        self.once.clear("failed")
        self.enter(State.IDLE)

    def failed(self, error: JetsyncError, state: State) -> None:
        """An attempt ended with an error, or with something left undone."""
        self._error = LastError(reason_of(error).value, error.message, error.remedy, self._now())
        self.enter(state)
        # How much is free, and which file changed, is new each time.
        varies = isinstance(error, SpaceError) or isinstance(error.__cause__, StaleError)
        if self.once.news("failed", error.remedy if varies else str(error)):
            self.log.warning(_FAILED[self._kind], error=error.message, remedy=error.remedy)

    def status(self) -> SnapshotStatus:
        why = self._error.message if self._error is not None else self.current or _NOTHING[self._kind]
        return SnapshotStatus(
            kind=self._kind,
            name=self._name,
            directory=self._directory,
            repository=self._repository,
            channel=self._channel,
            state=self._state,
            since=self._since,
            snapshot=self.current,
            sentence=f"{self._state.value}: {why}",
            last_success=self.succeeded,
            last_error=self._error,
            foreign=self.foreign,
        )
