"""Becomes another program that dies with its parent: `python tether.py PARENT_PID COMMAND...`.

The tie is made here, after the exec, and not by a hook between fork and exec: a fork of a process
that uses grpc copies its pollers, which then disturb the child. The standard library is enough, so
that it takes a few milliseconds. Linux only; elsewhere the program lives on.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["tethered"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tethered(argv: Sequence[str]) -> list[str]:
    """The command line of a program that dies with the thread that starts it."""
    return [sys.executable, "-S", __file__, str(os.getpid()), *argv]


if __name__ == "__main__":
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() == int(parent):  # else it died before the tie was made
        os.execvp(command[0], command)  # noqa: S606  (no shell is what we want)
