"""Looking at paths: what an equal signature proves, and what it doesn't."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agent.core.entries import Entry, Kind, Local, Row
from agent.core.filters import Filters
from agent.directory import Directory, signature_of
from agent.errors import StaleError
from agent.sync.looks import differing, survey
from tests.directory.disk import Known


def test_an_unchanged_file_costs_no_reading(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x")
    with Directory.open(tmp_path) as directory:
        local = directory.read("a")
        assert local is not None
        known = Local(local.side, local.signature, racy=False)
        found = survey(directory, [Row("a", local=known)], large_too=False, stop=lambda: False)

    assert (found.changed, found.refreshed) == ({}, {})


def as_if_a_link_had_had_its_inode(root: Path) -> Local:
    """A link's row with the signature of the file that now is there: what is left when the file came with the inode of
    the link, in the moment after the link was put in place."""
    (root / "a").write_bytes(b"a file now")
    return Local(Entry(Kind.LINK, target="aim"), signature_of((root / "a").lstat()))


def test_a_link_that_became_a_file_with_its_inode_is_read(tmp_path: Path):
    known = as_if_a_link_had_had_its_inode(tmp_path)
    with Directory.open(tmp_path) as directory:
        found = survey(directory, [Row("a", local=known)], large_too=False, stop=lambda: False)

    changed = found.changed["a"]
    assert changed is not None
    assert isinstance(changed.side, Entry)
    assert changed.side.digest == hashlib.sha256(b"a file now").digest()


def test_a_link_that_became_a_file_with_its_inode_is_hinted_by_a_scan(tmp_path: Path):
    known = as_if_a_link_had_had_its_inode(tmp_path)
    with Directory.open(tmp_path) as directory:
        hints = list(directory.scan(Known([("a", known)]), Filters([], [])))

    assert [(hint.path, hint.kind) for hint in hints] == [("a", "look")]


def test_a_link_that_became_a_file_with_its_inode_is_not_deleted_as_the_link(tmp_path: Path):
    known = as_if_a_link_had_had_its_inode(tmp_path)
    with Directory.open(tmp_path) as directory, pytest.raises(StaleError):
        directory.delete("a", known)

    assert (tmp_path / "a").read_bytes() == b"a file now"


def test_what_we_have_put_in_place_is_looked_at_only_when_somebody_was_there_since(tmp_path: Path):
    names = ["d/same", "edited", "replaced", "gone", "link", "moved/away"]
    (tmp_path / "d").mkdir()
    (tmp_path / "moved").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"ours")
    placed = {name: signature_of((tmp_path / name).lstat()) for name in names}
    (tmp_path / "edited").write_bytes(b"theirs")
    (tmp_path / "new").write_bytes(b"ours")
    (tmp_path / "new").rename(tmp_path / "replaced")
    (tmp_path / "gone").unlink()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("d/same")
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    (tmp_path / "moved").symlink_to("elsewhere")

    with Directory.open(tmp_path) as directory:
        assert differing(directory, placed) == ["edited", "replaced", "gone", "link", "moved/away"]
