"""The ledger of the breaking machine: what was ever written, and which of it somebody gave up knowingly.

A content is known by its identity: the SHA-256 of a file's bytes, or the target of a symlink. The machine makes each
content unique, so an identity tells one write. The promise (DESIGN section 5, promise 2) in the words of the ledger:

    written - given up  is a part of  what still exists (in a tree, a conflict copy, the trash; the bucket equals them)

"Given up" has to be exact, or the machine would find losses that are none, and be blind for real ones: an identity is
given up only when a person had that very version in hand and then overwrote or deleted it. People therefore never
look first and act then: they act by one rename that hands out what stood there (`people`), and only what came out was
seen. Where a person uses a system call that can't hand it out (unlink, rename over), a link count tells afterwards
whether it was the version that had been seen; when it wasn't, something unknown was destroyed by a person, and the
ledger counts that (`blurred`): so many identities may be missing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Ledger:
    """written: identity -> who wrote it, where and when. given_up: identities. blurred: unknown victims of people."""

    written: dict[str, str] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    blurred: int = 0

    def wrote(self, identity: str, story: str) -> None:
        self.written.setdefault(identity, story)

    def saw(self, identity: str, story: str) -> None:
        self.given_up.setdefault(identity, story)

    def saw_all(self, top: Path, story: str) -> None:
        """Somebody took this file, link or tree away, whole."""
        for identity in identities(top):
            self.saw(identity, story)

    def lost(self, places: list[Path]) -> dict[str, str]:
        """What was written, was given up by nobody, and is nowhere below the places."""
        there = {identity for place in places for identity in identities(place)}
        return {one: story for one, story in self.written.items() if one not in self.given_up and one not in there}


def of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of_target(text: str) -> str:
    """Of a symlink: the last part of its target, which is unique; the rest depends on where the link stands."""
    return "link:" + text.rpartition("/")[2]


def identities(top: Path) -> Iterator[str]:
    """Of the file or link at `top`, or of everything below it but an agent's own directory."""
    try:
        mode = top.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        yield of_target(str(top.readlink()))
    elif stat.S_ISREG(mode):
        yield of_bytes(top.read_bytes())
    elif stat.S_ISDIR(mode):
        for name in os.listdir(top):
            if name != ".jetsync":
                yield from identities(top / name)
