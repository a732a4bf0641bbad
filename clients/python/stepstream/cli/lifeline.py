"""Ties a child process to its parent: when the parent dies, however it dies, the child is told.

Linux only (`prctl(PR_SET_PDEATHSIG)`); elsewhere children of a parent that was killed live on.
The kernel sends the signal when the *thread* that spawned the child ends, so spawn from the main
thread.
The hook runs between fork and exec and touches nothing but system calls that were looked up before.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

__all__ = ["end_with_parent"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_EXIT_ORPHANED = 125


def end_with_parent(signum: signal.Signals = signal.SIGTERM) -> Callable[[], None] | None:
    """Makes a `preexec_fn` that asks the kernel for signum at the parent's death.

    Returns:
        The hook to hand to `subprocess`, or None where the system cannot do it.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def hook() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signum))
        # The parent may have died before the call: then nobody would ever tell this child.
        if os.getppid() != parent:
            os._exit(_EXIT_ORPHANED)

    return hook
