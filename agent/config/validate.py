"""Values -> Config, with all that is wrong found at once.

pydantic finds all wrong values, but a section with a wrong value gives no object, and the rules over several keys
(agent/config/checks.py) need objects. So after reporting, the wrong values are taken out (an optional one gets its
default, a required one a placeholder), the rest is validated again, and the rules run on that; what they conclude from
a place that was wrong is dropped. The placeholders never leave this module: with any finding there is no Config.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.config.checks import Finding, check
from agent.config.model import Config, Section, is_empty
from agent.config.positions import Loc
from agent.config.scalars import Expanded
from agent.config.suggest import described, did_you_mean, quoted

_PLACEHOLDERS: Final = {
    "version": 1,
    "nats": {},
    "name": "x",
    "directory": ".",
    "bucket": "x",
    "repository": "x",
    "channel": "x",
    "store_dir": ".",
}
_SECTIONS: Final = ("mappings", "publications", "subscriptions")


def validate(values: Any, *, base: Path, broken: Iterable[Loc] = ()) -> tuple[Config | None, list[Finding]]:
    """The Config, or None and what is wrong. broken: places without a usable value, reported already.

    Relative paths are relative to `base`. `values` isn't changed.
    """
    wrong = set(broken)
    values = copy.deepcopy(values)
    findings: list[Finding] = []
    for _ in range(8):  # each round reports one layer: what a section that isn't a mapping hides comes in the next
        try:
            config = Config.model_validate(values, context={"base": base})
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=True)
            if any(detail["loc"] == ("version",) and _is_number(detail["input"]) for detail in details):
                return None, [_finding(detail, values) for detail in details if detail["loc"] == ("version",)]
            for detail in details:
                finding = _finding(detail, values)
                if not _touches(finding.loc, wrong):
                    findings.append(finding)
            wrong |= {_loc(detail) for detail in details}
            for detail in details:
                _repair(values, detail)
            continue
        findings += [found for found in check(config) if not _concluded_from(found, wrong)]
        return (None if findings or wrong else config), findings
    return None, findings


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _concluded_from(finding: Finding, wrong: set[Loc]) -> bool:
    return any(
        _touches(loc, wrong) or any(bad[: len(loc)] == loc for bad in wrong) for loc in finding.depends
    ) or _touches(finding.loc, wrong)


def _touches(loc: Loc, wrong: set[Loc]) -> bool:
    """Whether `loc` is a wrong place or within one."""
    return any(loc[: len(bad)] == bad for bad in wrong)


def _loc(detail: ErrorDetails) -> Loc:
    loc = detail["loc"]
    return loc[:-1] if loc and loc[-1] == "[key]" else loc


# ---- what pydantic found, in plain words


def _finding(detail: ErrorDetails, values: Any) -> Finding:
    loc, kind = _loc(detail), detail["type"]
    if kind == "value_error":
        return Finding(loc, _as_written(detail), key=detail["loc"][-1:] == ("[key]",))
    if kind == "missing":
        name = loc[-1]
        if loc in _present(values, loc):
            return Finding(loc, "has no value, and it needs one", key=True)
        hint = "; write version: 1" if name == "version" else ""
        return Finding(loc, f"is missing{hint}", key=True)
    if kind == "extra_forbidden":
        return Finding(loc, f"unknown key{_key_hint(loc)}", key=True)
    given = detail["input"]
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return Finding(loc, f"expected a mapping of keys to values, got {described(given)}")
    if kind in ("tuple_type", "list_type"):
        example = f"; write [{quoted(given)}]" if isinstance(given, str) and "@" not in given else ""
        return Finding(loc, f"expected a list, got {described(given)}{example}")
    return Finding(loc, f"not valid here: got {described(given)}")


def _as_written(detail: ErrorDetails) -> str:
    """The message of a ValueError; where it repeats the value of a variable, with the reference that the file has."""
    message, given = str(detail["ctx"]["error"]), detail["input"]
    if isinstance(given, Expanded) and len(given) > 3:
        return message.replace(str(given), given.source)
    return message


def _present(values: Any, loc: Loc) -> Iterator[Loc]:
    """`loc` itself, when it is a key in the values."""
    parent = _walk(values, loc[:-1])
    if isinstance(parent, dict) and loc[-1] in parent and is_empty(parent[loc[-1]]):
        yield loc


def _key_hint(loc: Loc) -> str:
    """A similar key of this section, or the section that the key belongs to."""
    word, model = str(loc[-1]), _model_at(loc[:-1])
    if model is None:
        return ""
    guess = did_you_mean(word, model.model_fields)
    if guess:
        return f"{guess} Secrets are read from files" if word in ("password", "token") else guess
    homes = [".".join(path) for path, other in _all_models() if word in other.model_fields and other is not model]
    return f'; it belongs in "{homes[0]}"' if len(homes) == 1 else ""


def _all_models() -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    for path in (
        ("nats",),
        ("nats", "embedded"),
        ("nats", "tls"),
        ("http",),
        ("log",),
        ("buckets", "NAME"),
        ("mappings", 0),
        ("mappings", 0, "limits"),
        ("publications", 0),
        ("subscriptions", 0),
    ):
        model = _model_at(path)
        if model is not None:
            yield tuple("[]" if isinstance(part, int) else part for part in path), model


def _model_at(loc: Loc) -> type[Section] | None:
    """The section class that stands at `loc`."""
    model: type[Section] = Config
    skip = False
    for part in loc:
        if skip:  # the name of a bucket, the number in a list
            skip = False
            continue
        found = sections_of(model).get(str(part))
        if found is None:
            return None
        model, skip = found
    return model


def sections_of(model: type[Section]) -> dict[str, tuple[type[Section], bool]]:
    """The keys that hold sections: the class, and whether a bucket's name or a list's number stands in between."""
    found = {}
    for name, info in model.model_fields.items():
        for inner in _types_in(info.annotation):
            found[name] = (inner, name == "buckets" or name in _SECTIONS)
    return found


def _types_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
        return
    for inner in getattr(annotation, "__args__", ()):
        yield from _types_in(inner)


# ---- taking out what is wrong


def _walk(values: Any, loc: Loc) -> Any:
    for part in loc:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def _repair(values: Any, detail: ErrorDetails) -> None:
    loc = _loc(detail)
    if detail["type"] == "missing":
        parent = _walk(values, loc[:-1])
        if isinstance(parent, dict):
            parent[str(loc[-1])] = copy.deepcopy(_PLACEHOLDERS.get(str(loc[-1]), "x"))
        return
    _take_out(values, loc)


def _take_out(values: Any, loc: Loc) -> None:
    """Remove the value at `loc`. An item of a section's list becomes empty, so that the numbers of the others stay."""
    if not loc:
        return
    parent = _walk(values, loc[:-1])
    if isinstance(parent, dict):
        parent.pop(loc[-1], None)
    elif isinstance(parent, list) and isinstance(loc[-1], int):
        if loc[0] in _SECTIONS and len(loc) == 2:
            parent[loc[-1]] = {}
        else:  # a pattern, a server: without the whole list
            _take_out(values, loc[:-1])
