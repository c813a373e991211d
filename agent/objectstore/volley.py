"""Many messages that are sent in one piece, and whose answers are waited for together.

A `Pending` for each of some hundred small messages, with a future and a turn of the event loop for each, costs several
times what the messages cost. Here the messages of a lot have reply tokens that follow each other; the publisher's table
has the volley under each of them, an answer goes into its place in a list, and whoever waits is woken once, by the
last one. An error stands in the list for an answer that will never come, and means what it means for a `Pending`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from agent.errors import JetsyncError
from agent.objectstore.answers import RawMessage

Message = tuple[str, bytes, bytes]
"""Subject, payload, headers as from header_block(), or b""."""

_PATIENCE = 6  # as the publisher has it for single messages


class Volley:
    """Made by `Publisher.send_many`. done: called once, when there is an answer or an error for every message."""

    __slots__ = ("_answers", "_done", "_first", "_future", "_left", "_sent", "_subjects", "_timeout")

    def __init__(
        self, subjects: Sequence[str], first: int, *, timeout: float, done: Callable[[], None] | None = None
    ) -> None:
        self._subjects = subjects
        self._first = first
        self._timeout = timeout
        self._done = done
        self._sent = monotonic()
        self._answers: list[RawMessage | JetsyncError | None] = [None] * len(subjects)
        self._left = len(subjects)
        self._future: asyncio.Future[None] | None = None

    async def wait(self) -> list[RawMessage | JetsyncError]:
        """The raw answer to each message; or UnknownOutcomeError or NotAllowedError, when there will be none.

        It may be awaited again after a cancellation.
        """
        while self._left:
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._future
            finally:
                self._future = None
        return self._answers  # type: ignore[return-value]  # none is missing any more

    # what the publisher calls

    def settle(self, token: str, message: RawMessage | None, error: JetsyncError | None) -> None:
        self._answers[int(token) - self._first] = message if message is not None else error
        self._left -= 1
        if self._left:
            return
        if self._done is not None:
            self._done()
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def subject_of(self, token: str) -> str:
        return self._subjects[int(token) - self._first]

    def overdue(self, now: float, heard: float) -> bool:
        """Patient: answers to others are a sign that this one is on its way."""
        return now - max(self._sent, heard) > self._timeout or now - self._sent > self._timeout * _PATIENCE
