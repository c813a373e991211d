"""The fault injector: begins one fault, and hands back how it ends.

    agent     killed with SIGKILL, and started again after a while; in between, its state store may be dropped, or
              replaced by an older copy (a restored backup)
    server    killed, stopped, or paused (SIGSTOP: connections stay open, nothing answers), and started again
    network   of one agent: all connections reset, held without a byte, slowed, or delayed
    rights    a file or directory that nobody may read (000), or write in (555): agents run without root's privileges
    space     the file system of one agent's directory is filled to the last byte, where the machine could mount one

Clocks can't be stepped from outside for one process; people set times far into the past and the future instead
(`people.Person.touch`), which is what a stepped clock leaves on files.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tests.support.agent import Agent, AgentProcess
from tests.support.proxy import Proxy
from tests.support.server import NatsServer

Undo = Callable[[], None]


class Member:
    """One agent with its network and its process."""

    def __init__(self, agent: Agent, proxy: Proxy, disk: Path | None) -> None:
        self.agent = agent
        self.proxy = proxy
        self.disk = disk  # a small file system of its own that holds the mapping's directory
        self.processes: list[AgentProcess] = []
        self.alive = False

    @property
    def root(self) -> Path:
        return self.agent.directory()

    @property
    def process(self) -> AgentProcess:
        return self.processes[-1]

    def start(self) -> None:
        self.processes.append(self.agent.run(wait=False, unprivileged=True))
        self.alive = True

    def kill(self) -> None:
        self.process.kill()
        self.alive = False

    def check_alive(self) -> None:
        """An agent that nobody killed runs."""
        if self.alive and not self.process.running:
            code, log = self.process.process.returncode, self.process.log[-4000:]
            raise AssertionError(f"the agent {self.agent.home.name} ended by itself with {code}:\n{log}")


class Cast(Protocol):
    """What the injector may break."""

    members: list[Member]
    server: NatsServer
    chance: random.Random

    def note(self, text: str) -> None: ...


class Injector:
    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.chance = cast.chance
        self._active: dict[str, Undo] = {}

    def begin(self) -> None:
        """One more fault, unless its victim already suffers."""
        kinds: list[tuple[int, Callable[[], tuple[str, Undo] | None]]] = [
            (4, self._kill_agent),
            (2, self._server),
            (4, self._network),
            (3, self._rights),
            (1, self._space),
        ]
        fault = self.chance.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]
        begun = fault()
        if begun:
            victim, undo = begun
            self._active[victim] = undo

    def end_one(self) -> None:
        if self._active:
            victim = self.chance.choice(list(self._active))
            self.cast.note(f"FAULT ends: {victim}")
            self._active.pop(victim)()

    def end_all(self) -> None:
        while self._active:
            self.end_one()

    @property
    def active(self) -> int:
        return len(self._active)

    def suffers(self, victim: str) -> bool:
        return victim in self._active

    def _free(self, kind: str) -> tuple[str, Member] | None:
        member = self.chance.choice(self.cast.members)
        victim = f"{kind} {member.agent.home.name}"
        return None if victim in self._active else (victim, member)

    # ---- the faults ----

    def _kill_agent(self) -> tuple[str, Undo] | None:
        found = self._free("agent")
        after = self.chance.choice(["restart", "restart", "restart", "restart", "drop", "backup", "restore"])
        if not found:
            return None
        victim, member = found
        member.kill()
        self.cast.note(f"FAULT {victim} killed ({after})")
        state, backup = member.agent.state_dir, member.agent.home / "state.backup"
        if after == "drop":
            member.agent.lose_state()
        elif after == "backup" or (after == "restore" and not backup.exists()):
            shutil.rmtree(backup, ignore_errors=True)
            shutil.copytree(state, backup, ignore=shutil.ignore_patterns("*.sock"))
        elif after == "restore":
            shutil.rmtree(state)
            shutil.copytree(backup, state)
        return victim, member.start

    def _server(self) -> tuple[str, Undo] | None:
        server = self.cast.server
        how = self.chance.choice(["killed", "stopped", "paused"])
        if "server" in self._active:
            return None
        self.cast.note(f"FAULT server {how}")
        if how == "paused":
            server.pause()
            return "server", server.resume
        server.kill() if how == "killed" else server.stop()
        return "server", server.start

    def _network(self) -> tuple[str, Undo] | None:
        found = self._free("network")
        how = self.chance.choice(["cut", "cut and back", "hold", "throttle", "delay"])
        if not found:
            return None
        victim, member = found
        self.cast.note(f"FAULT {victim}: {how}")
        match how:
            case "hold":
                member.proxy.hold()
            case "throttle":
                member.proxy.throttle(self.chance.choice([20_000, 200_000]))
            case "delay":
                member.proxy.delay(self.chance.choice([0.02, 0.3]))
            case _:
                member.proxy.cut()
        if how == "cut and back":
            time.sleep(0.1)
            member.proxy.resume()
            return None
        return victim, member.proxy.resume

    def _rights(self) -> tuple[str, Undo] | None:
        found = self._free("rights")
        mode = self.chance.choice([0, 0, 0o555])
        pick = self.chance.random()
        if not found:
            return None
        victim, member = found
        paths = sorted(path for path in member.root.rglob("*") if ".jetsync" not in path.parts)
        path = member.root if mode == 0o555 and pick < 0.2 else paths[int(pick * len(paths))] if paths else None
        if path is None:
            return None
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # it may be moved while it is locked
            before = os.fstat(fd).st_mode & 0o777
            os.fchmod(fd, mode)
            self.cast.note(f"FAULT {victim}: {path.relative_to(member.root)} is {mode:03o}")

            def undo() -> None:
                os.fchmod(fd, before)
                os.close(fd)

            return victim, undo
        return None

    def _space(self) -> tuple[str, Undo] | None:
        member = self.chance.choice(self.cast.members)
        victim = f"space {member.agent.home.name}"
        if not member.disk or victim in self._active:
            return None
        filler = member.disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        self.cast.note(f"FAULT {victim}: full")
        return victim, filler.unlink
