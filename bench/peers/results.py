"""What has been measured: medians, ratios to ours, the table and the file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.peers.killing import LIMIT_S, Killed
from bench.peers.measures import Measure

__all__ = ["Taken", "kill_table", "median", "ratio", "table"]


@dataclass(frozen=True)
class Taken:
    """One value of one round."""

    round: int
    peer: str
    measure: str
    value: float


def median(taken: Sequence[Taken], peer: str, measure: Measure) -> float | None:
    """The median of a peer's rounds; None if it has none."""
    values = _by_round(taken, peer, measure)
    return statistics.median(values.values()) if values else None


def ratio(taken: Sequence[Taken], ours: str, peer: str, measure: Measure) -> float | None:
    """How many times as fast as the peer we are: the median over the rounds that both have."""
    mine, theirs = _by_round(taken, ours, measure), _by_round(taken, peer, measure)
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return None
    faster = statistics.median(mine[each] / theirs[each] for each in both)
    return faster if measure.is_rate else 1 / faster


def table(
    taken: Sequence[Taken], ours: str, versions: dict[str, str], measures: Sequence[Measure]
) -> Table:
    """A line for each peer: the median, and in brackets how many times as fast we are."""
    drawn = Table("peer", "version", title="median of the rounds (ours is so many times as fast)")
    for measure in measures:
        drawn.add_column(
            f"{measure.name}, {'tasks/s' if measure.is_rate else 's'}", justify="right"
        )
    for peer, version in versions.items():
        cells = [_cell(taken, ours, peer, measure) for measure in measures]
        drawn.add_row(peer, version, *cells)
    return drawn


def kill_table(killed: dict[str, Killed]) -> Table:
    """A line for each peer of which a worker was killed."""
    drawn = Table("peer", "ran", "run again after", "not done 10 s later", title="a killed worker")
    for peer, one in killed.items():
        back = f"not within {LIMIT_S:.0f} s" if one.seconds is None else f"{one.seconds:.1f} s"
        drawn.add_row(peer, str(one.held), back, str(one.undone))
    return drawn


def _cell(taken: Sequence[Taken], ours: str, peer: str, measure: Measure) -> str:
    value = median(taken, peer, measure)
    if value is None:
        return "-"
    shown = f"{value:,.0f}" if measure.is_rate else f"{value:.3f}"
    faster = None if peer == ours else ratio(taken, ours, peer, measure)
    return shown if faster is None else f"{shown} ({faster:.2f})"


def _by_round(taken: Sequence[Taken], peer: str, measure: Measure) -> dict[int, float]:
    return {
        one.round: one.value for one in taken if (one.peer, one.measure) == (peer, measure.name)
    }
