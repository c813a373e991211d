"""The agent as a black box: a config file, a state directory, directories, and the command in a process of its own.

    agent = Agent(tmp_path / "a", server.url, [mapping(bucket)])
    write_tree(agent.directory(), {"a/b.txt": b"bytes", "run.sh": File(b"#!", executable=True), "l": Link("a/b.txt")})
    result = agent.sync()                   # `jetsync sync --json`, parsed, checked against its schema, exit 0
    agent.cli("plan", "--json", exit=0)     # any command: Result(code, out, err, .json)
    with agent.run() as running:            # `jetsync run`, ready when the with-block starts
        eventually(lambda: ...)
        running.kill()                      # SIGKILL

Nothing here knows the inside of the agent. Trees are compared as values: `read_tree(root) == {...}`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import jsonschema
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import DIE_WITH_PARENT, free_port
from tests.support.signals import freeze

T = TypeVar("T")

SCHEMAS = Path(__file__).parents[2] / "docs" / "json"

# Put before a command line: drops the capabilities that let root read and write everything (DAC_OVERRIDE,
# DAC_READ_SEARCH, FOWNER) from the bounding set, so that mode 000 means something. Nothing happens without root.
WITHOUT_PRIVILEGES = (
    sys.executable,
    "-ISc",
    """if 1:
    import ctypes, os, sys
    PR_CAPBSET_DROP = 24
    for capability in (1, 2, 3):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.execv(sys.argv[1], sys.argv[1:])""",
)


# -- trees -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    content: bytes
    executable: bool = False

    def __repr__(self) -> str:
        content = repr(self.content) if len(self.content) < 60 else f"<{len(self.content)} bytes>"
        return f"File({content}{', executable' if self.executable else ''})"


@dataclass(frozen=True)
class Link:
    target: str


@dataclass(frozen=True)
class EmptyDirectory:
    pass


Node = File | Link | EmptyDirectory


def write_tree(root: Path, tree: Mapping[str, Node | bytes]) -> None:
    """Make the files of `tree` (path -> bytes or node) below root, with parents; others stay as they are."""
    for path, node in tree.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        match node:
            case Link():
                target.unlink(missing_ok=True)
                target.symlink_to(node.target)
            case EmptyDirectory():
                target.mkdir(exist_ok=True)
            case File():
                target.write_bytes(node.content)
                target.chmod(0o755 if node.executable else 0o644)
            case _:
                target.write_bytes(node)


def read_tree(root: Path) -> dict[str, Node]:
    """Everything below root but .jetsync: path -> node. Directories only where they are empty."""
    tree: dict[str, Node] = {}
    for directory, subdirectories, files in os.walk(root):
        here = Path(directory)
        with contextlib.suppress(ValueError):
            subdirectories.remove(".jetsync")
        if not subdirectories and not files and here != root:
            tree[f"{here.relative_to(root)}/"] = EmptyDirectory()
        for name in [*files, *(name for name in subdirectories if (here / name).is_symlink())]:
            path = here / name
            relative = str(path.relative_to(root))
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                tree[relative] = Link(str(path.readlink()))
            elif stat.S_ISREG(mode):
                tree[relative] = File(path.read_bytes(), executable=bool(mode & stat.S_IXUSR))
    return tree


def digests(root: Path) -> dict[str, str]:
    """path -> SHA-256 in hex of each regular file below root but .jetsync."""
    return {
        path: hashlib.sha256(node.content).hexdigest()
        for path, node in read_tree(root).items()
        if isinstance(node, File)
    }


def files(tree: Mapping[str, bytes]) -> dict[str, Node]:
    """path -> bytes as the nodes that read_tree gives for plain files."""
    return {path: File(content) for path, content in tree.items()}


# -- waiting ---------------------------------------------------------------------------------------------------------


def eventually(check: Callable[[], T], *, timeout: float = 20.0, interval: float = 0.05) -> T:
    """Call `check` until it gives something true without an AssertionError or OSError; its last word otherwise.

    The time-out is there to end a broken test, and says nothing about how fast something has to be.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = check()
            if value or time.monotonic() > deadline:
                assert value, f"still {value!r} after {timeout} s"
                return value
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
        time.sleep(interval)


def same_trees(*roots: Path, expected: Mapping[str, Node] | None = None, timeout: float = 30.0) -> dict[str, Node]:
    """Wait until all directories hold the same tree (and `expected`, when given), and return it."""

    def check() -> bool:
        trees = [read_tree(root) for root in roots]
        for tree in trees[1:]:
            assert tree == trees[0]
        if expected is not None:
            assert trees[0] == expected
        return True

    eventually(check, timeout=timeout)
    return read_tree(roots[0])


# -- configuration ---------------------------------------------------------------------------------------------------


def mapping(bucket: str, *, name: str = "files", directory: str | None = None, **options: Any) -> dict[str, Any]:
    """One entry of `mappings`, with the directory ./NAME unless it is given."""
    return {"name": name, "directory": directory or f"./{name}", "bucket": bucket, **options}


class Agent:
    """One agent's home: config.yaml, state/, and the mappings' directories (which are made).

    nats: the URL of a server, or the whole `nats` section. `buckets`: the section; by default every bucket that a
    mapping names is declared. Other keywords are further top-level keys. `config` may be changed; call `write()` then.
    """

    def __init__(
        self,
        home: Path,
        nats: str | dict[str, Any],
        mappings: Sequence[dict[str, Any]],
        *,
        name: str | None = None,
        buckets: dict[str, Any] | None = None,
        **top: Any,
    ) -> None:
        self.home = home
        self.home.mkdir(parents=True, exist_ok=True)
        self.http_port = free_port()
        self.config: dict[str, Any] = {
            "version": 1,
            "name": name or home.name,
            "state_dir": "./state",
            "nats": {"servers": [nats]} if isinstance(nats, str) else nats,
            "http": {"listen": f"127.0.0.1:{self.http_port}"},
            "log": {"level": "debug", "format": "json"},
            "buckets": {entry["bucket"]: {} for entry in mappings} if buckets is None else buckets,
            "mappings": list(mappings),
            **top,
        }
        for entry in mappings:
            (home / entry["directory"]).mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def config_file(self) -> Path:
        return self.home / "config.yaml"

    @property
    def state_dir(self) -> Path:
        return self.home / "state"

    def write(self) -> None:
        self.config_file.write_text(yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))

    def directory(self, name: str = "files") -> Path:
        """The directory of the mapping `name`."""
        entry = next(entry for entry in self.config["mappings"] if entry["name"] == name)
        return self.home / entry["directory"]

    def lose_state(self) -> None:
        """As if the disk with state_dir had been replaced."""
        for path in sorted(self.state_dir.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    # -- commands

    def cli(
        self,
        *arguments: str,
        exit: int | Sequence[int] | None = None,
        timeout: float = 40.0,
        env: Mapping[str, str] | None = None,
        unprivileged: bool = False,
    ) -> Result:
        """Run `jetsync -c config.yaml ARGUMENTS`. exit: the code(s) it must end with; None = any."""
        return jetsync(
            "-c", str(self.config_file), *arguments, exit=exit, timeout=timeout, env=env, unprivileged=unprivileged
        )

    def sync(self, *arguments: str, exit: int | Sequence[int] | None = 0, **options: Any) -> dict[str, Any]:
        """`jetsync sync --json ARGUMENTS`: the first mapping's part, plus "exit"; all of them under "mappings"."""
        return self._json("sync", *arguments, exit=exit, **options)

    def plan(self, *arguments: str, exit: int | Sequence[int] | None = 0, **options: Any) -> dict[str, Any]:
        """`jetsync plan --json ARGUMENTS`, as sync()."""
        return self._json("plan", *arguments, exit=exit, **options)

    def _json(self, command: str, *arguments: str, exit: int | Sequence[int] | None, **options: Any) -> dict[str, Any]:
        result = self.cli(command, "--json", *arguments, exit=exit, **options)
        page = result.json
        validate(page, command)
        first: dict[str, Any] = page["mappings"][0]
        return {**first, "exit": result.code, "mappings": page["mappings"], "stderr": result.err}

    def run(self, *, wait: bool = True, unprivileged: bool = False) -> AgentProcess:
        """`jetsync run` in the background; returns when /readyz says 200, at once with wait=False."""
        process = AgentProcess(self, unprivileged=unprivileged)
        if wait:
            try:
                process.wait_ready()
            except BaseException:
                process.kill()
                raise
        return process


@dataclass(frozen=True)
class Result:
    """How a command ended. A negative code is the signal that killed it."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        try:
            page: dict[str, Any] = json.loads(self.out)
        except ValueError as exc:
            raise AssertionError(f"stdout of {self} isn't JSON") from exc
        return page

    def __str__(self) -> str:
        command = " ".join(self.arguments)
        return f"`jetsync {command}` (exit {self.code})\nstdout: {self.out[-3000:]}\nstderr: {self.err[-6000:]}"


def jetsync(
    *arguments: str,
    exit: int | Sequence[int] | None = None,
    timeout: float = 40.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    unprivileged: bool = False,
) -> Result:
    """Run the command in a process of its own. AssertionError with all it said when the exit code isn't as asked."""
    try:
        done = subprocess.run(
            [*(WITHOUT_PRIVILEGES if unprivileged else ()), sys.executable, "-m", "agent", *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            env=environment(env),
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        said = (exc.stderr or b"").decode(errors="replace")[-6000:]
        raise AssertionError(f"`jetsync {' '.join(arguments)}` still runs after {timeout} s\nstderr: {said}") from None
    result = Result(arguments, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))
    allowed = [exit] if isinstance(exit, int) else exit
    assert allowed is None or result.code in allowed, f"expected exit {exit}: {result}"
    assert "Traceback (most recent call last)" not in result.err, str(result)
    return result


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without what would change the command's behaviour."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JETSYNC_", "PYTEST_"))}
    return {**kept, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **(extra or {})}


def validate(page: dict[str, Any], command: str) -> None:
    """Check a --json result against docs/json/COMMAND.schema.json."""
    schema = json.loads((SCHEMAS / f"{command}.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(page)


# -- the running agent -----------------------------------------------------------------------------------------------


class AgentProcess:
    """`jetsync run` in the background. Its stdout and stderr go to run-N.log in the agent's home."""

    def __init__(self, agent: Agent, *, unprivileged: bool = False) -> None:
        self.agent = agent
        number = len(list(agent.home.glob("run-*.log")))
        self.log_file = agent.home / f"run-{number}.log"
        before: tuple[str, ...] = WITHOUT_PRIVILEGES if unprivileged else ()
        if threading.current_thread() is threading.main_thread():
            before = (*DIE_WITH_PARENT, *before)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "agent", "run", "-c", str(agent.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.running:
            self.stop()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The JSON log lines so far; those whose `event` is `name`, when given."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if name is None or line.get("event") == name]

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of a page of the agent's HTTP server; status 0 when it doesn't answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.agent.http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metrics(self) -> dict[str, float]:
        """All samples of /metrics: name{label="value",...} with labels in alphabetical order -> value."""
        status, text = self.get("/metrics")
        assert status == 200, f"/metrics: {status}"
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples

    def wait_ready(self, timeout: float = 30.0) -> None:
        def ready() -> bool:
            if not self.running:
                raise RuntimeError(f"the agent ended with {self.process.returncode}:\n{self.log[-6000:]}")
            return self.get("/readyz")[0] == 200

        try:
            eventually(ready, timeout=timeout)
        except AssertionError:
            raise AssertionError(f"not ready: {self.get('/readyz')}\n{self.log[-6000:]}") from None

    def signal(self, number: int) -> None:
        if number == signal.SIGSTOP:
            freeze(self.pid)
        else:
            self.process.send_signal(number)

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()

    def wait(self, timeout: float = 30.0) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the agent didn't end within {timeout} s:\n{self.log[-6000:]}") from None

    def rss(self) -> int:
        """Resident memory in bytes, without pages of files."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")


@contextlib.contextmanager
def running(*agents: Agent) -> Iterator[tuple[AgentProcess, ...]]:
    """Start all agents, wait until all are ready, stop all at the end."""
    processes: list[AgentProcess] = []
    try:
        processes.extend(agent.run(wait=False) for agent in agents)
        for process in processes:
            process.wait_ready()
        yield tuple(processes)
        for process in processes:
            process.stop()
    finally:
        for process in processes:
            if process.running:
                process.kill()
