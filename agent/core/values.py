"""Values that are made by the hundred thousand: frozen for whoever writes code, plain for the interpreter.

The constructor of a frozen dataclass sets each field through `object.__setattr__`, which costs several times what a
plain assignment costs; a first sync makes dozens of values for each file. `light` gives a frozen dataclass with slots a
plain constructor, and takes the guard against assignment away. The type checker still sees a frozen class, and refuses
every assignment; equality and hash are as they were.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def light(cls: type[T]) -> type[T]:
    """A frozen dataclass whose constructor is cheap. For fields with a default or none, not with a factory."""
    parameters: list[str] = []
    names: list[str] = []
    defaults: dict[str, Any] = {}
    for one in fields(cls):  # type: ignore[arg-type]  # it is a dataclass
        assert one.default_factory is MISSING, f"{cls.__name__}.{one.name} has a factory"
        names.append(one.name)
        marker = "*, " if one.kw_only and not any(part.startswith("*, ") for part in parameters) else ""
        if one.default is MISSING:
            parameters.append(marker + one.name)
        else:
            defaults[f"_{one.name}"] = one.default
            parameters.append(f"{marker}{one.name}=_{one.name}")
    body = "".join(f"    self.{name} = {name}\n" for name in names)
    exec(f"def __init__(self, {', '.join(parameters)}):\n{body}", defaults)  # noqa: S102 - of the class's own fields
    init = defaults["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    cls.__init__ = init  # type: ignore[method-assign]
    del cls.__setattr__, cls.__delattr__
    return cls
