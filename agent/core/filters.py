"""Filters: which paths belong to a mapping, by gitignore rules.

Four things decide, in this order; the first that has something to say about an entry wins:

    reserved names          `core.names`: always outside
    exclude                 of the configuration ("exclude wins")
    .jetsyncignore files    deepest directory first; within a file the last matching line; "!" takes a match back
    include                 of the configuration; empty = everything. With includes, only what matches is inside, and
                            a matching directory takes everything below along, until a deeper "!" match takes it back

They are asked for each entry on the way down from the root. A directory that is excluded is *pruned*: nothing below it
is inside, whatever deeper lines say (as in git). A directory that merely isn't included is still entered, since
something below may be.

`Filters` is immutable to its users; a changed .jetsyncignore makes a new one (`with_ignore_file`). What applies in a
directory is worked out once and kept, so that a path costs two or three regex calls. Conflict copies are judged by the
name they are a copy of: filters don't apply to copies that the agent makes (DESIGN section 4).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.core import names
from agent.core.globs import Glob, compile_line, compile_lines

_KEPT_DIRECTORIES = 4096


class Filters:
    """The filters of one mapping.

    include, exclude: gitignore patterns of the configuration; a bad one raises BadPatternError (a ValueError).
    ignore_files: the text of each .jetsyncignore by its directory ("" = the root, no trailing slash); bad lines in them
    match nothing.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        ignore_files: Mapping[str, str] | None = None,
    ) -> None:
        self._include = _rules([glob for line in include if (glob := compile_line(line))])
        self._exclude = _rules([glob for line in exclude if (glob := compile_line(line))])
        self._ignore_files = dict(ignore_files or {})
        self._ignores = {directory: _rules(compile_lines(text)) for directory, text in self._ignore_files.items()}
        self._directories: dict[str, _Directory] = {}

    @property
    def ignore_files(self) -> Mapping[str, str]:
        return dict(self._ignore_files)

    @property
    def fingerprint(self) -> str:
        """Equal for equal filters, also over restarts: when it changes, every path has to be judged again."""
        said = [self._include.sources, self._exclude.sources, sorted(self._ignore_files.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    def allows(self, path: str) -> bool:
        """Whether a file or link ("a/b"), or the entry of an empty directory ("a/b/"), is inside the mapping."""
        if path.endswith("/"):
            here = self._directory(path[:-1])
            return not here.pruned and here.included
        parent, _, name = path.rpartition("/")
        here = self._directory(parent)
        if here.pruned or names.reserved_name(name, directory=False):
            return False
        if self._judge(here, path, name, directory=False):
            return True
        if not names.is_conflict_copy(name):
            return False
        # The copy of a name that had to be cut can't be judged by the name it was made of: it is let in.
        base = names.conflict_base(name)
        return names.was_cut(path) or self._judge(here, names.conflict_base(path), base, directory=False)

    def takes_plain(self, directory: str) -> bool:
        """Whether every file of the directory is inside whose name is ASCII and doesn't begin with a dot."""
        here = self._directory(directory)
        return not here.pruned and not here.rules and not self._include.globs

    def prunes(self, directory: str) -> bool:
        """Whether nothing below the directory (no trailing slash) can be inside: there is no need to enter it."""
        here = self._directory(directory)
        if here.pruned or here.included or not directory:
            return here.pruned
        components = directory.split("/")
        return not any(glob.may_match_below(components) for glob in self._include.globs if not glob.negated)

    def with_ignore_file(self, directory: str, text: str | None) -> Filters:
        """These filters with the .jetsyncignore of a directory set, or removed (None); `self` when nothing changes."""
        if self._ignore_files.get(directory) == text:
            return self
        changed = object.__new__(Filters)
        changed._include, changed._exclude = self._include, self._exclude
        changed._ignore_files, changed._ignores = dict(self._ignore_files), dict(self._ignores)
        changed._directories = {}
        if text is None:
            del changed._ignore_files[directory], changed._ignores[directory]
        else:
            changed._ignore_files[directory] = text
            changed._ignores[directory] = _rules(compile_lines(text))
        return changed

    def _judge(self, here: _Directory, path: str, name: str, *, directory: bool) -> bool:
        """Whether an entry of a directory that isn't pruned is inside."""
        if self._excluded(here, path, name, directory=directory):
            return False
        return self._included(here, path, name, directory=directory)

    def _excluded(self, here: _Directory, path: str, name: str, *, directory: bool) -> bool:
        for start, rules in here.rules:
            decision = rules.decide(path[start:], name, directory=directory)
            if decision is not None:
                return decision
        return False

    def _included(self, here: _Directory, path: str, name: str, *, directory: bool) -> bool:
        if not self._include.globs:
            return True
        decision = self._include.decide(path, name, directory=directory)
        return here.included if decision is None else decision

    def _directory(self, path: str) -> _Directory:
        """What applies in a directory, worked out from its parent's; a loop, as trees may be deeper than the stack."""
        found = self._directories.get(path)
        if found is not None:
            return found
        if len(self._directories) > _KEPT_DIRECTORIES:
            self._directories.clear()
        found = self._directories.get("") or self._root()
        if not path:
            return found
        for parent in [*names.parents_of(path), path]:
            known = self._directories.get(parent)
            found = known or self._enter(found, parent)
            self._directories[parent] = found
        return found

    def _root(self) -> _Directory:
        rules = tuple((0, one) for one in (self._exclude, self._ignores.get("", _NOTHING)) if one.globs)
        root = _Directory(pruned=False, included=not self._include.globs, rules=rules)
        self._directories[""] = root
        return root

    def _enter(self, parent: _Directory, path: str) -> _Directory:
        name = path.rpartition("/")[2]
        if (
            parent.pruned
            or names.reserved_name(name, directory=True)
            or self._excluded(parent, path, name, directory=True)
        ):
            return _PRUNED
        included = self._included(parent, path, name, directory=True)
        own = self._ignores.get(path, _NOTHING)
        if not own.globs:
            return _Directory(pruned=False, included=included, rules=parent.rules)
        first = 1 if self._exclude.globs else 0
        rules = (*parent.rules[:first], (len(path) + 1, own), *parent.rules[first:])
        return _Directory(pruned=False, included=included, rules=rules)


class _Directory(NamedTuple):
    """What applies to the entries of one directory. rules: in the order of asking, each with the length of the path in
    front of which its patterns stand."""

    pruned: bool
    included: bool
    rules: tuple[tuple[int, _Rules], ...]


class _Rules(NamedTuple):
    """The patterns of one source, last line first, behind two regexes that tell quickly when none of them matches."""

    globs: tuple[Glob, ...]
    compiled: tuple[tuple[re.Pattern[str], Glob], ...]
    any_name: re.Pattern[str] | None
    any_path: re.Pattern[str] | None
    sources: list[str]

    def decide(self, path: str, name: str, *, directory: bool) -> bool | None:
        """True = matched, False = taken back by "!", None = nothing to say. `path` is relative to the rules' place."""
        if not (self.any_name and self.any_name.fullmatch(name)) and not (
            self.any_path and self.any_path.fullmatch(path)
        ):
            return None
        for regex, glob in self.compiled:
            if (directory or not glob.directory_only) and regex.fullmatch(name if glob.anywhere else path):
                return not glob.negated
        return None


def _rules(globs: Sequence[Glob]) -> _Rules:
    backwards = tuple(reversed(globs))
    return _Rules(
        globs=backwards,
        compiled=tuple((re.compile(glob.regex), glob) for glob in backwards),
        any_name=_any([glob for glob in globs if glob.anywhere]),
        any_path=_any([glob for glob in globs if not glob.anywhere]),
        sources=[glob.source for glob in globs],
    )


def _any(globs: Sequence[Glob]) -> re.Pattern[str] | None:
    return re.compile("|".join(f"(?:{glob.regex})" for glob in globs)) if globs else None


_NOTHING = _rules(())
_PRUNED = _Directory(pruned=True, included=False, rules=())
