"""The breaking machine: real agents on one bucket, people and stock clients at work, and faults, all drawn from a seed.

    python -m tests.faults.machine --seed 7 [--home DIRECTORY] [--steps 40] [-v]

The seed draws the setting (server version, two or three agents, prefix, bucket made by whom...), every step and every
fault. Timing is real, so a seed reproduces what was tried, not the interleaving: run it a few times.

When all faults have ended, within CONVERGE seconds:
    every directory equals every other and the bucket, by content, link target and executable bit;
    every object is whole, and a stock client reads the bytes that its digest promises;
    plans are empty; no agent ended by itself or met something unforeseen;
    and nothing is lost: every content ever written that nobody who had seen it overwrote or deleted still exists
    (`ledger`).

Left out on purpose. Conflict copies aren't edited by people: DESIGN has their conflicts reported, not resolved. Each
directory and the bucket keep two files that nobody touches, so that no brake against emptied sides is pulled, and
`max_delete` is 100%. A stock client overwrites blindly, so what a stock client wrote counts as given up when the next
stock client writes that name; and where files and directories clash it has names of its own: an object that no agent
holds and that stands where directories are is a problem which only a person can end.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import posixpath
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.injector import Injector, Member
from tests.faults.ledger import Ledger, of_bytes
from tests.faults.people import Person
from tests.support.agent import Agent, EmptyDirectory, File, Link, Node, eventually, mapping, read_tree
from tests.support.proxy import Proxy
from tests.support.server import DIE_WITH_PARENT, NatsServer, binaries
from tests.support.stock import Stock, meta_subject

REPOSITORY = Path(__file__).parents[2]
BUCKET = "b"
STARTED = CONVERGE = 120.0  # seconds from the start, from the end of the last fault: a loaded machine, not a slow agent
DISK_SIZE = "192m"
FILES = ["f1", "f2", "f3.txt", ".hidden", "d/x", "d/y", "d/e/z", "g/ü"]
CLASHING = ["d", "d/e", "f1/below"]
STRANGERS = ["s1", "s2", "s3", "s4"]
DIRECTORIES = ["d", "d/e", "g", "h", "h/i"]
Plain = tuple[str, str, str]  # kind; digest or target; mode, "" where it isn't told
KEPT = {"keep/1": b"one", "keep/2": b"two"}


class Machine:
    """One run. `story` tells what happened, in order."""

    def __init__(self, seed: int, home: Path, *, steps: int, verbose: bool = False) -> None:
        self.seed = seed
        self.home = home
        self.steps = steps
        self.verbose = verbose
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.story: list[str] = []
        self.members: list[Member] = []
        self.people: list[Person] = []
        self.stock_wrote: dict[str, set[str]] = {}
        self.began = time.monotonic()
        chance = self.chance
        self.binary = chance.choice(["2.15", "2.15", "2.15", "2.12", "2.9"])
        self.count = chance.choice([2, 2, 3])
        self.prefix = chance.choice(["", "", "in/"])
        self.declared = chance.random() < 0.7
        self.stock_works = chance.random() < 0.6
        self.clashes = chance.random() < 0.4
        self.empty_directories = chance.random() < 0.3
        self.pace = chance.choice([0.02, 0.1, 0.25])
        self.faults = chance.choice([0.05, 0.12, 0.2])
        self.small_disk = chance.random() < 0.3
        binary = binaries().get(self.binary)  # else the newest: a run on any version is worth something
        self.server = NatsServer(home / "nats", binary=binary or "nats-server")

    def note(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')}.{time.time_ns() // 10**6 % 1000:03} {text}"
        self.story.append(line)
        if self.verbose:
            print(line, flush=True)

    # ---- the run ----

    def run(self) -> None:
        """Raises AssertionError with what is wrong."""
        settings = {key: value for key, value in vars(self).items() if isinstance(value, bool | int | float | str)}
        self.note(f"setting {settings}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.server)
            self.stock = stack.enter_context(Stock(self.server.url))
            stack.callback(self._kill_all)
            self._set_up(stack)
            injector = Injector(self)
            try:
                for _ in range(self.steps):
                    self._step(injector)
            finally:
                injector.end_all()
            self.note("faults have ended")
            self._check()

    def _set_up(self, stack: contextlib.ExitStack) -> None:
        if not self.declared:
            self.stock.create(BUCKET)
        for name in "abc"[: self.count]:
            proxy = stack.enter_context(Proxy(self.server.port))
            home = self.home / name
            disk = home / "disk"
            disk.mkdir(parents=True)
            mounted = self.small_disk and name == "a" and mount_tmpfs(disk)
            if mounted:
                stack.callback(unmount, disk)
            options: dict[str, Any] = {"max_delete": "100%", "empty_directories": self.empty_directories}
            if self.prefix:
                options["prefix"] = self.prefix
            if self.chance.random() < 0.15:
                options |= {"watch": "poll", "poll_interval": "1s"}
            if not self.clashes and self.chance.random() < 0.15:
                options["conflicts"] = "prefer-remote"  # losers go to the trash
            if not self.clashes and name == "c" and self.chance.random() < 0.4:
                options["mode"] = "pull-mirror"  # here all that people do goes to the trash
                options.pop("conflicts", None)
            self.note(f"agent {name}: {options}{', on a small disk' if mounted else ''}")
            entry = mapping(BUCKET, directory="./disk/files", **options)
            agent = Agent(home, proxy.url, [entry], buckets={BUCKET: {}} if self.declared else {})
            member = Member(agent, proxy, disk if mounted else None)
            self.members.append(member)
            person = Person(name, member.root, disk / "aside", ledger=self.ledger, chance=self.chance, seed=self.seed)
            self.people.append(person)
            for path, content in KEPT.items():
                person.save(path, content)
            for path in FILES:
                if self.chance.random() < (0.8 if name == "a" else 0.15):
                    person.save(path)
            member.start()
        for member in self.members:
            member.process.wait_ready(timeout=STARTED)

    def _step(self, injector: Injector) -> None:
        chance = self.chance
        if chance.random() < self.faults:
            injector.begin()
        elif injector.active and chance.random() < (0.2 if injector.active < 3 else 0.6):
            injector.end_one()
        act = self._stock_acts if self.stock_works and chance.random() < 0.2 else self._person_acts
        act(injector)
        for member in self.members:
            member.check_alive()
        time.sleep(chance.random() * self.pace)

    # ---- who does what ----

    def _path(self) -> str:
        return self.chance.choice([*FILES, *CLASHING] if self.clashes else FILES)

    def _person_acts(self, injector: Injector) -> None:
        person = self.chance.choice(self.people)
        path, goal, directory, other = self._path(), self._path(), *self.chance.sample(DIRECTORIES, 2)
        acts: list[tuple[int, str, Callable[[], None]]] = [
            (20, f"save {path}", lambda: person.save(path)),
            (8, f"save over {path}", lambda: person.save_over(path)),
            (8, f"overwrite {path}", lambda: person.overwrite(path)),
            (8, f"append {path}", lambda: person.append(path)),
            (10, f"move {path} to {goal}", lambda: person.move(path, goal)),
            (8, f"delete {path}", lambda: person.delete(path)),
            (5, f"unlink {path}", lambda: person.unlink(path)),
            (5, f"link {path}", lambda: person.link(path)),
            (4, f"copy {path} to {goal}", lambda: person.copy(path, goal)),
            (4, f"chmod {path}", lambda: person.chmod(path)),
            (4, f"touch {path}", lambda: person.touch(path)),
            (3, f"move {directory} to {other}", lambda: person.move(directory, other)),
            (2, f"delete {directory}", lambda: person.delete(directory)),
            (2, f"empty directory {directory}", lambda: person.empty_directory(directory)),
            (4 if self.clashes else 0, f"directory {path}", lambda: person.make_directory(path)),
        ]
        _, words, act = self.chance.choices(acts, [weight for weight, _, _ in acts])[0]
        try:
            act()
        except OSError as exc:
            self.note(f"{person.name}: {words}: {exc.strerror}")
        else:
            self.note(f"{person.name}: {words}")

    def _stock_acts(self, injector: Injector) -> None:
        """Blind writes, deletes and renames by a client that knows nothing of agents."""
        name, new = self.chance.sample(STRANGERS if self.clashes else FILES, 2)
        roll = self.chance.random()
        content = f"stock-{self.seed}-{len(self.story)}.".encode() * self.chance.choice([1, 1, 30_000])
        if injector.suffers("server") or not self.stock.client.is_connected:
            return
        # From here on what other stock clients wrote there may be gone, whatever comes of this.
        for one in (name, new):
            for identity in self.stock_wrote.pop(one, set()):
                self.ledger.saw(identity, f"stock overwrote {one}")
        words = f"stock {'puts' if roll < 0.6 else 'deletes' if roll < 0.8 else f'renames to {new}'} {name}"
        try:
            if roll < 0.6:
                self.stock.put(BUCKET, self.prefix + name, content)
                self.ledger.wrote(of_bytes(content), words)
                self.stock_wrote[name] = {of_bytes(content)}
            elif roll < 0.8:
                self.stock.delete(BUCKET, self.prefix + name)
            else:
                self._stock_renames(self.prefix + name, self.prefix + new)
        except Exception as exc:  # noqa: BLE001 - whatever a stock client raises; what came of it isn't known
            words += f": {type(exc).__name__} {exc}"
        self.note(words)

    def _stock_renames(self, name: str, new: str) -> None:
        """As `nats object rename` has it: a meta with the new name, then the old one's is purged."""
        meta, there = self.stock.meta(BUCKET, name), self.stock.meta(BUCKET, new)
        if meta and not meta.deleted and (there is None or there.deleted):
            self.stock.publish_meta(BUCKET, new, {**meta.payload, "name": new})
            self.stock.api(f"STREAM.PURGE.OBJ_{BUCKET}", {"filter": meta_subject(BUCKET, name)})

    # ---- what has to hold in the end ----

    def _check(self) -> None:
        for member in self.members:
            member.check_alive()
        began = time.monotonic()
        eventually(self._all_equal, timeout=CONVERGE, interval=0.2)
        self.note(f"converged after {time.monotonic() - began:.1f} s")
        lost = self.ledger.lost(self._places())
        assert len(lost) <= self.ledger.blurred, f"{len(lost)} lost ({self.ledger.blurred} blurred): {lost}"
        for name in self.stock.names(BUCKET):
            self._check_object(name)
        for member in self.members:
            actions = member.agent.plan()["actions"]
            assert not actions, f"{member.agent.home.name} still plans {actions}"
            for process in member.processes:
                for word in ("Traceback (most recent call last)", '"mapping_crashed"', "unforeseen"):
                    assert word not in process.log, f"{process.log_file} has {word}"
        for member in self.members:
            member.alive = False
            code = member.process.stop()
            assert code in (0, 143), f"the agent {member.agent.home.name} was stopped and ended with {code}"
        self._all_equal()

    def _all_equal(self) -> bool:
        trees = {member.agent.home.name: self._tree(member.root) for member in self.members}
        bucket = self._bucket()
        for name, tree in trees.items():
            wrong = {
                path: (tree.get(path), bucket.get(path))
                for path in sorted(tree.keys() | bucket.keys())
                if not _equal(tree.get(path), bucket.get(path))
            }
            assert not wrong, f"path: (in {name}, in the bucket): {wrong}"
        return True

    def _places(self) -> list[Path]:
        """Where a content may be: trees with their conflict copies, trashes, and what people took elsewhere."""
        return [
            place
            for member, person in zip(self.members, self.people, strict=True)
            for place in (member.root, member.root / ".jetsync" / "trash", person.aside)
        ]

    def _tree(self, root: Path) -> dict[str, Plain]:
        return {path: _plain(path, node) for path, node in read_tree(root).items() if self._travels(node)}

    def _travels(self, node: Node) -> bool:
        return self.empty_directories or not isinstance(node, EmptyDirectory)

    def _bucket(self) -> dict[str, Plain]:
        objects: dict[str, Plain] = {}
        for name, meta in self.stock.metas(BUCKET).items():
            if meta.deleted or not name.startswith(self.prefix):
                continue
            path, metadata = name.removeprefix(self.prefix), meta.payload.get("metadata") or {}
            link = ((meta.payload.get("options") or {}).get("link") or {}).get("name")
            if link is not None:
                objects[path] = ("link", link.removeprefix(self.prefix), "")
            elif path.endswith("/"):
                objects[path] = ("directory", "", "")
            else:
                objects[path] = ("file", meta.payload["digest"], metadata.get("jetsync.mode", ""))
        # An entry of an empty directory that isn't empty any more means nothing; it may stay until somebody deletes it.
        return {
            path: plain
            for path, plain in objects.items()
            if not path.endswith("/") or not any(other.startswith(path) and other != path for other in objects)
        }

    def _check_object(self, name: str) -> None:
        meta = self.stock.meta(BUCKET, name)
        assert meta
        payload = meta.payload
        if payload.get("options", {}).get("link"):
            return
        chunks = self.stock.chunks(BUCKET).get(payload["nuid"], 0)
        assert chunks == payload.get("chunks", 0), f"{name} has {chunks} chunks of {payload.get('chunks')}"

    def _kill_all(self) -> None:
        for member in self.members:
            for process in member.processes:
                if process.running:
                    process.kill()


def _plain(path: str, node: Node) -> Plain:
    match node:
        case File():
            digest = base64.urlsafe_b64encode(hashlib.sha256(node.content).digest()).decode()
            return "file", f"SHA-256={digest}", "755" if node.executable else "644"
        case Link():
            return "link", posixpath.normpath(posixpath.join(posixpath.dirname(path), node.target)), ""
        case EmptyDirectory():
            return "directory", "", ""


def _equal(local: Plain | None, remote: Plain | None) -> bool:
    """An object that doesn't tell its mode equals any."""
    if local is None or remote is None:
        return local is remote
    return local[:2] == remote[:2] and remote[2] in ("", local[2])


def mount_tmpfs(where: Path) -> bool:
    """A small file system of its own, where this process may mount (`unshare -m`)."""
    if os.readlink("/proc/self/ns/mnt") == os.environ.get("JETSYNC_FAULTS_OUTER_NAMESPACE"):
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "none", str(where)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(where: Path) -> None:
    subprocess.run(["umount", "-l", where], check=False)


def isolated(seed: int, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one seed in a process of its own; in a mount namespace of its own where that is possible."""
    command = [sys.executable, "-m", "tests.faults.machine", "--seed", str(seed), "--home", str(home), *arguments]
    outer = os.readlink("/proc/self/ns/mnt")
    unshare = shutil.which("unshare")
    if os.geteuid() == 0 and unshare and not subprocess.run([unshare, "-m", "true"], check=False).returncode:
        command = [unshare, "-m", *command]
    return subprocess.run(
        [*DIE_WITH_PARENT, *command],
        env={**os.environ, "JETSYNC_FAULTS_OUTER_NAMESPACE": outer},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="One run of the breaking machine.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--home", type=Path, help="an empty directory; it stays")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("-v", dest="verbose", action="store_true", help="tell what happens while it happens")
    asked = parser.parse_args()
    home = asked.home or Path(tempfile.mkdtemp(prefix=f"jetsync-faults-{asked.seed}-"))
    machine = Machine(asked.seed, home, steps=asked.steps, verbose=asked.verbose)
    try:
        machine.run()
    except BaseException:
        if not asked.verbose:
            print(*machine.story, sep="\n")
        print(f"seed {asked.seed} failed in {home}; again: make faults SEED={asked.seed}", flush=True)
        raise
    finally:
        (home / "story.log").write_text("\n".join(machine.story))
    print(f"seed {asked.seed}: {machine.story[-1]}; {len(machine.ledger.written)} contents", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
