"""What the agent remembers of a mapping: one row per path with its three sides. The only importer of sqlite3.

schema    which shape the database has, and how it gets there (sql/)
rows      the codec between a Row and its columns
database  the connection: pragmas, durability, errors mapped at the border
files     opening: permissions, a corrupt file moved aside
counts    numbers kept up to date as rows change
reader    everything that only reads; a second connection for the scan's thread
names     the names of the bucket: other names, and the full listing (mark and sweep)
journal   chunks that may have to be purged
store     everything that writes, on top of the reader
lock      one agent per state_dir
"""

from agent.state.counts import Counts
from agent.state.journal import JournalEntry
from agent.state.lock import StateLock, lock, lock_for_reading
from agent.state.names import OtherName
from agent.state.reader import StateReader
from agent.state.store import StateStore

__all__ = [
    "Counts",
    "JournalEntry",
    "OtherName",
    "StateLock",
    "StateReader",
    "StateStore",
    "lock",
    "lock_for_reading",
]
