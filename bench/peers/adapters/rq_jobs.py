"""The jobs of rq, which its workers import by name."""

from __future__ import annotations

import time

from reporting import HELD_S, STEP_S, begun, ended


def noop(payload: str) -> None:
    """Do nothing."""
    ended(payload)


def sleep(payload: str) -> None:
    """Wait as for a service."""
    time.sleep(STEP_S)
    ended(payload)


def hold(payload: str) -> None:
    """Say when it begins, and wait."""
    begun(payload)
    time.sleep(HELD_S)
    ended(payload)
