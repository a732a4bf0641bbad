"""What one check found."""

from enum import StrEnum

from msgspec import Struct

__all__ = ["Finding", "State", "bad", "fine", "warn"]


class State(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"  # it works, or may; worth knowing
    BAD = "bad"  # it does not work, or data is in danger


class Finding(Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str
    state: State
    found: str
    advice: str  # what to do; empty when there is nothing to do


def fine(name: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(name=name, state=State.OK, found=found, advice="")


def warn(name: str, found: str, advice: str) -> Finding:
    """Worth knowing."""
    return Finding(name=name, state=State.WARN, found=found, advice=advice)


def bad(name: str, found: str, advice: str) -> Finding:
    """In the way."""
    return Finding(name=name, state=State.BAD, found=found, advice=advice)
