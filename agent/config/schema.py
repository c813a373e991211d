"""The JSON Schema of the configuration file, for editors: `jetsync config schema`, and config.schema.json.

It comes from the model, with what the loader does beyond JSON's types added:

    null        a key without a value has its default, so every optional key may be null
    `${VAR}`    may stand for any single value, whatever its type; the schema can't look into variables
    rules       the rules within one section that JSON Schema can say (one of two keys, keys that need each other)

The loader stays the judge: the schema takes nothing less than the loader, and a little more (units in the wrong order,
rules over several sections, wrong values in variables).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final

from agent.config.model import Config

Schema = dict[str, Any]

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
_VARIABLE: Final[Schema] = {"$ref": "#/definitions/variable"}
_NULL: Final[Schema] = {"type": "null"}


def json_schema() -> Schema:
    """The schema, in draft 7, which every editor knows."""
    made = Config.model_json_schema(ref_template="#/definitions/{model}")
    sections: dict[str, Schema] = made.pop("$defs")
    words = {name: section for name, section in sections.items() if "enum" in section}
    for section in (made, *sections.values()):
        if "properties" in section:
            _complete(section, words)
    made["properties"]["http"]["anyOf"].append({"const": False})
    for name, rules in _rules().items():
        sections[name]["allOf"] = rules
    sections["variable"] = {
        "description": "Text with a reference to an environment variable: ${NAME} or ${NAME:-default}.",
        "type": "string",
        "pattern": r"(^|[^$])\$\{[A-Za-z_]",
    }
    kept = {name: sections[name] for name in sorted(sections) if name not in words}
    return {"$schema": DIALECT, "title": "jetsync configuration", **_without(made, "title"), "definitions": kept}


def render() -> str:
    """The text of config.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _complete(section: Schema, words: dict[str, Schema]) -> None:
    section.pop("title", None)
    required = section.get("required", ())
    section["properties"] = {
        key: _property(value, words, optional=key not in required) for key, value in section["properties"].items()
    }


def _property(given: Schema, words: dict[str, Schema], *, optional: bool) -> Schema:
    """One key: its value in every form that the loader takes."""
    outer = {key: given[key] for key in ("description", "default") if given.get(key) is not None}
    value = _without(given, "description", "default", "title")
    forms = [_value(form, words) for form in value.get("anyOf", [value])]
    if any(_is_limited(form) for form in forms):
        forms.append(_VARIABLE)
    if optional and _NULL not in forms:
        forms.append(_NULL)
    if len(forms) == 1 and "$ref" in forms[0]:
        return {**outer, "allOf": forms}  # draft 7 ignores what stands beside a $ref
    return {**outer, "anyOf": forms} if len(forms) > 1 else {**outer, **forms[0]}


def _value(value: Schema, words: dict[str, Schema]) -> Schema:
    """One form of a value, lists and mappings with their items."""
    name = value.get("$ref", "").rpartition("/")[2]
    if name in words:
        return {"type": "string", "enum": words[name]["enum"]}
    if value.get("type") == "array":
        return {**_without(value, "title"), "items": _item(value["items"], words)}
    if value.get("type") == "object":
        return _free_keys(value, words)
    return value


def _free_keys(value: Schema, words: dict[str, Schema]) -> Schema:
    """A mapping whose keys are the user's: `buckets` and `metadata`. pydantic has the keys as patternProperties."""
    ((pattern, inner),) = value["patternProperties"].items()
    item = _item(inner, words)
    return {
        "type": "object",
        "propertyNames": {"anyOf": [{"pattern": pattern}, _VARIABLE]},
        # The section of a bucket may be empty: `inbox:`.
        "additionalProperties": {"anyOf": [item, _NULL]} if "$ref" in item else item,
    }


def _item(value: Schema, words: dict[str, Schema]) -> Schema:
    value = _value(value, words)
    return {"anyOf": [value, _VARIABLE]} if _is_limited(value) else value


def _is_limited(form: Schema) -> bool:
    """A single value that not every text would be."""
    return form.get("type") in ("integer", "boolean") or any(key in form for key in ("pattern", "enum", "const"))


def _without(schema: Schema, *keys: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}


# ---- rules within a section (agent/config/checks.py has them for the loader)


def _rules() -> dict[str, list[Schema]]:
    logins = ("credentials_file", "nkey_seed_file", "token_file", "user")
    return {
        "Nats": [
            {"oneOf": [_has("servers", {"type": "array", "minItems": 1}), _has("embedded")]},
            *_together("user", "password_file"),
            *({"not": {"allOf": [_has(one), _has(two)]}} for one, two in combinations(logins, 2)),
            *({"not": {"allOf": [_has("embedded"), _has(key)]}} for key in (*logins, "tls")),
        ],
        "Tls": list(_together("cert_file", "key_file")),
        "Publication": [
            {"oneOf": [_has("directory"), _has("bucket")]},
            _needs("prefix", "bucket", {"type": "string", "minLength": 1}),
        ],
        "Subscription": [{"oneOf": [_has("channel"), _has("snapshot")]}],
    }


def _has(key: str, form: Schema | None = None) -> Schema:
    return {"required": [key], "properties": {key: form or {"not": _NULL}}}


def _needs(key: str, other: str, form: Schema | None = None) -> Schema:
    return {"if": _has(key, form), "then": _has(other)}


def _together(key: str, other: str) -> Iterator[Schema]:
    yield _needs(key, other)
    yield _needs(other, key)
