"""The configuration file: read, checked, and given to the rest as frozen values.

Begin with `model.py` (what there is), then `load.py` (how a file becomes it). `load(path)` is the usual way in.
"""

from __future__ import annotations

from agent.config.load import Loaded, check_files, from_dict, load, loads, read
from agent.config.model import (
    Bucket,
    Config,
    DeleteLimit,
    Embedded,
    Http,
    Limits,
    Log,
    Mapping,
    Mirror,
    Nats,
    Placement,
    Publication,
    Subscription,
    Tls,
)

__all__ = [
    "Bucket",
    "Config",
    "DeleteLimit",
    "Embedded",
    "Http",
    "Limits",
    "Loaded",
    "Log",
    "Mapping",
    "Mirror",
    "Nats",
    "Placement",
    "Publication",
    "Subscription",
    "Tls",
    "check_files",
    "from_dict",
    "load",
    "loads",
    "read",
]
