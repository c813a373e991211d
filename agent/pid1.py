"""Process 1 of a container: a small init in front of the command.

The kernel hands every process whose parent has gone to process 1, and only process 1 can wait for it. A subscription's
command may leave something running in the background; when that ends it stays a zombie, and zombies fill the limit of
processes. The event loop waits for its own children only, and waiting for any child beside it would take the exit codes
of its own away. So process 1 forks before anything else is imported. The child goes on as the command. Process 1 passes
signals on, waits for whoever ends, and ends as the command does; the kernel kills what is left then.

Anywhere else, and with `docker run --init` or `shareProcessNamespace: true`, the command isn't process 1, and nothing
happens here. docs/decisions/0013 tells why it isn't tini.
"""

from __future__ import annotations

import os
import signal

# A fault of this process isn't for the child; SIGKILL and SIGSTOP can't be waited for.
_OWN = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS}
_NEVER = {signal.SIGKILL, signal.SIGSTOP}
# si_code of what the terminal sends. The whole group has got it then, and a second Ctrl-C would mean something else.
_SI_KERNEL = 0x80


def stand_in_front() -> None:
    """Nothing, unless this is process 1; there it returns in a new process, and process 1 stays behind as its init."""
    if os.getpid() != 1:
        return
    caught = {int(number) for number in signal.valid_signals() - _OWN - _NEVER}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_watch(child, caught))


def _watch(child: int, caught: set[int]) -> int:
    """Until the child has ended; the exit code that tells how."""
    while True:
        received = signal.sigwaitinfo(caught)
        if received.si_signo == signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                return code
        elif received.si_code != _SI_KERNEL:
            os.kill(child, received.si_signo)


def _reap(child: int) -> int | None:
    """Wait for all that have ended; the child's exit code when it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code
