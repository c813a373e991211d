"""What the API server would say of an object: Kubernetes' own schemas, strictly, for many versions; ours for the CRDs.

    refusals(obj, "1.28")     # [] or what is wrong: unknown fields, wrong types, missing ones

The schemas come from kubernetes-validate (dependency group `deploy`, `make tools`). The monitoring CRDs aren't among
them: small ones are in tests/deploy/schemas, with what the chart can render and nothing else.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

SCHEMAS = Path(__file__).parents[1] / "deploy" / "schemas"
OLDEST = "1.28"  # the chart's kubeVersion


def versions() -> list[str]:
    """The versions that there are schemas for, from OLDEST on; without the package OLDEST, which is skipped."""
    try:
        from kubernetes_validate import utils
    except ImportError:
        return [OLDEST]
    found = [utils.major_minor(version) for version in utils.all_versions()]
    return found[found.index(OLDEST) :]


def refusals(found: dict[str, Any], version: str) -> list[str]:
    """What is wrong with an object in this version of Kubernetes."""
    return list(_refusals(json.dumps(found), version))  # many releases have the same objects


@functools.cache
def _refusals(text: str, version: str) -> list[str]:
    found = json.loads(text)
    if found["apiVersion"].startswith("monitoring.coreos.com/"):
        return [_told(error) for error in _custom(found["kind"].lower()).iter_errors(found)]
    utils = _kubernetes_validate()
    try:
        utils.validate(found, version, strict=True)
    except utils.ValidationError as error:
        return [_told(error)]
    except utils.SchemaNotFoundError as error:
        return [error.message]
    return []


def _told(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


@functools.cache
def _custom(kind: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads((SCHEMAS / f"{kind}.json").read_text()))


@functools.cache
def _kubernetes_validate() -> Any:
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate isn't here: `make tools`")
    from kubernetes_validate import utils

    # It reads the definitions of a version, some megabytes, anew for each object.
    setattr(utils, "schema_contents", functools.cache(utils.schema_contents))  # noqa: B010 - a module's attribute
    return utils
