"""The names of the fields in log lines: one list, so that nobody logs `file`, `path` and `filename` for one thing.

People search and alert by these; adding is fine, renaming breaks their queries. `timestamp`, `level` and `event` are
structlog's own.
"""

from __future__ import annotations

from typing import Final

AGENT: Final = "agent"
MAPPING: Final = "mapping"
BUCKET: Final = "bucket"
DIRECTORY: Final = "directory"
PATH: Final = "path"
TO: Final = "to"  # the destination of a move, or the name of a conflict copy
OBJECT: Final = "object"
REVISION: Final = "revision"
NUID: Final = "nuid"
DIGEST: Final = "digest"

STATE: Final = "state"
ACTION: Final = "action"
REASON: Final = "reason"  # a value of a closed list: core.entries.Reason, ErrorReason, or a halt's reason
DETAIL: Final = "detail"
ERROR: Final = "error"  # what happened, one line
REMEDY: Final = "remedy"  # what a person can do about it
ERROR_CLASS: Final = "error_class"

COUNT: Final = "count"
BYTES: Final = "bytes"
SECONDS: Final = "seconds"
ATTEMPT: Final = "attempt"
RETRY_IN: Final = "retry_in"  # seconds

SERVER: Final = "server"
SERVER_VERSION: Final = "server_version"
ADDRESS: Final = "address"
COMMAND: Final = "command"
SIGNAL: Final = "signal"
PID: Final = "pid"
LIBRARY: Final = "library"  # the stdlib logger that a routed line came from
FILE: Final = "file"  # a file of the agent's own: configuration, socket, state store
VERSION: Final = "version"
