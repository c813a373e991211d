"""The only door to nats-py: what this package uses of it, imported without what it doesn't.

nats-py's connection drags its JetStream client along, and aiohttp for websockets: three quarters of what it costs to
import, which every `jetsync sync` would pay for, and neither is used on a `nats://` or `tls://` connection. So while
nats-py is imported those come as lazy modules (`importlib.util.LazyLoader`): they stand in `sys.modules` as ever, and
are executed when somebody first looks at an attribute.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_LATER = frozenset({"aiohttp", "multidict", "nats.js"})


class _Later(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _LATER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def _lazily() -> Iterator[None]:
    finder = _Later()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with _lazily():
    from nats import errors
    from nats.aio.client import Client, Srv

__all__ = ["Client", "Srv", "errors"]
