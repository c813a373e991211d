"""Names: what may be a path, what is reserved, how conflict copies and links are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import names
from agent.core.entries import Entry, Kind, Reason

DIGEST = bytes.fromhex("0123456789abcdef" * 4)
MTIME = 1_704_164_645_999_999_999  # 2024-01-02T03:04:05Z and a bit

components = st.text(
    st.characters(exclude_characters="/\0\\", exclude_categories=["Cs"]), min_size=1, max_size=80
).filter(lambda text: text not in (".", "..") and len(text.encode()) <= 255)
paths = st.lists(components, min_size=1, max_size=5).map("/".join)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", Reason.INVALID_NAME),
        ("/", Reason.INVALID_NAME),
        ("/a", Reason.INVALID_NAME),
        ("a/", Reason.INVALID_NAME),
        ("a//b", Reason.INVALID_NAME),
        (".", Reason.INVALID_NAME),
        ("..", Reason.INVALID_NAME),
        ("a/../b", Reason.INVALID_NAME),
        ("a/./b", Reason.INVALID_NAME),
        ("a\0b", Reason.INVALID_NAME),
        ("a\\b", Reason.INVALID_NAME),
        ("a\udc80", Reason.NOT_UTF8),
        ("x" * 256, Reason.NAME_TOO_LONG),
        ("é" * 128, Reason.NAME_TOO_LONG),
        ("/".join(["x" * 200] * 11), Reason.NAME_TOO_LONG),
    ],
)
def test_a_name_that_cannot_be_a_path_is_refused_with_its_reason(name, reason):
    problem = names.problem_of(name)
    assert problem
    assert problem.reason is reason
    assert problem.detail


@pytest.mark.parametrize(
    "name", ["a", "a/b", "...", ".a", "a b", "a\nb", "x" * 255, "é" * 127, "a/" * 1023 + "aa", "~", "C:"]
)
def test_any_other_name_is_a_path(name):
    assert names.problem_of(name) is None


def test_only_the_entry_of_a_directory_ends_in_a_slash():
    assert names.problem_of("a/b/", directory=True) is None
    assert names.problem_of("a/b", directory=True)
    assert names.problem_of("/", directory=True)
    assert names.problem_of("a//", directory=True)


@given(st.text(st.characters(), max_size=300))
def test_name_rules_never_fail_and_never_let_a_dangerous_name_pass(name):
    if names.problem_of(name) is None:
        parts = name.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not {"\0", "\\"} & set(name)
        assert len(name.encode()) <= 2048
        assert max(len(part.encode()) for part in parts) <= 255


@pytest.mark.parametrize(
    "path",
    [
        ".jetsync/x",
        "a/.jetsync/b/c",
        ".jetsync",
        ".JETSYNC/x",
        "lost+found/x",
        "a/lost+found/",
        ".snapshot/",
        ".nfs1",
        "a/.nfs2/b",
    ],
)
def test_reserved_names_are_outside_at_any_depth(path):
    assert names.reserved(path)


@pytest.mark.parametrize("path", ["lost+found", ".snapshot", "a.jetsync/b", ".jetsyncignore", "nfs1", "sha256/x", "a/"])
def test_names_that_only_look_reserved_are_not(path):
    assert not names.reserved(path)


def test_a_repository_reserves_its_content_and_its_channels():
    assert names.reserved("sha256/ab", repository=True)
    assert names.reserved("channels/stable", repository=True)
    assert not names.reserved("sha256", repository=True)
    assert not names.reserved("a/sha256/x", repository=True)


def test_parents_are_the_directories_above():
    assert names.parents_of("a/b/c") == ["a", "a/b"]
    assert names.parents_of("a/b/") == ["a"]
    assert names.parents_of("a") == []
    assert names.parents_of("a/") == []


# ---- conflict copies ----


def copy_of(path: str, agent: str = "edge-1", mtime_ns: int | None = MTIME, prefix_bytes: int = 0) -> str | None:
    return names.conflict_name(path, agent=agent, mtime_ns=mtime_ns, digest=DIGEST, prefix_bytes=prefix_bytes)


@pytest.mark.parametrize(
    ("path", "copy"),
    [
        ("report.txt", "report.conflict-edge-1-20240102T030405Z-01234567.txt"),
        ("a/b/report.tar.gz", "a/b/report.tar.conflict-edge-1-20240102T030405Z-01234567.gz"),
        ("Makefile", "Makefile.conflict-edge-1-20240102T030405Z-01234567"),
        (".bashrc", ".bashrc.conflict-edge-1-20240102T030405Z-01234567"),
        (".config.json", ".config.json.conflict-edge-1-20240102T030405Z-01234567"),
        ("a.b/file", "a.b/file.conflict-edge-1-20240102T030405Z-01234567"),
        ("name.", "name..conflict-edge-1-20240102T030405Z-01234567"),
    ],
)
def test_a_conflict_copy_is_named_after_its_version(path, copy):
    assert copy_of(path) == copy
    assert names.is_conflict_copy(copy)
    assert names.conflict_base(copy) == path


def test_the_agent_is_reduced_to_what_a_name_may_hold():
    assert copy_of("a", agent="Ägent_7 (x)/..") == "a.conflict-gent7x-20240102T030405Z-01234567"
    assert copy_of("a", agent="x" * 40) == f"a.conflict-{'x' * 32}-20240102T030405Z-01234567"
    assert copy_of("a", agent="日本") == "a.conflict-agent-20240102T030405Z-01234567"


@pytest.mark.parametrize("mtime_ns", [None, 0, -1, -(10**30), 10**30, -(5 * 10**18)])
def test_any_time_makes_a_name(mtime_ns):
    copy = copy_of("a.txt", mtime_ns=mtime_ns)
    assert copy
    assert names.is_conflict_copy(copy)


@given(paths, st.text(max_size=50), st.integers(0, 300))
def test_a_conflict_copy_is_always_a_valid_name_that_tells_what_it_is_a_copy_of(path, agent, prefix_bytes):
    copy = copy_of(path, agent=agent, prefix_bytes=prefix_bytes)
    assert copy
    assert names.problem_of(copy) is None
    assert len(copy.encode()) + prefix_bytes <= 2048
    assert copy == copy_of(path, agent=agent, prefix_bytes=prefix_bytes)
    assert names.is_copy_of(copy, path)
    assert copy.startswith(names.copy_prefix(path))


@pytest.mark.parametrize("path", ["é" * 127, "x" * 250 + ".txt", "日" * 80 + ".tar", "a." + "e" * 250])
def test_a_long_stem_is_cut_at_a_character(path):
    copy = copy_of(path)
    assert copy
    assert 252 <= len(copy.encode()) <= 255
    assert names.problem_of(copy) is None
    assert names.is_copy_of(copy, path)
    assert not names.is_copy_of(copy, "other")


def test_a_directory_that_leaves_no_room_gives_no_copy():
    deep = "/".join(["d" * 200] * 10)
    assert names.problem_of(f"{deep}/f") is None
    assert copy_of(f"{deep}/f") is None


@pytest.mark.parametrize(
    "path",
    [
        ".conflict-edge-20240102T030405Z-01234567",
        "a.conflict-edge-20240102T030405-01234567",
        "a.conflict-edge-20240102T030405Z-0123456X",
        "a.conflict--20240102T030405Z-01234567",
        "a.conflict-edge-20240102T030405Z-01234567.b.c",
        "a.conflict-edge-20240102T030405Z-01234567/b",
    ],
)
def test_other_names_are_no_conflict_copies(path):
    assert not names.is_conflict_copy(path)
    assert names.conflict_base(path) == path


def test_the_digest_of_a_link_is_that_of_its_target():
    one = names.copy_digest(Entry(Kind.LINK, target="a"))
    assert one != names.copy_digest(Entry(Kind.LINK, target="b"))
    assert names.copy_digest(Entry(Kind.FILE, DIGEST, 1)) == DIGEST


# ---- links ----


@pytest.mark.parametrize(
    ("path", "text", "target"),
    [
        ("link", "a", "a"),
        ("link", "a/b/", "a/b"),
        ("d/link", "../a", "a"),
        ("d/link", "./x//y", "d/x/y"),
        ("d/e/link", "..", "d"),
        ("d/link", ".", "d"),
        ("link", "link", "link"),
        ("link", "/etc/passwd", None),
        ("link", "../x", None),
        ("link", "a/../../outside/x", None),
        ("d/link", "..", None),
        ("link", ".", None),
        ("link", "", None),
        ("link", "a\\b", None),
        ("link", "a\0b", None),
        ("link", ".jetsync/x", None),
        ("link", ".jetsync", None),
    ],
)
def test_a_link_has_a_target_only_inside_the_root(path, text, target):
    assert names.target_from_link(path, text) == target


@given(paths, paths)
def test_a_link_comes_back_as_the_shortest_text_with_the_same_target(path, target):
    text = names.link_text(path, target)
    if not names.reserved(target + "/"):
        assert names.target_from_link(path, text) == target
    assert not text.startswith("/")
    assert len(text) <= len("../" * path.count("/") + target)
