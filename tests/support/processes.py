"""Waiting for processes that are not our own children."""

import os
import select
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
    listed = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return {int(child) for one in listed for child in one}
