"""Waiting for processes that are not our own children."""

import os
import select

__all__ = ["ended_within"]


def ended_within(process_fd: int, timeout_s: float) -> bool:
    """Whether the process behind a pidfd ends in time; closes the descriptor."""
    try:
        return bool(select.select([process_fd], [], [], timeout_s)[0])
    finally:
        os.close(process_fd)
