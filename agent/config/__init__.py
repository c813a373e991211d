"""The configuration file: read, checked, and given to the rest as frozen values.

Begin with `model.py` (what there is); `load(path)` is the way in:

    load        file -> Config, or one ConfigError with everything that is wrong
    positions   YAML -> values with their places        scalars, units, fields, texts   single values
    validate    values -> Config                        checks                          rules over several keys
    schema      the JSON Schema for editors             show                            Config -> YAML, secrets hidden

The name `load` here is the function; the module of that name is reached with `from agent.config.load import ...`.
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
