"""Becomes another program that dies with the test: `python tethered.py PARENT_PID COMMAND...`.

The tie is made here, after the exec, and not by a hook between fork and exec: a fork of a process
that uses grpc copies its pollers, which then disturb the child. The standard library is enough, so
that it takes a few milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() == int(parent):  # else it died before the tie was made
        os.execvp(command[0], command)  # noqa: S606  (no shell is what we want)
