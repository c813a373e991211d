"""What the rows of a mapping belong to: its directory, bucket and prefix. Identity checks and brakes will stand here.

Ancestors belong to all three: a change of any is a first contact, with nothing known of either side (DESIGN section 4).
A change of what decides which paths belong to the mapping only makes both sides be looked at again in full.
"""

from __future__ import annotations

import json

from agent.config.model import Mapping
from agent.state import StateStore


def adopt_identity(store: StateStore, config: Mapping) -> None:
    """Ancestors belong to directory, bucket and prefix: a change of any is a first contact (DESIGN section 4).

    The patterns belong to it too, but a change of them only makes both sides be looked at again in full.
    """
    identity = {"directory": str(config.directory), "bucket": config.bucket, "prefix": config.prefix}
    patterns = json.dumps([config.include, config.exclude, config.symlinks, config.max_size, config.empty_directories])
    with store.transaction():
        known = store.identity
        if known and known != identity:
            store.forget_all()
        if known != identity:
            store.set_identity(identity)
        if store.kv_get("patterns") != patterns:
            if store.kv_get("patterns") is not None:
                store.forget_sides()
            store.kv_set("patterns", patterns)
