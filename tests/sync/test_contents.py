"""What a look has read is sent as it was read, or read again; and it never takes more memory than it may."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from agent.core.entries import Entry, Local, Remote, Row, Signature
from agent.directory import Contents, Directory
from agent.errors import StaleError
from agent.sync.looks import survey
from agent.sync.lots import Disk

SIGNATURE = Signature(3, 1, 1, 1)


def looked(directory: Directory, path: str, contents: Contents, *, remote: Remote | None = None) -> tuple[Local, Entry]:
    found = survey(directory, [Row(path, remote=remote)], large_too=False, stop=lambda: False, contents=contents)
    local = found.changed[path]
    assert local is not None
    assert isinstance(local.side, Entry)
    return local, local.side


def test_a_small_new_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(b"content")
    contents = Contents(largest=100)
    with Directory.open(tmp_path) as directory:
        local, entry = looked(directory, "a", contents)
        disk = Disk(directory, contents)
        with monkeypatch.context() as patch:
            patch.delattr(Directory, "open_read")
            assert disk.read([("a", local, entry)]) == [b"content"]
        assert not len(contents)
        assert disk.read([("a", local, entry)]) == [b"content"]
    assert entry.digest == hashlib.sha256(b"content").digest()


def test_a_file_that_has_changed_since_it_was_looked_at_is_not_sent_as_it_was(tmp_path: Path):
    for name in ("written", "gone", "replaced"):
        (tmp_path / name).write_bytes(b"content")
    contents = Contents(largest=100)
    with Directory.open(tmp_path) as directory:
        items = [(name, *looked(directory, name, contents)) for name in ("written", "gone", "replaced")]
        (tmp_path / "written").write_bytes(b"changed")
        os.utime(tmp_path / "written", ns=(1, 1))
        (tmp_path / "gone").unlink()
        (tmp_path / "other").write_bytes(b"content")
        (tmp_path / "other").replace(tmp_path / "replaced")
        results = Disk(directory, contents).read(items)
    assert [type(result) for result in results] == [StaleError] * 3


def test_only_small_files_that_the_bucket_has_not_are_kept(tmp_path: Path):
    (tmp_path / "large").write_bytes(b"x" * 101)
    (tmp_path / "known").write_bytes(b"x")
    (tmp_path / "empty").write_bytes(b"")
    contents = Contents(largest=100)
    with Directory.open(tmp_path) as directory:
        looked(directory, "large", contents)
        _, entry = looked(directory, "known", Contents(largest=0))
        looked(directory, "known", contents, remote=Remote(entry, 5))
        assert not len(contents)
        local, _ = looked(directory, "empty", contents)
    assert local.signature is not None
    assert contents.take("empty", local.signature) == b""


def test_there_is_room_for_so_much_and_what_is_taken_or_replaced_makes_room_again():
    contents = Contents(largest=100, limit=2000)
    for number in range(10):
        contents.keep(str(number), SIGNATURE, b"x" * 100)
    kept = len(contents)

    assert 1 < kept < 10
    assert contents.take("0", SIGNATURE) == b"x" * 100
    contents.keep("1", SIGNATURE, b"y" * 100)
    contents.keep("last", SIGNATURE, b"z" * 100)
    assert len(contents) == kept
    assert contents.take("last", SIGNATURE) == b"z" * 100
    assert contents.take("1", SIGNATURE) == b"y" * 100
    contents.clear()
    for number in range(10):
        contents.keep(str(number), SIGNATURE, b"x" * 100)
    assert len(contents) == kept


def test_the_bytes_of_another_version_are_nobodys():
    contents = Contents(largest=100)
    contents.keep("a", SIGNATURE, b"abc")

    assert contents.take("a", Signature(3, 2, 2, 1)) is None
    assert contents.take("a", SIGNATURE) is None
