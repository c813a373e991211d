"""`python -m agent` and the console script `jetsync`."""

from __future__ import annotations

import os
import signal
import sys

from agent.pid1 import stand_in_front


def main() -> None:
    """Run the command line and exit with its code."""
    # Until a command takes care of it there is nothing to clean up; what counts is the exit code.
    signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
    stand_in_front()
    try:
        from agent.cli import run

        code = run(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all that is left is to go
    except KeyboardInterrupt:  # before a command could take care of it
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
