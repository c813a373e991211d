"""Write what the chart has from elsewhere: `python scripts/chart.py`; with --check: say what isn't fresh, exit 1.

values.schema.json        values.schema.in.yaml, with config.schema.json as definitions
README.md                 the table of values, from the comments `# -- ` in values.yaml
files/                    alerts and dashboard of deploy/, since a chart can only read files inside itself
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "jetsync"
BEGIN, END = "<!-- values: made by `make chart` -->\n", "<!-- /values -->\n"
COPIES = {
    "files/alerts.yaml": ROOT / "deploy" / "prometheus" / "alerts.yaml",
    "files/dashboard.json": ROOT / "deploy" / "grafana" / "dashboard.json",
}
# An expression that Go's regexp, which Helm uses, doesn't have: a text that doesn't begin with one of these.
LOOKAHEAD = re.compile(r"\^\(\?!(?P<not>[^)]*)\)\.\+\$")


def made() -> dict[Path, str]:
    """Every file, with the text that it should have."""
    files = {CHART / name: source.read_text() for name, source in COPIES.items()}
    files[CHART / "values.schema.json"] = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    files[readme] = before + BEGIN + table() + END + rest.partition(END)[2]
    return files


# -- the schema ------------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """The chart's own schema, and below `definitions` that of the configuration, as far as values can have it."""
    chart: dict[str, Any] = yaml.safe_load((CHART / "values.schema.in.yaml").read_text())
    for key, _, meaning in documented():
        _describe(chart, key.split("."), meaning)
    config: dict[str, Any] = json.loads((ROOT / "config.schema.json").read_text(), object_hook=_for_go)
    definitions: dict[str, Any] = config.pop("definitions")
    del config["$schema"], config["title"]
    # Address, login and certificates may come from the chart's `nats` and `tls` instead, which add them.
    config["required"].remove("nats")
    config["properties"]["name"]["anyOf"][0].pop("minLength")
    nats = definitions["Nats"]["allOf"]
    (source,) = [rule for rule in nats if "oneOf" in rule]
    nats[nats.index(source)] = {"not": {"allOf": source["oneOf"]}}
    nats[:] = [rule for rule in nats if "then" not in rule]  # `user` with `password_file`
    assert not set(chart["definitions"]) & {"Config", *definitions}
    chart["definitions"] |= {"Config": config, **definitions}
    return chart


def _describe(section: dict[str, Any], path: list[str], meaning: str) -> None:
    """Put a comment where editors show it, but for what several values share."""
    key, *below = path
    if key not in section.get("properties", {}):
        return
    found = section["properties"][key]
    if below:
        _describe(found, below, meaning)
    else:  # draft 7 ignores what stands beside a $ref
        section["properties"][key] = {"description": meaning, **({"allOf": [found]} if "$ref" in found else found)}


def _for_go(part: dict[str, Any]) -> dict[str, Any]:
    found = LOOKAHEAD.fullmatch(part.get("pattern") or "") if isinstance(part.get("pattern"), str) else None
    if found is None:
        return part
    beginnings = "|".join(f"^{beginning}" for beginning in found["not"].split("|"))
    return {**part, "pattern": "^.+$", "not": {"pattern": beginnings}}


# -- the table of values ---------------------------------------------------------------------------------------------


def table() -> str:
    """One line for each value that has a comment."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in documented()]
    return "\n".join(lines) + "\n"


def documented() -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of every value with a comment `# -- `, in the order of values.yaml."""
    text = (CHART / "values.yaml").read_text()
    comments: dict[int, str] = {}
    for number, line in enumerate(text.splitlines()):
        found = re.fullmatch(r"\s*# -- (.*)", line)
        if found:
            comments[number + 1] = found[1]  # that of the next line
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    yield from _documented(node, (), comments)


def _documented(
    node: yaml.MappingNode, above: tuple[str, ...], comments: dict[int, str]
) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        path = (*above, key.value)
        meaning = comments.get(key.start_mark.line)
        below = isinstance(value, yaml.MappingNode) and any(
            value.start_mark.line <= line < value.end_mark.line for line in comments
        )
        if meaning is not None:
            yield ".".join(path), "" if below else f"`{_plain(value)}`", meaning  # what is below has lines of its own
        if isinstance(value, yaml.MappingNode) and below:
            yield from _documented(value, path, comments)


def _plain(node: yaml.Node) -> str:
    return json.dumps(yaml.safe_load(yaml.serialize(node)), ensure_ascii=False)


# -- the command -----------------------------------------------------------------------------------------------------


def main() -> int:
    stale = [path for path, text in made().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} isn't what it is made from: run `make chart`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(made()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
