"""An install that dies at each step, one after another: python -m tests.support.dying URL REPOSITORY DIRECTORY STRIDE

Two snapshots are installed in turn, again and again, in one directory. Each time a child process dies at its n-th call
that changes something on the disk, then the directory is looked at, and another child installs again, to the end. The
first n at which nobody dies ends it. STRIDE: 1 = at every step, 3 = at every third. Prints the number of steps.

What has to be true after a death: `current` leads to one of the two, and a reader finds in it just the files of that
one. After the next run: it is the wanted one, nothing half done is left, and its `after` command has run at least once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import nkeys

from agent.directory import oldversions, syscalls
from agent.objectstore import Connection, Endpoint
from agent.snapshots.signing import Signer
from tests.support.snapshots import Executable, Files, Maker, Subscriber, To, content_of

DIED = 9
STEPS = 300
EVENTS = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod")
TREES: tuple[Files, Files] = (
    {"a": b"one", "same": b"same", "down/x": Executable(b"x"), "down/y": b"one", "l": To("down/x"), "h/": None},
    {"a": b"two", "same": b"same", "down/x": b"x", "l": To("a"), "new/z": b"L" * 200_000},
)
SEEN: tuple[dict[str, Any], dict[str, Any]] = (
    {"a": b"one", "same": b"same", "down/x": b"x", "down/y": b"one", "l": "down/x", "h": None},
    {"a": b"two", "same": b"same", "down/x": b"x", "l": "a", "new/z": b"L" * 200_000},
)

_left = 1 << 30


def die_at(step: int) -> None:
    """End this process, hard, before the step."""
    global _left  # noqa: PLW0603 - an audit hook can't be taken away, and this is a process of its own
    _left = step


def _count(event: str, args: tuple[Any, ...]) -> None:
    global _left  # noqa: PLW0603
    creates = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
    if event in EVENTS or event == "renameat2" or creates:
        _left -= 1
        if _left == 0:
            os._exit(DIED)


def _renameat2(*args: Any, real: Any = syscalls.renameat2) -> None:
    _count("renameat2", ())
    real(*args)


def in_child(work: Coroutine[Any, Any, None], *, step: int = 1 << 30) -> int:
    """Run it in a process of its own; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            die_at(step)
            asyncio.run(work)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    work.close()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Dying:
    def __init__(self, url: str, repository: str, directory: Path) -> None:
        self.url = url
        self.repository = repository
        self.directory = directory
        self.key = Signer(bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)))
        self.counter = 0
        self.ids = ("", "")

    async def publish(self) -> None:
        """Both snapshots; the channel leads to the first."""
        async with await Connection.open(Endpoint([self.url]), name="publisher") as connection:
            maker = Maker(connection, self.repository)
            ids = [await maker.make(tree, signer=self.key) for tree in TREES]
            await maker.back_to(ids[0], signer=self.key)
        (self.directory.parent / "ids").write_text("\n".join((*ids, str(maker.counter))))

    async def install(self) -> None:
        async with await Connection.open(Endpoint([self.url]), name="subscriber") as connection:
            state = self.directory.parent / "live.db"
            options = {
                "trusted_publishers": (self.key.public,),
                "after": ("echo $JETSYNC_SNAPSHOT >> told",),
                "keep": 1,
            }
            await Subscriber(connection, self.repository, self.directory, state, options).install()

    async def install_and_move(self, other: str) -> None:
        """Install to the end, and then move the channel on."""
        await self.install()
        async with await Connection.open(Endpoint([self.url]), name="publisher") as connection:
            await Maker(connection, self.repository).back_to(other, signer=self.key, counter=self.counter)

    def run(self, stride: int) -> int:
        sys.addaudithook(_count)
        setattr(syscalls, "renameat2", _renameat2)  # noqa: B010 - mypy would have the same signature
        oldversions.GRACE = 0.0
        self.must_do(self.publish())
        *ids, counter = (self.directory.parent / "ids").read_text().split("\n")
        self.ids, self.counter = (ids[0], ids[1]), int(counter)
        self.to_the_end(0)
        for turn, step in enumerate(range(1, STEPS, stride), 1):
            wanted = turn % 2
            code = in_child(self.install(), step=step)
            assert code in (0, DIED), code
            assert self.current in self.ids
            self.check_readers()
            if code == 0:
                return step
            self.to_the_end(wanted)
        raise AssertionError(f"not even {STEPS} steps were enough")

    def must_do(self, work: Coroutine[Any, Any, None]) -> None:
        assert in_child(work) == 0

    def to_the_end(self, wanted: int) -> None:
        self.counter += 1
        self.must_do(self.install_and_move(self.ids[1 - wanted]))
        self.check_readers()
        assert self.current == self.ids[wanted]
        told = self.directory.parent / "told"
        assert told.read_text().splitlines()[-1] == self.ids[wanted], "after was not run"
        told.write_text("")
        names = {path.name for path in (self.directory / "versions").iterdir()}
        assert names == {".jetsync", self.current}, names
        own = {path.name for path in (self.directory / "versions/.jetsync").iterdir()}
        assert own == {"lock", "times.json", "accepted.json", f"{self.current}.json"}, own
        assert {path.name for path in self.directory.iterdir()} == {"versions", "current"}

    @property
    def current(self) -> str:
        return (self.directory / "current").readlink().name

    def check_readers(self) -> None:
        found = content_of((self.directory / "current").resolve())
        assert found == SEEN[self.ids.index(self.current)], found.keys()


if __name__ == "__main__":
    print(Dying(sys.argv[1], sys.argv[2], Path(sys.argv[3])).run(int(sys.argv[4])))
