"""YAML text -> plain values, and where in the text each of them stands.

PyYAML composes a tree of nodes with positions (its C parser where present); this module turns the tree into dicts,
lists and scalars, and goes on after each problem, so that all of them are found at once. It is stricter than YAML where
YAML surprises:

    duplicate keys           a problem; the first one counts
    types of plain scalars   only null, true, false and decimal numbers (agent/config/scalars.py)
    `${VAR}`                 expanded, in keys too
    tags (!!str, !custom)    refused
    several documents        refused
    anchors and aliases      work, and so does the merge key `<<: *name` (keys beside it win). An alias can't contain
                             itself, and all aliases together can't blow the file up beyond 100,000 values

A `Loc` is the way to a value: ("mappings", 0, "settle"). It indexes the positions and is what pydantic's errors carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

from agent.config.scalars import Expanded, expand, resolve

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 100_000

Loc = tuple[str | int, ...]

# Stands where the text has something that gave no value. No field takes it, and the places are in Document.broken.
UNKNOWN: Final = object()


class Position(NamedTuple):
    """1-based; columns count characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Misplaced:
    """Something wrong at a position of the text."""

    position: Position | None
    message: str


@dataclass(slots=True)
class Document:
    """The values, where they and their keys stand, what was wrong, and the places that have no usable value for it."""

    value: Any = None
    values: dict[Loc, Position] = field(default_factory=dict)
    keys: dict[Loc, Position] = field(default_factory=dict)
    problems: list[Misplaced] = field(default_factory=list)
    broken: set[Loc] = field(default_factory=set)

    def at(self, loc: Loc, *, key: bool = False) -> Position | None:
        """Where `loc` stands; of what encloses it, when it isn't in the text. key: its key instead of its value."""
        while loc:
            position = (self.keys.get(loc) if key else None) or self.values.get(loc)
            if position:
                return position
            loc, key = loc[:-1], True
        return self.values.get(())


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Composes without guessing types: each scalar without a tag is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own name and shape)


def parse(text: str, environ: Mapping[str, str]) -> Document:
    """Read one YAML document. Never raises: what is wrong is in `problems`. An empty file gives value None."""
    document = Document()
    bad = _not_printable(text)
    if bad is not None:
        document.problems.append(bad)
        return document
    try:
        document.problems.extend(_refused(text))
        root = None if document.problems else yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        document.problems.append(_syntax(error, text))
        return document
    if root is not None:
        document.values[()] = _position(root.start_mark)
        builder = _Builder(document, environ)
        document.value = builder.build(root, ())
        if builder.left < 0:
            document.problems = [
                Misplaced(_position(root.start_mark), f"more than {MAX_VALUES} values, with all aliases")
            ]
            document.value = None
    return document


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


# What YAML allows in a text; a BOM is taken off before.
_CONTROL: Final = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _not_printable(text: str) -> Misplaced | None:
    match = _CONTROL.search(text)
    if match is None:
        return None
    before = text[: match.start()]
    position = Position(before.count("\n") + 1, match.start() - before.rfind("\n"))
    return Misplaced(position, f"the control character U+{ord(match[0]):04X} is not allowed")


def _refused(text: str) -> Iterator[Misplaced]:
    """What the tree wouldn't show: several documents, tags, and nesting so deep that composing would not come back."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents == 2:
                yield Misplaced(
                    _position(event.start_mark), "a second document begins here; the file must have only one"
                )
                return
        tag = getattr(event, "tag", None)
        if tag is not None:
            yield Misplaced(
                _position(event.start_mark), f'tags such as "{tag_name(tag)}" are not supported; put text in quotes'
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                yield Misplaced(_position(event.start_mark), f"nested more than {MAX_DEPTH} deep")
                return
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def tag_name(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


class _Builder:
    """Builds the values of one document, and notes positions and problems on the way."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.left = MAX_VALUES
        self.open: list[int] = []  # ids of the nodes being built: an alias to one of them contains itself

    def problem(self, node: Any, message: str) -> None:
        found = Misplaced(_position(node.start_mark), message)
        if found not in self.document.problems:  # an alias shows one place many times
            self.document.problems.append(found)

    def build(self, node: Any, loc: Loc) -> Any:
        self.left -= 1
        if self.left < 0:
            return None
        self.document.values.setdefault(loc, _position(node.start_mark))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, loc)
        if id(node) in self.open:
            self.problem(node, "an alias here contains itself")
            self.document.broken.add(loc)
            return UNKNOWN
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*loc, index)) for index, item in enumerate(node.value)]
            return self.mapping(node, loc)
        finally:
            self.open.pop()

    def scalar(self, node: Any, loc: Loc) -> Any:
        plain = node.style not in ("'", '"', "|", ">")
        if "${" not in node.value:
            return resolve(node.value) if plain else node.value
        try:
            return Expanded.of(node.value, self.environ, plain=plain)
        except ValueError as error:
            self.problem(node, str(error))
            self.document.broken.add(loc)
            return UNKNOWN

    def mapping(self, node: Any, loc: Loc) -> dict[str, Any]:
        made: dict[str, Any] = {}
        merged: list[Any] = []
        for key_node, value_node in node.value:
            key = self.key(key_node)
            if key is None:
                continue
            if key == "<<" and key_node.style not in ("'", '"'):
                merged.append(value_node)
                continue
            at = (*loc, key)
            if key in made:
                first = self.document.keys[at].line
                self.problem(key_node, f'the key "{key}" is already given in line {first}')
                continue
            self.document.keys[at] = _position(key_node.start_mark)
            made[key] = self.build(value_node, at)
        for value_node in merged:
            self.merge(value_node, loc, made)
        return made

    def key(self, node: Any) -> str | None:
        """The text of a key: keys have no types. None after a problem."""
        if not isinstance(node, yaml.ScalarNode):
            self.problem(node, "a key must be a single word, not a list or a mapping")
            return None
        try:
            return expand(node.value, self.environ)
        except ValueError as error:
            self.problem(node, str(error))
            return None

    def merge(self, node: Any, loc: Loc, made: dict[str, Any]) -> None:
        """`<<: *a` and `<<: [*a, *b]`: the keys that aren't there yet, the earlier mapping first."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                self.problem(source, '"<<" takes an alias of a mapping, or a list of them')
                continue
            if id(source) in self.open:
                self.problem(source, "an alias here contains itself")
                continue
            # Built aside, since positions of the keys that are there already must stay.
            aside = Document()
            other = _Builder(aside, self.environ)
            other.left, other.open = self.left, [*self.open, id(source)]
            values = other.mapping(source, loc)
            self.left = other.left
            for key in [key for key in values if key not in made]:
                made[key] = values[key]
                at = (*loc, key)
                for mine, theirs in ((self.document.values, aside.values), (self.document.keys, aside.keys)):
                    mine.update({where: what for where, what in theirs.items() if where[: len(at)] == at})
                self.document.broken.update(where for where in aside.broken if where[: len(at)] == at)
            for found in aside.problems:
                if found not in self.document.problems:
                    self.document.problems.append(found)


# ---- syntax errors in plain words

_VARIABLE_HINT: Final = '; within {...} and [...] a variable needs quotes: "${NAME}"'

# By the parser's own words, both of the C and of the Python one: it has no codes. What isn't here is shown as it is.
_PLAIN_WORDS: Final = (
    ("nesting depth", f"nested more than {MAX_DEPTH} deep"),  # libyaml has a limit of its own, met while it looks ahead
    (
        "mapping values are not allowed",
        'a ":" is not allowed here: check the indentation, and put text that has ": " in quotes',
    ),
    ("found undefined alias", "this alias (*name) has no anchor (&name) before it"),
    ("found duplicate anchor", "an anchor (&name) of this name is already there"),
    ("did not find expected '-' indicator", 'expected "- " here: the items of a list must stand in one column'),
    ("expected <block end>, but found", "check the indentation: this doesn't belong to what is above"),
    ("did not find expected key", "expected a key here: check the indentation, and the quotes and brackets above"),
    ("did not find expected ',' or ']'", 'this list isn\'t closed: "," or "]" is missing'),
    ("expected ',' or ']'", 'this list isn\'t closed: "," or "]" is missing'),
    ("did not find expected ',' or '}'", 'this mapping isn\'t closed: "," or "}" is missing'),
    ("expected ',' or '}'", 'this mapping isn\'t closed: "," or "}" is missing'),
    ("found unexpected end of stream", "the quotes that begin here are never closed"),
    ("found unexpected document", "the quotes that begin here are never closed"),
    ("found a tab character", "a tab is not allowed in the indentation; use spaces"),
    ("could not find expected ':'", 'expected "key: value": the ":" is missing, or the indentation is wrong'),
    (
        "unknown escape character",
        'an unknown escape in double quotes; write "\\\\" for a backslash, or use single quotes',
    ),
)


def _syntax(error: yaml.YAMLError, text: str) -> Misplaced:
    problem = getattr(error, "problem", None) or ""
    context = getattr(error, "context", None) or ""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if "flow" in context or ("quoted scalar" in context and "end of stream" in problem):
        mark = getattr(error, "context_mark", None) or mark
    position = _position(mark) if mark else None
    if "cannot start any token" in problem and mark:
        return Misplaced(position, _cannot_start(text, mark))
    for words, message in _PLAIN_WORDS:
        if words in problem or words in context:
            hint = _VARIABLE_HINT if "flow" in context and mark and "${" in text.splitlines()[mark.line] else ""
            return Misplaced(position, message + hint)
    return Misplaced(position, f"not valid YAML: {problem or 'the text breaks off'}")


def _cannot_start(text: str, mark: Any) -> str:
    lines = text.splitlines()
    rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
    if rest.startswith("\t"):
        return "a tab is not allowed in the indentation; use spaces"
    return f'text can\'t begin with "{rest[:1]}" here; put it in quotes'
