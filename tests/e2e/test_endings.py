"""How commands end when somebody presses Ctrl-C, or when their output can't be written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.agent import Agent, environment, write_tree


@pytest.mark.parametrize("delay", [0.2, 0.4, 0.6, 0.9, 1.2])
def test_ctrl_c_at_any_time_ends_a_command_with_130_and_without_a_traceback(agent: Agent, delay: float):
    write_tree(agent.directory(), {f"f{number}": b"%d" % number for number in range(300)})
    command = [sys.executable, "-m", "agent", "-c", str(agent.config_file), "sync"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        while "agent" not in Path(f"/proc/{process.pid}/cmdline").read_text():
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    if "Traceback" in errors.decode() and "__main__.py" not in errors.decode():
        pytest.skip("the interpreter hadn't come to our first line")

    assert "Traceback" not in errors.decode()
    # -2 is 130 to a shell: an interpreter that was interrupted in an import ends by the signal itself.
    assert process.returncode in (0, 130, -signal.SIGINT)


def test_output_that_cannot_be_written_is_one_sentence(agent: Agent):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agent", "-c", str(agent.config_file), "config", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr.decode() == "jetsync: the output can't be written: No space left on device\n"


def test_a_reader_that_goes_away_is_no_error_to_tell(agent: Agent):
    command = f"{sys.executable} -m agent -c {agent.config_file} config schema | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, env=environment(), check=False)

    assert len(done.stdout) == 10
    assert done.stderr == b""
