"""The image, built for real where a container engine is at hand, and run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.agent import eventually
from tests.support.engine import ARCHIVE, ROOT, Engine, UnavailableError, make_base
from tests.support.server import NatsServer, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("image")]

# Every right taken away, nothing to write to but what a test mounts.
CONFINED = ("--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def image_config(engine: Engine, image: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(engine.inspect(image, "{{json .Config}}"))
    return config


@pytest.fixture
def config(tmp_path: Path, nats_server: NatsServer, bucket_name: str) -> Path:
    """A folder with config.yaml, whose mapping is in /data and whose port is free."""
    page = {
        "version": 1,
        "nats": {"servers": [nats_server.url]},
        "http": {"listen": f"127.0.0.1:{free_port()}"},
        "buckets": {bucket_name: {}},
        "mappings": [{"name": "files", "directory": "/data", "bucket": bucket_name}],
    }
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(page))
    return folder


def test_it_runs_without_any_right_and_says_what_it_is(engine: Engine, image: str):
    assert engine.docker("run", *CONFINED, "--network", "none", image, "version").stdout.startswith("jetsync ")
    config = image_config(engine, image)
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("65532:65532", ["jetsync"], ["run"])
    assert config["Healthcheck"]["Test"] == ["CMD", "jetsync", "healthcheck"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert (labels["version"], labels["revision"], labels["created"]) == ("1.2.3", "abc", "2026-11-28T10:00:00Z")
    assert labels["licenses"] == "Apache-2.0"


def test_what_built_it_is_not_in_it(engine: Engine, image: str):
    names = engine.docker(
        *("run", *CONFINED, "--network", "none", "--entrypoint", "sh", image, "-c"),
        "ls /opt/jetsync/bin /opt/jetsync/lib/python3.*/site-packages /; command -v gcc strip nats-server; true",
    ).stdout.split()

    assert not {"pip", "setuptools", "hatchling", "gcc", "strip", "build", "nats-server", "activate"} & set(names)
    assert {"jetsync", "agent", "nats", "uvloop"} <= set(names)


@pytest.mark.parametrize("user", ["65532:65532", "1000650000:0", "12345:12345", "0:0"])
def test_any_user_will_do(engine: Engine, image: str, config: Path, tmp_path: Path, user: str):
    data = tmp_path / "data"
    data.mkdir()
    (data / f"of-{user.partition(':')[0]}").write_text("bytes")
    subprocess.run(["chown", "-R", user, data], check=True)
    done = engine.docker(
        *("run", "--rm", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"),
        *("--user", user, "--volume", f"{config}:/etc/jetsync:ro", "--volume", f"{data}:/data"),
        *(image, "sync", "--json"),
    )

    (report,) = json.loads(done.stdout)["mappings"]
    assert (report["state"], report["uploads"]) == ("converged", 1)


def test_everything_that_a_run_imports_is_compiled(engine: Engine, image: str, config: Path, tmp_path: Path):
    """Root with a writable root file system would leave what had to be compiled."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("bytes")
    container = engine.docker(
        *("run", "--detach", "--network", "host", "--user", "0:0", "--env", "PYTHONDONTWRITEBYTECODE="),
        *("--volume", f"{config}:/etc/jetsync:ro", "--volume", f"{tmp_path / 'data'}:/data", image),
    ).stdout.strip()
    try:
        ready = ("exec", container, "jetsync", "healthcheck", "--ready")
        eventually(lambda: engine.docker(*ready, check=False).returncode == 0)
        engine.docker("exec", container, "jetsync", "status")
        changed = engine.docker("diff", container).stdout.splitlines()
    finally:
        engine.docker("rm", "--force", container)

    assert "\n".join(line for line in changed if line.endswith(".pyc")) == ""


def test_docker_asks_for_its_health(engine: Engine, image: str, config: Path, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    container = engine.docker(
        *("run", "--detach", "--network", "host", "--health-interval", "1s", "--read-only"),
        *("--tmpfs", "/var/lib/jetsync", "--volume", f"{config}:/etc/jetsync:ro"),
        *("--volume", f"{tmp_path / 'data'}:/data", image),
    ).stdout.strip()
    try:
        eventually(lambda: engine.inspect(container, "{{.State.Health.Status}}") == "healthy", timeout=60)
        engine.docker("stop", "--time", "20", container)
        assert engine.inspect(container, "{{.State.ExitCode}}") == "143"
    finally:
        engine.docker("rm", "--force", container)


def test_buildah_builds_it_too(tmp_path: Path):
    if shutil.which("buildah") is None:
        pytest.skip("buildah isn't installed")
    try:
        make_base()
    except UnavailableError as why:
        pytest.skip(str(why))
    storage = ("--storage-driver", "vfs", "--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "runroot"))

    def buildah(*arguments: object) -> str:
        done = subprocess.run(["buildah", *storage, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.strip()

    scratch = buildah("from", "scratch")
    buildah("add", "--quiet", scratch, ARCHIVE, "/")
    buildah("commit", "--quiet", scratch, "test-base")
    chroot = ("--isolation", "chroot", "--network", "host")
    buildah(
        "bud", *chroot, "--format", "docker", "--pull-never", "--build-arg", "BASE_IMAGE=test-base", "--tag", "it", ROOT
    )
    built = buildah("from", "--pull-never", "it")

    assert buildah("run", "--isolation", "chroot", built, "--", "jetsync", "version").startswith("jetsync ")
    assert "healthcheck" in buildah("inspect", "--type", "image", "--format", "{{.Docker.Config.Healthcheck}}", "it")
