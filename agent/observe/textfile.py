"""Metrics for a run that nobody can scrape (`sync` in an init container or a CronJob): a file for node_exporter.

node_exporter's textfile collector reads `*.prom` at any moment, so the file appears whole, by rename. It runs as
another user: the file is readable by all, it has no secrets.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from agent.errors import JetsyncError


def write_textfile(path: Path, content: bytes) -> None:
    """Replace `path` with `content` (`Metrics.render_own()`). Raises JetsyncError."""
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise JetsyncError(
            f"the metrics can't be written to {path}: {error.strerror}",
            remedy="name a file ending in .prom in a directory that exists and is writable",
        ) from error
