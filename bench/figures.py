"""What was measured: named figures with one sample for each round, medians, and ratios of two.

A ratio is taken within each round, and the median of those is told: what happens to the machine in
a round happens to both sides of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["Figure", "Measured", "Ratio", "Spread", "percentile", "spread_of"]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is measured once in each round."""

    name: str  # section and figure: `throughput.single`
    unit: str
    explains: str  # what it is, and from when to when
    aim: str = ""  # what the project wants of it, in words


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over another."""

    of: str
    to: str
    explains: str
    aim: str = ""

    @property
    def name(self) -> str:
        """`throughput.single / limit.single`, as thresholds name it."""
        return f"{self.of} / {self.to}"


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Samples in short."""

    median: float
    least: float
    most: float
    rounds: int


class Measured:
    """The samples of one run, by figure.

    Args:
        figures: All that may be recorded.
    """

    def __init__(self, figures: Iterable[Figure]) -> None:
        self.figures = {figure.name: figure for figure in figures}
        self.samples: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        """Record the sample of one round."""
        assert name in self.figures, name
        self.samples.setdefault(name, []).append(value)

    def spread(self, name: str) -> Spread | None:
        """The samples of a figure in short; None if it was not measured."""
        samples = self.samples.get(name)
        return spread_of(samples) if samples else None

    def ratio(self, ratio: Ratio) -> Spread | None:
        """The ratios of the rounds in short; None unless both sides were measured."""
        over, under = self.samples.get(ratio.of), self.samples.get(ratio.to)
        if not over or not under:
            return None
        return spread_of([above / below for above, below in zip(over, under, strict=True)])


def spread_of(samples: Sequence[float]) -> Spread:
    """Median, least and most of at least one sample."""
    return Spread(
        median=statistics.median(samples),
        least=min(samples),
        most=max(samples),
        rounds=len(samples),
    )


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share (0 to 1) of all does not exceed."""
    ordered = sorted(samples)
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[max(rank - 1, 0)]
