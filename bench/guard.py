"""`make bench-check`: ratios that must hold on any machine, from bench/thresholds.toml.

Seconds differ from machine to machine; what arrives end to end of the limit that was measured in
the same rounds differs little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.figures import Measured, Ratio

__all__ = ["THRESHOLDS", "Threshold", "failures", "holds", "median_of", "read_thresholds"]

THRESHOLDS: Final = Path(__file__).with_name("thresholds.toml")


class Threshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the median of one ratio has to be."""

    of: str
    to: str
    least: float | None = None
    most: float | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ratio: list[Threshold]


def read_thresholds(ratios: Iterable[Ratio], path: Path = THRESHOLDS) -> tuple[Threshold, ...]:
    """Read the file.

    Raises:
        ValueError: It names a ratio that is not measured, or says no bound for one.
    """
    known = {(ratio.of, ratio.to) for ratio in ratios}
    thresholds = msgspec.toml.decode(path.read_bytes(), type=_File).ratio
    for threshold in thresholds:
        name = f"{threshold.of} / {threshold.to}"
        if (threshold.of, threshold.to) not in known:
            raise ValueError(f"{path.name}: nothing measures the ratio {name}")
        if threshold.least is None and threshold.most is None:
            raise ValueError(f"{path.name}: {name} has neither least nor most")
    return tuple(thresholds)


def holds(median: float | None, threshold: Threshold) -> bool:
    """Whether a median is within the bounds; one that was not measured is not."""
    if median is None:
        return False
    above = threshold.least is None or median >= threshold.least
    return above and (threshold.most is None or median <= threshold.most)


def median_of(measured: Measured, threshold: Threshold) -> float | None:
    """The median of the threshold's ratio, if it was measured."""
    spread = measured.ratio(Ratio(of=threshold.of, to=threshold.to, explains=""))
    return spread.median if spread else None


def failures(measured: Measured, thresholds: Sequence[Threshold]) -> list[Threshold]:
    """The thresholds that do not hold."""
    return [one for one in thresholds if not holds(median_of(measured, one), one)]
