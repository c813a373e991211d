"""What the Dockerfile says, without building it. test_image.py builds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if hadolint is None:
        pytest.skip("hadolint isn't here: `make tools`")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_every_builder_takes_the_dockerfile():
    """The old builder of Docker, BuildKit without its own front end, buildah 1.28, kaniko."""
    instructions = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]

    assert [line for line in instructions if "<<" in line or "--mount" in line] == []
    assert not DOCKERFILE.startswith("# syntax")


def test_the_build_gets_what_it_copies_and_nothing_else():
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
