"""A partial goes on from the bytes that are whole, and from no others."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.directory import Directory, Partial
from agent.directory.partial import Mark
from tests.directory.conftest import Open
from tests.directory.disk import staged_left

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).digest()


def open_partial(directory: Directory, *, path: str = "a/file", key: str = "key", digest: bytes = DIGEST) -> Partial:
    partial = directory.stage_partial(path, key=key, digest=digest)
    assert partial is not None
    return partial


def rehashed(partial: Partial) -> Partial:
    while partial.mark.size and not partial.rehash(70_000):
        pass
    return partial


def begin(directory: Directory, size: int = 100_000) -> Partial:
    """A download that has come as far as `size` bytes, and has written some more without a mark."""
    partial = open_partial(directory)
    partial.write(CONTENT[:size])
    partial.note(chunks=2, seq=17)
    partial.write(b"beyond the mark")
    return partial


@pytest.mark.parametrize("ending", [Partial.keep, lambda partial: None], ids=["kept", "killed"])
def test_a_download_goes_on_behind_its_mark_in_another_process(
    root: Path, opener: Open, ending: Callable[[Partial], None]
) -> None:
    ending(begin(opener()))
    directory = opener()  # with nothing of the first in memory

    directory.sweep_staging()
    partial = rehashed(open_partial(directory))
    assert partial.mark == Mark(100_000, 2, 17)
    partial.write(CONTENT[100_000:])
    assert partial.digest_so_far == DIGEST
    partial.finish()
    directory.put_file("a/file", partial, None)
    partial.discard()

    assert (root / "a/file").read_bytes() == CONTENT
    assert staged_left(root) == []


def test_other_content_or_another_path_never_goes_on_with_it(directory: Directory) -> None:
    begin(directory).keep()

    for other in (
        open_partial(directory, path="a/other"),
        open_partial(directory, key="another version"),
        open_partial(directory, digest=bytes(32)),
    ):
        assert other.mark == Mark()
        other.discard()


@pytest.mark.parametrize("damage", ["truncated", "no data", "no mark", "half a mark", "not a mark", "linked"])
def test_what_is_not_as_it_was_left_is_begun_anew(root: Path, directory: Directory, damage: str) -> None:
    partial = begin(directory)
    partial.keep()
    data = root / ".jetsync/staging" / partial.name
    mark = data.with_name(data.name + ".mark")
    match damage:
        case "truncated":  # as after a power failure
            os.truncate(data, 50_000)
        case "no data":
            data.unlink()
        case "no mark":
            mark.unlink()
        case "half a mark":
            os.truncate(mark, mark.stat().st_size - 9)
        case "not a mark":
            mark.write_bytes(b"[]\n1 2\n")
        case "linked":
            os.link(data, root / "theirs")

    again = open_partial(directory)

    assert again.mark == Mark()
    again.write(CONTENT)
    assert again.digest_so_far == DIGEST
    again.discard()
    assert staged_left(root) == []


def test_a_restart_forgets_all_bytes(directory: Directory) -> None:
    partial = rehashed(open_partial(directory))
    partial.write(b"wrong")
    partial.note(chunks=1, seq=1)

    partial.restart()
    partial.write(CONTENT)
    assert partial.digest_so_far == DIGEST
    partial.keep()
    assert open_partial(directory).mark == Mark()


def test_one_at_a_time(directory: Directory) -> None:
    partial = begin(directory)
    assert directory.stage_partial("a/file", key="key", digest=DIGEST) is None
    assert directory.partials.kept() == []
    directory.sweep_staging()
    partial.keep()

    (kept,) = directory.partials.kept()
    assert (kept.path, kept.digest) == ("a/file", DIGEST)
    assert abs(kept.used - time.time()) < 600
    directory.partials.drop([kept])
    assert directory.partials.kept() == []


def test_the_sweep_takes_halves_of_partials_and_all_else(root: Path, opener: Open) -> None:
    directory = opener()
    begin(directory).keep()
    staging = root / ".jetsync/staging"
    whole = set(os.listdir(staging))
    (staging / "part-0123").write_bytes(b"no mark")
    (staging / "part-4567.mark").write_bytes(b"no data")
    (staging / "left").write_bytes(b"over")

    assert opener().sweep_staging() == 3
    assert set(os.listdir(staging)) == whole
