"""The local side: one directory, looked at, scanned, watched and changed by descriptor.

`Directory` is the way in; `Watcher` gives hints where to look; `Versions` is the directory that snapshots are installed
in. The only room that touches user files.
"""

from agent.directory.apply import Applied
from agent.directory.building import Building, Previous
from agent.directory.contents import Contents
from agent.directory.hints import EVERYTHING, HintBuffer
from agent.directory.look import Look, render, signature_of
from agent.directory.options import DirectoryOptions
from agent.directory.partial import Kept, Partial
from agent.directory.read import OpenFile
from agent.directory.root import Directory
from agent.directory.scan import Hint, Scan
from agent.directory.space import Reservation, Room
from agent.directory.stage import Staged, Whole
from agent.directory.syscalls import Capabilities
from agent.directory.together import Placing
from agent.directory.trash import TrashEntry
from agent.directory.versions import Versions
from agent.directory.versiontree import StoppedError
from agent.directory.watch import Watcher

__all__ = [
    "EVERYTHING",
    "Applied",
    "Building",
    "Capabilities",
    "Contents",
    "Directory",
    "DirectoryOptions",
    "Hint",
    "HintBuffer",
    "Kept",
    "Look",
    "OpenFile",
    "Partial",
    "Placing",
    "Previous",
    "Reservation",
    "Room",
    "Scan",
    "Staged",
    "StoppedError",
    "TrashEntry",
    "Versions",
    "Watcher",
    "Whole",
    "render",
    "signature_of",
]
