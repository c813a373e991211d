"""What a publication or a subscription did: an item of `snapshots` in `sync --json` (DESIGN section 3).

Both have the same shape. A publication uploads content and links; a subscription downloads content. `reused` and
`bytes_reused` are what needed no transfer: content that the repository had, files that the previous version had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.errors import JetsyncError

PUBLICATION: Literal["publication"] = "publication"
SUBSCRIPTION: Literal["subscription"] = "subscription"

CONVERGED = "converged"
FAILED = "failed"

# Bytes transferred so far, and all that are to be.
Progress = Callable[[int, int], None]


def no_progress(_done: int, _total: int) -> None:
    """For whoever doesn't want to know."""


@dataclass(slots=True)
class SnapshotReport:
    """id: the snapshot that is current now, "" for none. previous: the one before this run, when it is another.

    uploads, downloads: objects whose content was sent or fetched. links: object links that were made. reused: contents
    or files whose bytes were there already.
    """

    kind: Literal["publication", "subscription"]
    name: str
    state: str = CONVERGED
    id: str = ""
    previous: str = ""
    uploads: int = 0
    downloads: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    links: int = 0
    reused: int = 0
    bytes_reused: int = 0
    errors: list[str] = field(default_factory=list)
    exit_code: int = 0

    @property
    def changed(self) -> bool:
        """Whether another snapshot became current."""
        return bool(self.id) and self.id != self.previous

    def failing(self, why: str) -> None:
        """Something isn't as it has to be, without an error that ended the run."""
        self.state = FAILED
        self.exit_code = self.exit_code or JetsyncError.exit_code
        self.errors.append(why)

    def failed(self, error: JetsyncError) -> None:
        """The run ended with an error."""
        self.state, self.exit_code = FAILED, error.exit_code
        self.errors.append(str(error))

    def as_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "state": self.state,
            "id": self.id or None,
            "previous": self.previous or None,
            "uploads": self.uploads,
            "downloads": self.downloads,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "links": self.links,
            "reused": self.reused,
            "bytes_reused": self.bytes_reused,
            "errors": self.errors,
        }
        if self.exit_code:
            body["exit_code"] = self.exit_code
        return body
