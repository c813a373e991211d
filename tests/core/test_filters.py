"""Filters agree with git, and add what git doesn't have: includes, reserved names, conflict copies."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.filters import Filters
from agent.core.globs import BadPatternError, compile_line

NAMES = ["a", "b", "ab", "a.txt", "b.log", "foo", "[x]", "-", "a b", "#a", "!b", "x\ny"]
PIECES = [
    *("a", "b", "ab", "foo", "a b", "\\#a", "\\!b", "\\*", "\\[x]"),
    *("*", "?", "a*", "*.txt", "*b*", "x?y", "*a*"),
    *("[ab]", "[!a]", "[^a-b]", "[[:alpha:]]", "[]x]", "[z-a]", "[a", "[[:no:]]", "[a\\]x]*"),
]


def patterns():
    parts = st.lists(st.sampled_from([*PIECES, "**"]), min_size=1, max_size=4).map("/".join)
    return st.tuples(
        st.sampled_from(["", "", "!"]), st.sampled_from(["", "", "/"]), parts, st.sampled_from(["", "/", " "])
    ).map("".join)


files = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join), min_size=1, max_size=12)
lines = st.lists(patterns(), max_size=4)


def make_tree(root: Path, paths: list[str]) -> list[str]:
    made = []
    for path in paths:
        target = root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(exist_ok=False)
        except OSError:  # a file stands where this path needs a directory, or the other way round
            continue
        made.append(path)
    return made


@pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=files, excludes=lines, ignores=st.lists(lines, min_size=2, max_size=2), deep=st.sampled_from(["a", "a/b"]))
def test_excludes_and_ignore_files_agree_with_git(tmp_path_factory, paths, excludes, ignores, deep):
    root = tmp_path_factory.mktemp("tree")
    made = make_tree(root, paths)
    texts = {"": "\n".join(ignores[0])}
    if (root / deep).is_dir():
        texts[deep] = "\n".join(ignores[1])
    for directory, text in texts.items():
        (root / directory / ".jetsyncignore").write_text(text)
        made.append(f"{directory}/.jetsyncignore".removeprefix("/"))
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "init", "--quiet", root], check=True, env=environment)
    command = ["git", "ls-files", "-z", "--others", "--exclude-per-directory=.jetsyncignore"]
    for pattern in excludes:
        command += ["-x", pattern.rstrip()]  # git trims only what it reads from files
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, env=environment).stdout.decode()
    shutil.rmtree(root)

    filters = Filters(exclude=[line for line in excludes if valid(line)], ignore_files=texts)

    assert {path for path in made if filters.allows(path)} == set(listed.split("\0")) - {""}


def valid(line: str) -> bool:
    try:
        compile_line(line)
    except BadPatternError:
        return False
    return True


@given(paths=files, includes=lines, excludes=lines)
def test_a_directory_that_is_pruned_holds_nothing_that_is_allowed(paths, includes, excludes):
    filters = Filters([line for line in includes if valid(line)], [line for line in excludes if valid(line)])
    for path in paths:
        if filters.allows(path):
            parents = path.split("/")[:-1]
            assert not any(filters.prunes("/".join(parents[: i + 1])) for i in range(len(parents)))


def test_everything_is_allowed_without_patterns():
    assert Filters().allows("a/b/c.txt")
    assert Filters().allows("a/b/")
    assert not Filters().prunes("a")


def test_with_includes_only_what_matches_is_inside():
    filters = Filters(include=["*.txt", "docs/", "!docs/private/", "!docs/*.log"])
    assert filters.allows("a/b/c.txt")
    assert not filters.allows("a/b/c.bin")
    assert filters.allows("docs/x.bin")
    assert filters.allows("docs/deep/x.bin")
    assert filters.allows("docs/")
    assert not filters.allows("docs/x.log")
    assert not filters.allows("docs/private/x.bin")
    assert filters.allows("docs/private/x.txt")
    assert not filters.allows("empty/")


def test_exclude_wins_over_include_and_over_ignore_files():
    filters = Filters(include=["*.txt"], exclude=["secret*"], ignore_files={"": "!secret.txt", "a": "!secret.txt"})
    assert filters.allows("open.txt")
    assert not filters.allows("secret.txt")
    assert not filters.allows("a/secret.txt")


def test_a_deeper_ignore_file_overrides_an_outer_one_but_not_a_pruned_directory():
    filters = Filters(ignore_files={"": "*.log\n/build/", "keep": "!*.log", "build": "!*"})
    assert not filters.allows("x.log")
    assert filters.allows("keep/x.log")
    assert filters.allows("keep/deep/x.log")
    assert not filters.allows("build/x")
    assert filters.prunes("build")
    assert filters.prunes("build/deep")


def test_anchored_includes_prune_what_they_can_never_reach():
    filters = Filters(include=["/src/**/*.py", "/docs/api/"])
    assert not filters.prunes("src")
    assert not filters.prunes("src/a/b")
    assert not filters.prunes("docs")
    assert not filters.prunes("docs/api/deep")
    assert filters.prunes("docs/other")
    assert filters.prunes("tests")


@pytest.mark.parametrize(
    "path",
    [
        ".jetsync/root.json",
        "a/.jetsync/x",
        ".JetSync/x",
        ".jetsync",
        "lost+found/x",
        "a/.snapshot/x",
        ".nfs0001",
        "a/.nfs12/b",
    ],
)
def test_reserved_names_are_outside_whatever_the_patterns_say(path):
    assert not Filters(include=["*", "!x"], exclude=["!*"], ignore_files={"": "!*"}).allows(path)


def test_a_conflict_copy_is_judged_by_the_name_it_is_a_copy_of():
    copy = "a.conflict-edge-20240102T030405Z-0123abcd.txt"
    assert Filters(include=["a.txt"]).allows(copy)
    assert Filters(exclude=["*.conflict-*"]).allows(copy)
    assert not Filters(include=["b.txt"]).allows(copy)
    assert not Filters(exclude=["*.txt"]).allows(copy)
    assert not Filters(exclude=["d/"]).allows(f"d/{copy}")


def test_a_changed_ignore_file_makes_new_filters_and_leaves_the_old():
    before = Filters(ignore_files={"a": "x"})
    after = before.with_ignore_file("a", "y")
    gone = after.with_ignore_file("a", None)

    assert [one.allows("a/x") for one in (before, after, gone)] == [False, True, True]
    assert [one.allows("a/y") for one in (before, after, gone)] == [True, False, True]
    assert before.with_ignore_file("a", "x") is before
    assert gone.with_ignore_file("a", None) is gone
    assert before.fingerprint == Filters(ignore_files={"a": "x"}).fingerprint
    assert len({before.fingerprint, after.fingerprint, gone.fingerprint}) == 3


@pytest.mark.parametrize("line", ["[a", "a\\", "!", "/", "[[:no:]]"])
def test_a_pattern_that_can_never_match_is_an_error_in_the_configuration_and_nothing_in_a_file(line):
    with pytest.raises(BadPatternError):
        Filters(exclude=[line])
    assert Filters(ignore_files={"": line + "\r\n*.log"}).allows("a")
    assert not Filters(ignore_files={"": "\ufeff" + "*.log\r\n" + line}).allows("a.log")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "pattern",
    ["*a" * 40 + "b", "**/a/" * 40 + "b", "/" + "**/*a*a*a/" * 20 + "b", "[!b]*" * 40 + "b", "a?*" * 40 + "b"],
)
def test_a_hostile_pattern_is_as_fast_as_any(pattern):
    filters = Filters(ignore_files={"": pattern})
    assert filters.allows("a" * 255)
    assert filters.allows("/".join(["a"] * 1000))
    assert filters.allows("/".join(["a" * 200] * 10))


def test_deep_trees_need_no_recursion():
    assert Filters(exclude=["x"]).allows("/".join(["d"] * 1020))


def test_a_hundred_thousand_paths_take_a_moment():
    """No timing assert: the test's own time-out would tell, and the figure is for people who look."""
    filters = Filters(exclude=["*.tmp", "~*", "node_modules/", "/build/"], ignore_files={"": "*.pyc\n*.o"})
    started = time.perf_counter()
    assert all(filters.allows(f"d{number // 100}/f{number}.txt") for number in range(100_000))
    print(f"{(time.perf_counter() - started) * 10:.2f} µs per path")
