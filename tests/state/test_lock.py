"""One agent for a state_dir."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import LockedError, StateError
from agent.state import lock

HOLDER = "import sys, pathlib; from agent.state import lock; held = lock(pathlib.Path(sys.argv[1])); print(); input()"


def test_a_second_agent_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        with pytest.raises(LockedError, match=rf"pid {holder.pid}\b"):
            lock(tmp_path)

        holder.kill()
        holder.wait()
        with lock(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_is_exclusive_within_a_process_too_and_free_after_release(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(LockedError, match=str(os.getpid())):
        lock(tmp_path)

    held = lock(tmp_path)
    held.release()
    held.release()
    lock(tmp_path).release()


def test_a_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    held = lock(tmp_path)
    with subprocess.Popen(["sleep", "30"], close_fds=False) as child:
        held.release()
        lock(tmp_path).release()
        child.kill()


def test_the_state_directory_is_made_for_the_agents_user_alone(tmp_path: Path) -> None:
    with lock(tmp_path / "a" / "state"):
        assert stat.S_IMODE((tmp_path / "a" / "state").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "a" / "state" / "lock").stat().st_mode) == 0o600


def test_a_state_directory_that_can_not_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StateError, match="another state_dir"):
        lock(tmp_path / "file" / "state")
