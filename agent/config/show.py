"""The effective configuration as YAML: every key with the value that holds, in the file's own units, secrets hidden.

The text is itself a valid configuration that means the same (but for hidden passwords in URLs), with absolute paths.
"""

from __future__ import annotations

from typing import Any

import yaml

from agent.config.model import Config
from agent.config.scalars import resolve
from agent.core.entries import Mode


def values(config: Config) -> dict[str, Any]:
    """Plain values as they would be written in the file; keys without a value are left out."""
    shown: dict[str, Any] = _without_none(config.model_dump(mode="json"))
    for mapping in shown["mappings"]:
        if mapping["mode"] != Mode.TWO_WAY:
            del mapping["conflicts"]  # has no meaning there, and may not be written there
    keys = (key for key in Config.model_fields if key in shown or key == "http")
    return {key: shown.get(key, False) for key in keys}  # `http: false` is None in the model


def _without_none(value: Any) -> Any:
    """Of the dumped values: a limit of None is dumped as 0, and stays."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def effective(config: Config) -> str:
    """YAML text of `values`."""
    made: str = yaml.dump(
        _escaped(values(config)),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=2**20,
        default_flow_style=False,
    )
    return made


def _escaped(value: Any) -> Any:
    """Text that has "${" means it literally: a variable was expanded long ago."""
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Quotes what would not be text for us, besides what would not be text in YAML 1.1."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if isinstance(resolve(text), str) else '"')


_Dumper.add_representer(str, _text)
