"""How one mapping wants its directory handled: the part of its configuration that this room needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Symlinks = Literal["link", "follow", "skip"]

OWN = ".jetsync"  # the agent's own directory inside every root; never part of the tree


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """Options of a Directory; the names are those of DESIGN section 2.

    file_mode, directory_mode: permission bits for what the agent makes; the umask is taken off by the kernel.
    max_size: bytes, None = no limit. trash: seconds, 0 = off. read_only: never write, not even `.jetsync/`.
    """

    file_mode: int = 0o666
    directory_mode: int = 0o777
    symlinks: Symlinks = "link"
    max_size: int | None = None
    permissions: bool = True
    empty_directories: bool = False
    trash: float = 7 * 86400.0
    read_only: bool = False
