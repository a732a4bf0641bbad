"""Waiting for processes that are not our own children."""

import os
import select
from contextlib import suppress
from pathlib import Path

__all__ = ["children_of", "ended_within"]


def ended_within(process_fd: int, timeout_s: float) -> bool:
    """Whether the process behind a pidfd ends in time; closes the descriptor."""
    try:
        return bool(select.select([process_fd], [], [], timeout_s)[0])
    finally:
        os.close(process_fd)


def children_of(pid: int) -> set[int]:
    """Ids of a process's children, zombies included, as the kernel lists them (Linux)."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found.update(map(int, path.read_text().split()))
    return found
