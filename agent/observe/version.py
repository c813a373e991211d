"""Which jetsync this is."""

from __future__ import annotations

from typing import Final

_DISTRIBUTION: Final = "jetsync"


def program_version() -> str:
    """The installed version of jetsync; "unknown" when it runs from a bare source tree."""
    from importlib.metadata import PackageNotFoundError, version  # it drags the email package along

    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
