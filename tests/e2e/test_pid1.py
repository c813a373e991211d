"""The command as process 1, as in a container: orphans are reaped, signals arrive, the exit code comes back."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, environment, eventually, write_tree

# --mount-proc: /proc of the new namespace. Process 1 of it dies with unshare, and all others with process 1.
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
Start = Callable[..., "subprocess.Popen[str]"]


def can_unshare() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*UNSHARE, "true"], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="no right to make a pid namespace")


@pytest.fixture
def start() -> Iterator[Start]:
    """start(agent, *arguments): the command as process 1."""
    processes = []

    def start(agent: Agent, *arguments: str) -> subprocess.Popen[str]:
        log = (agent.home / "log").open("a")
        process = subprocess.Popen(
            [*UNSHARE, sys.executable, "-m", "agent", "-c", str(agent.config_file), *arguments],
            stdout=log,
            stderr=log,
            env=environment(),
            text=True,
        )
        processes.append((process, log))
        return process

    yield start
    for process, log in processes:
        process.kill()
        process.wait()
        log.close()


def below(process: subprocess.Popen[str]) -> dict[int, str]:
    """pid -> state ("S", "Z") of everything below process 1, and process 1 itself (the only child of unshare)."""

    def children(pid: int) -> list[int]:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    found, queue = {}, children(process.pid)
    while queue:
        pid = queue.pop()
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            queue += children(pid)
        except FileNotFoundError:  # it has just gone
            continue
        found[pid] = state
    return found


def first(process: subprocess.Popen[str]) -> int:
    """Process 1, by its number outside."""
    return min(below(process))


def test_what_a_command_leaves_in_the_background_is_reaped_when_it_ends(
    start: Start, tmp_path: Path, nats_url: str, bucket_name: str
):
    publication = {"name": "models", "directory": "./tree", "repository": bucket_name, "channel": "stable"}
    left = "for n in 1 2 3 4 5; do sleep 0.3 & done; echo run >> ran"
    subscription = {"name": "live", "directory": "./live", "repository": bucket_name, "channel": "stable"}
    site = Agent(
        tmp_path / "one",
        nats_url,
        [],
        buckets={bucket_name: {}},
        publications=[publication],
        subscriptions=[subscription | {"after": [left]}],
    )
    write_tree(site.home / "tree", {"a": b"1"})
    site.cli("snapshot", "publish", "models", exit=0)

    process = start(site, "run")
    eventually(lambda: (site.home / "ran").read_text() == "run\n")
    write_tree(site.home / "tree", {"a": b"2"})
    site.cli("snapshot", "publish", "models", exit=0)
    eventually(lambda: (site.home / "ran").read_text() == "run\n" * 2)

    eventually(lambda: len(below(process)) == 2)  # the init and the agent, and ten that have been


def test_signals_reach_the_agent_and_its_exit_code_comes_back(
    start: Start, tmp_path: Path, nats_url: str, bucket_name: str
):
    agent = Agent(tmp_path / "a", nats_url, [{"name": "files", "directory": "./files", "bucket": bucket_name}])
    process = start(agent, "run")
    eventually(lambda: "started" in (agent.home / "log").read_text())
    init = first(process)

    subprocess.run(["kill", "-HUP", str(init)], check=True)
    eventually(lambda: "reload" in (agent.home / "log").read_text())
    assert process.poll() is None

    subprocess.run(["kill", "-TERM", str(init)], check=True)
    assert process.wait(20) == 143
    assert "stopped" in (agent.home / "log").read_text()


def test_the_exit_code_of_a_command_comes_back(start: Start, tmp_path: Path):
    agent = Agent(tmp_path / "a", "nats://127.0.0.1:1", [])
    assert start(agent, "version").wait(20) == 0
    agent.config["unknown"] = 1
    agent.write()
    assert start(agent, "config", "validate").wait(20) == 78


def test_a_command_that_is_killed_ends_process_1_as_a_shell_would_tell(
    start: Start, tmp_path: Path, nats_url: str, bucket_name: str
):
    agent = Agent(tmp_path / "a", nats_url, [{"name": "files", "directory": "./files", "bucket": bucket_name}])
    process = start(agent, "run")
    eventually(lambda: "started" in (agent.home / "log").read_text())
    subprocess.run(["kill", "-KILL", str(max(below(process)))], check=True)

    assert process.wait(20) == 128 + signal.SIGKILL


def test_anywhere_else_there_is_no_second_process(tmp_path: Path, nats_url: str, bucket_name: str):
    agent = Agent(tmp_path / "a", nats_url, [{"name": "files", "directory": "./files", "bucket": bucket_name}])
    with agent.run() as running:
        time.sleep(0.1)
        assert Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text() == ""
