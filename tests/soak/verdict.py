"""Whether a row of figures stayed where it was; pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

__all__ = ["Bound", "Verdict", "judge"]

PART = 5  # the first and the last fifth are compared: a median of many looks past single peaks


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """How much more a figure may be at the end than at the beginning."""

    share: float = 0.0  # of what it was
    amount: float = 0.0  # and so much in any case


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One figure at the beginning and at the end."""

    name: str
    first: float
    last: float
    bound: Bound
    holds: bool

    @property
    def growth(self) -> float:
        """As a share of what it was at the beginning."""
        return (self.last - self.first) / self.first if self.first else 0.0


def judge(name: str, figures: Sequence[float], bound: Bound) -> Verdict:
    """Compare the medians of the first and of the last fifth of the figures.

    Raises:
        ValueError: There are too few figures to compare.
    """
    if len(figures) < PART:
        raise ValueError(f"{name}: {len(figures)} samples are too few to compare")
    part = len(figures) // PART
    first, last = statistics.median(figures[:part]), statistics.median(figures[-part:])
    room = max(first * bound.share, bound.amount)
    return Verdict(name=name, first=first, last=last, bound=bound, holds=last - first <= room)
