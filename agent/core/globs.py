"""One line of gitignore syntax, compiled so that no pattern and no path can make matching slow.

`.jetsyncignore` files travel like any file, so their lines come from whoever can write to the bucket. A glob that is
translated naively ("*a*a*a*a*b" -> "[^/]*a[^/]*a...") takes minutes on a name of 200 "a"s and would stop the agent.
Here each star takes the *first* place where the literal behind it fits, and never a later one (an atomic group).
That loses no match: what follows a star up to the next star matches a fixed number of characters, so taking it
as early as possible leaves the most for the rest. The same holds for "**/" and whole components.

The rules are those of gitignore(5), followed to the letter of git's dir.c and wildmatch.c:

    foo          a file or directory of that name at any depth    foo/      only a directory
    /foo, a/foo  anchored where the pattern stands                !foo      takes an earlier match back
    *  ?  [a-z]  within one component                             **        whole components: **/a, a/**, a/**/b

A `Glob` matches one entry, never what is below it: that a directory takes everything below along is for
`core.filters` to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t-\\r",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


class BadPatternError(ValueError):
    """A line that can never match anything: an unclosed bracket, a trailing backslash, an unknown character class."""


@dataclass(frozen=True, slots=True)
class Glob:
    """One compiled pattern.

    anywhere: it has no "/" inside, and is matched against the last component alone; else `regex` is matched against the
    whole path from where the pattern stands. literals: for an anchored pattern, a regex per component, None from the
    first "**" on, for `may_match_below`.
    """

    source: str
    regex: str
    negated: bool
    directory_only: bool
    anywhere: bool
    components: tuple[re.Pattern[str] | None, ...] = ()

    def may_match_below(self, directory: list[str]) -> bool:
        """Whether a path strictly below the directory (given as components) could match."""
        if self.anywhere:
            return True
        for position, component in enumerate(directory):
            if position >= len(self.components):
                return False
            regex = self.components[position]
            if regex is None:
                return True
            if not regex.fullmatch(component):
                return False
        return len(self.components) > len(directory)


def compile_line(line: str) -> Glob | None:
    """Compile one line (without its line end). None for a blank line or a comment. Raises BadPatternError."""
    source = _without_trailing_spaces(line)
    if not source or source.startswith("#"):
        return None
    negated = source.startswith("!")
    text = source[1:] if negated else source
    directory_only = text.endswith("/")
    if directory_only:
        text = text[:-1]
    anywhere = "/" not in text
    text = text.removeprefix("/")
    if not text:
        raise BadPatternError(f"the pattern {source!r} matches nothing")
    regex, components = (_component(text), ()) if anywhere else _path(text)
    return Glob(source, regex, negated, directory_only, anywhere, components)


def compile_lines(text: str) -> tuple[Glob, ...]:
    """Compile an ignore file. Lines that can never match are left out, as git does."""
    globs = []
    for line in text.removeprefix("\ufeff").split("\n"):
        try:
            glob = compile_line(line.removesuffix("\r"))
        except BadPatternError:
            continue
        if glob is not None:
            globs.append(glob)
    return tuple(globs)


def _without_trailing_spaces(line: str) -> str:
    """Trailing spaces don't count unless a backslash stands before them."""
    end = 0
    position = 0
    while position < len(line):
        if line[position] == "\\":
            position += 1
            end = position + 1
        elif line[position] != " ":
            end = position + 1
        position += 1
    return line[:end]


def _path(text: str) -> tuple[str, tuple[re.Pattern[str] | None, ...]]:
    """The regex for an anchored pattern, and one per component.

    Between two "**" stands a run of components that matches as many components of the path: all runs but the last
    take the first place that fits (atomic), the last one has to end where the path ends.
    """
    runs: list[list[str]] = [[]]
    components: list[re.Pattern[str] | None] = []
    for component in _split(text):
        if len(component) > 1 and not component.strip("*"):
            if len(runs) == 1 or runs[-1]:  # "**/**" is "**"
                runs.append([])
            components.append(None)
        else:
            regex = _component(component)
            runs[-1].append(regex)
            components.append(re.compile(regex))
    first, *others = runs
    if not others:
        return "/".join(first), tuple(components)
    parts = ["".join(f"{regex}/" for regex in first)]
    parts.extend(f"(?>(?:[^/]+/)*?{''.join(f'{regex}/' for regex in run)})" for run in others[:-1])
    last = others[-1]
    # A last "**" matches everything inside the directory, and not the directory itself.
    parts.append(f"(?:[^/]+/)*?{'/'.join(last)}" if last else "(?s:.+)")
    return "".join(parts), tuple(components)


def _split(text: str) -> list[str]:
    """Split at "/", but for one inside a bracket: it matches nothing there, and must not break the bracket."""
    found = [""]
    position = 0
    while position < len(text):
        char = text[position]
        if char == "/" or text.startswith("\\/", position):
            found.append("")
            position += 1 if char == "/" else 2
            continue
        end = position + 1
        if char == "\\":
            end = position + 2
        elif char == "[":
            end = _bracket_end(text, position)
        found[-1] += text[position:end]
        position = end
    return found


def _component(text: str) -> str:
    """The regex for the glob of one component: pieces between stars, each a fixed number of characters."""
    pieces = [""]
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "*":
            if len(pieces) == 1 or pieces[-1]:  # "**" within a component is "*"
                pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        elif char == "\\":
            if position == len(text):
                raise BadPatternError(f"the pattern {text!r} ends in a backslash")
            pieces[-1] += re.escape(text[position])
            position += 1
        elif char == "[":
            end = _bracket_end(text, position - 1)
            pieces[-1] += _bracket(text[position : end - 1])
            position = end
        else:
            pieces[-1] += re.escape(char)
    first, *others = pieces
    if not others:
        return first
    middle = "".join(f"(?>[^/]*?{piece})" for piece in others[:-1])
    # Nothing but the star: it has to match at least one character, as no component of a path is empty.
    only_star = not first and len(others) == 1 and not others[0]
    return f"{first}{middle}[^/]+" if only_star else f"{first}{middle}[^/]*{others[-1]}"


def _bracket_end(text: str, start: int) -> int:
    """Where the bracket expression that begins at `start` ends (behind its "]")."""
    position = start + 1
    if text[position : position + 1] in ("!", "^"):
        position += 1
    first = True
    while position < len(text):
        char = text[position]
        if char == "]" and not first:
            return position + 1
        first = False
        if char == "\\":
            position += 2
        elif text.startswith("[:", position):
            close = text.find("]", position + 2)
            position = close + 1 if close > 0 and text[close - 1] == ":" else position + 1
        else:
            position += 1
    raise BadPatternError(f"the pattern {text!r} has an unclosed bracket")


def _bracket(body: str) -> str:
    """The regex for a bracket expression's inside; never matches "/"."""
    negated = body[:1] in ("!", "^")
    position = 1 if negated else 0
    parts: list[str] = []
    while position < len(body):
        if body.startswith("[:", position) and (close := body.find(":]", position + 2)) > 0:
            name = body[position + 2 : close]
            if name not in _CLASSES:
                raise BadPatternError(f"unknown character class [:{name}:]")
            parts.append(_CLASSES[name])
            position = close + 2
            continue
        low, position = _bracket_char(body, position)
        if body[position : position + 1] == "-" and position + 1 < len(body):
            high, position = _bracket_char(body, position + 1)
            if low <= high:  # a range that runs backwards holds nothing
                parts.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            parts.append(re.escape(low))
    inside = "".join(parts)
    if negated:
        return f"[^/{inside}]"
    return f"(?!/)[{inside}]" if inside else "(?!)"


def _bracket_char(body: str, position: int) -> tuple[str, int]:
    if body[position] == "\\" and position + 1 < len(body):
        position += 1
    return body[position], position + 1
