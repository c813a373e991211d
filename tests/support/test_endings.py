"""How tests end that go wrong: told shortly, and never with the end of the worker that runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(tmp_path: Path, text: str, *options: str) -> str:
    """What pytest says of a test file under this suite's conftest."""
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests/conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), *options, str(tmp_path / "test_it.py")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


SLOW_TO_REPORT = """
import time
import pytest

@pytest.fixture(autouse=True)
def slow_report(request):
    if not request.config.pluginmanager.has_plugin("slow"):
        request.config.pluginmanager.register(Slow(), "slow")

class Slow:
    def pytest_runtest_logreport(self, report):
        time.sleep(1.5 if report.when == "setup" and "after" not in report.nodeid else 0)

@pytest.mark.timeout(1)
def test_whose_time_is_over_when_its_setup_is_reported():
    time.sleep(20)

@pytest.mark.timeout(1)
def test_that_hangs():
    time.sleep(20)

def test_after_them():
    pass
"""


@pytest.mark.parametrize("options", [("-n0",), ("-n1",)], ids=["here", "in a worker"])
def test_a_time_out_between_the_phases_of_a_test_ends_no_worker(tmp_path: Path, options: tuple[str, ...]):
    said = run(tmp_path, SLOW_TO_REPORT, *options)

    assert "2 failed, 1 passed" in said, said
    assert "INTERNALERROR" not in said


@pytest.mark.timeout(30)
def test_large_values_that_differ_are_told_shortly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "1")  # pytest tells all there
    said = run(
        tmp_path,
        """
def test_trees():
    assert {f"tree/{n % 20}/{n}": b"%d" % n for n in range(900)} == {f"other/{n}/{n}": b"%d" % n for n in range(900)}

def test_bytes():
    assert b"x" * 10_000_000 == b"x" * 9_999_999 + b"y"
""",
        "-n0",
    )

    assert "2 failed" in said, said
    assert "dict of 900 == dict of 900" in said
    assert "only left: 'tree/" in said
    assert "at 9999960: " in said
    assert len(said) < 10_000
