"""The benchmarks run, small, and leave nothing behind. What they measure is nobody's business here."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.support.far import far
from tests.support.agent import environment, eventually
from tests.support.server import NatsServer

ROOT = Path(__file__).parents[2]


def bench(tmp_path: Path, name: str, *options: str) -> list[dict[str, object]]:
    """Run it, and give its JSON lines."""
    lines, work = tmp_path / "figures.jsonl", tmp_path / "work"
    work.mkdir()
    common: list[str | Path] = ["--quick", "--rounds", "1", "--dir", work, "--json", lines]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, *common, *options],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(work.iterdir())
    return [json.loads(line) for line in lines.read_text().splitlines()]


@pytest.mark.timeout(120)
def test_the_benchmark_of_small_files_measures_each_step_of_jetsync(tmp_path: Path):
    figures = bench(tmp_path, "small_files", "--files", "20")

    measured = [line["work"] for line in figures if line.get("who") == "jetsync"]
    assert measured == ["push", "nothing to do", "pull"]


@pytest.mark.timeout(120)
def test_the_benchmark_of_the_library_compares_with_the_limit(tmp_path: Path):
    figures = bench(tmp_path, "library", "--mib", "10", "--no-peers")

    assert {line["who"] for line in figures if line.get("work") == "get"} == {"jetsync", "limit"}


@pytest.mark.timeout(120)
def test_an_interrupted_benchmark_ends_what_it_has_started_and_removes_its_folder(tmp_path: Path):
    command: list[str | Path] = [sys.executable, "-m", "benchmarks", "renames", "--files", "3000", "--dir", tmp_path]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _users_of(tmp_path) > 1)  # a server, an agent
        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 130
        assert not list(tmp_path.iterdir())
        eventually(lambda: _users_of(tmp_path) == 0)
    finally:
        process.kill()
        process.wait()


def _users_of(folder: Path) -> int:
    """Processes, but the benchmark itself, that were started with a path below the folder."""
    users = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            users += f"{folder}/".encode() in path.read_bytes()
        except OSError:
            continue  # it has ended meanwhile
    return users


def test_a_far_server_answers_a_round_trip_later(tmp_path: Path):
    with NatsServer(tmp_path / "nats") as server, far(server.port, 0.2) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
            lines = connection.makefile("rb")
            assert lines.readline().startswith(b"INFO ")
            began = time.monotonic()
            connection.sendall(b"PING\r\n")
            assert lines.readline() == b"PONG\r\n"

            assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("arguments", [["--help"], ["start", "--help"]])
def test_each_command_has_its_help(arguments: list[str]):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "find DIR -printf '%s %T@ %i" in done.stdout
