"""A container engine for tests: the docker daemon that answers, or one of our own for this session.

    engine = Engine.start(tmp_path)     # Unavailable, with the reason, where there is none
    image = engine.build()              # the Dockerfile at the root, on a base that is here or can be made
    engine.docker("run", "--rm", image, "version")

An own daemon has no bridge and no firewall rules: containers use the host's network, so that they reach servers on
loopback. Its data are in the given folder, and it ends with the session. The base image is $JETSYNC_BASE_IMAGE, the
archive that `make base` has made, or the one of the Dockerfile, which is pulled.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ARCHIVE = Path(sys.prefix) / "images" / "base.tar"
START_SECONDS = 60.0
# prctl(PR_SET_PDEATHSIG, SIGTERM), then exec: a daemon whose tests have been killed stops its containers and goes.
_STOP_WITH_PARENT = (
    sys.executable,
    "-ISc",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])",
)
BUILD_SECONDS = 900.0


class UnavailableError(Exception):
    """No engine, or no base image; the reason in words."""


@dataclass
class Engine:
    """`host`: the daemon's socket, "" = the one that docker finds by itself."""

    host: str
    daemon: subprocess.Popen[bytes] | None = None
    folder: Path = Path()

    @classmethod
    def start(cls, folder: Path) -> Engine:
        """:raises UnavailableError:"""
        if shutil.which("docker") is None:
            raise UnavailableError("docker isn't installed")
        running = cls("")
        if running.docker("info", "--format", "{{.ServerVersion}}", check=False).returncode == 0:
            return running
        if os.geteuid() != 0 or shutil.which("dockerd") is None:
            raise UnavailableError("no docker daemon answers, and none can be started (it needs root and dockerd)")
        return cls._own(folder)

    @classmethod
    def _own(cls, folder: Path) -> Engine:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "dockerd.log"
        # A socket's path has to be short, and pytest's folders are long.
        engine = cls(f"unix:///tmp/jetsync-docker-{os.getpid()}.sock", folder=folder)
        with log.open("wb") as out:
            engine.daemon = subprocess.Popen(
                [
                    *(*_STOP_WITH_PARENT, "dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec"),
                    *("--pidfile", folder / "pid", "--host", engine.host, "--storage-driver", "overlay2"),
                    *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and engine.daemon.poll() is None:
            if engine.docker("info", "--format", "{{.ServerVersion}}", check=False).returncode == 0:
                return engine
            time.sleep(0.1)
        engine.close()
        last = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        raise UnavailableError(f"dockerd doesn't start here: {last[-300:]}")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_BUILDKIT": "0", **({"DOCKER_HOST": self.host} if self.host else {})}

    def close(self) -> None:
        """Ends the daemon if it is ours, and with it every container."""
        if self.daemon is None:
            return
        containers = self.docker("ps", "--quiet", check=False).stdout.split()
        if containers:
            self.docker("kill", *containers, check=False)
        self.daemon.terminate()
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        with contextlib.suppress(FileNotFoundError):
            Path(self.host.removeprefix("unix://")).unlink()
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        left = [
            mount for mount in mounts if mount.startswith(f"{self.folder}/")
        ]  # it leaves that of the host's network
        if left:
            subprocess.run(["umount", "--lazy", *reversed(left)], check=False)

    def docker(
        self, *arguments: object, check: bool = True, timeout: float = 60.0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS`; an AssertionError with all it said when it fails, unless check=False."""
        done = subprocess.run(
            ["docker", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            check=False,
            **options,
        )
        said = f"`docker {' '.join(map(str, arguments))}` ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        assert not check or done.returncode == 0, said[-6000:]
        return done

    def inspect(self, name: str, format: str) -> str:
        return self.docker("inspect", "--format", format, name).stdout.strip()

    def base(self) -> str:
        """A base image that is here. :raises UnavailableError:"""
        given = os.environ.get("JETSYNC_BASE_IMAGE")
        if given is None and self.daemon is not None:
            with contextlib.suppress(UnavailableError):
                make_base()
                self.docker("import", ARCHIVE, "jetsync-test-base", timeout=300)
                return "jetsync-test-base"
        name = given or default_base()
        if self.docker("image", "inspect", name, check=False).returncode:
            pulled = self.docker("pull", name, check=False, timeout=300)
            if pulled.returncode:
                raise UnavailableError(f"no base image {name}: {pulled.stderr.strip()[-300:]}")
        return name

    def build(self, tag: str = "jetsync:test", **arguments: str) -> str:
        """Build the Dockerfile; further keywords are build arguments. :raises UnavailableError: no base image"""
        arguments = {"BASE_IMAGE": self.base(), **arguments}
        options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        self.docker("build", "--network", "host", "--tag", tag, *options, ROOT, timeout=BUILD_SECONDS)
        return tag


def make_base() -> None:
    """:raises UnavailableError: it isn't there and can't be made"""
    if not ARCHIVE.exists():
        made = subprocess.run(
            ["bash", ROOT / "scripts" / "test-base-image", ARCHIVE], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise UnavailableError(f"no base image can be made: {made.stderr.strip()[-300:]}")


def default_base() -> str:
    """The BASE_IMAGE that the Dockerfile names."""
    match = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]
