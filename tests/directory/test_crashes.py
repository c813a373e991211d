"""Promises 1 and 6 for single steps: the process dies at each system call that changes something, one after another.

After each death the path has its old or its new bytes, whole, and the old version is there or in the trash (or under
its conflict copy's name); a new run can do the same change again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.directory import Capabilities, Directory
from agent.errors import StaleError
from tests.directory.disk import REPOSITORY, put, read, user_tree

CHANGE = """
import os, sys
from pathlib import Path
from agent.directory import Capabilities, Directory, syscalls
from tests.directory.disk import put, write
base, kind, can = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
left = 1 << 30

def count(event, args=()):
    global left
    if event in ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "renameat2") or (
        event == "open" and args[2] & os.O_CREAT
    ):
        left -= 1
        if left == 0:
            os._exit(9)

def renameat2(*args, real=syscalls.renameat2):
    count("renameat2")
    real(*args)

syscalls.renameat2 = renameat2
sys.addaudithook(count)
for death in range(1, 30):
    root = base / str(death)
    write(root / "a/file", b"old")
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), status
        if status == 0:
            break
        continue
    directory = Directory.open(root, capabilities=can)
    local = directory.read("a/file")
    left = death
    if kind == "create":
        put(directory, "new/b/file", b"new")
    elif kind == "replace":
        put(directory, "a/file", b"new", local)
    elif kind == "keep":
        put(directory, "a/file", b"new", local, keep_as="a/copy")
    elif kind == "delete":
        directory.delete("a/file", local)
    elif kind == "move":
        directory.move("a/file", "b/moved", local)
    os._exit(0)
"""


def die_at_every_step(base: Path, kind: str, can: Capabilities) -> list[Path]:
    """Make the change in as many roots as it has steps, dying one step later in each; in the last it is complete."""
    done = subprocess.run(
        [sys.executable, "-c", CHANGE, base, kind, repr(can)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return sorted(base.iterdir(), key=lambda root: int(root.name))


def again(directory: Directory, kind: str) -> None:
    local = directory.read("a/file")
    if kind == "create" and directory.read("new/b/file") is None:
        put(directory, "new/b/file", b"new")
    elif kind == "replace" and local:
        put(directory, "a/file", b"new", local)
    elif kind == "keep" and local and (directory.path / "a/file").read_bytes() == b"old":
        put(directory, "a/file", b"new", local, keep_as="a/copy")
    elif kind == "delete" and local:
        directory.delete("a/file", local)
    elif kind == "move" and local:
        try:
            directory.move("a/file", "b/moved", local)
        except StaleError:
            # Without NOREPLACE a move has two steps, and both names may be there: the next plan sees two files.
            directory.delete("a/file", read(directory, "a/file"))


WANTED = {
    "create": {"a": None, "a/file": b"old", "new": None, "new/b": None, "new/b/file": b"new"},
    "replace": {"a": None, "a/file": b"new"},
    "keep": {"a": None, "a/copy": b"old", "a/file": b"new"},
    "delete": {},
    "move": {"b": None, "b/moved": b"old"},
}


@pytest.mark.parametrize(
    "can", [Capabilities(), Capabilities(exchange=False, noreplace=False)], ids=["modern", "by links"]
)
@pytest.mark.parametrize("kind", WANTED)
def test_death_at_any_step_loses_nothing(tmp_path: Path, kind: str, can: Capabilities) -> None:
    roots = die_at_every_step(tmp_path, kind, can)
    assert 3 < len(roots) < 29

    for root in roots:
        tree = user_tree(root)
        with Directory.open(root, capabilities=can) as directory:
            trash = root / ".jetsync/trash"
            kept = {(trash / entry.batch / entry.path).read_bytes() for entry in directory.trash.entries()}
            assert set(tree.values()) - {None} <= {b"old", b"new"}, "no half files"
            assert b"old" in {*tree.values(), *kept}, "the old version is somewhere"
            if kind in ("create", "replace", "keep"):
                assert "a/file" in tree, "the path is never absent"

            directory.sweep_staging()
            again(directory, kind)
        # A directory that was emptied right before the death stays, as one that people have emptied.
        found = {path: content for path, content in user_tree(root).items() if path in WANTED[kind] or content}
        assert found == WANTED[kind]
