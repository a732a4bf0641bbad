"""How fast lanes are served, so that the feeder knows how much it may read ahead."""

from __future__ import annotations

import math
from typing import Final

import msgspec

__all__ = ["Pace"]

GAP_MAX_S: Final = (
    0.125  # between two rounds; what is read ahead then finds room in about this time
)
AHEAD_MAX: Final = 64  # entries of a lane: a dispatcher that dies keeps them from others
REST_S: Final = 10.0  # nothing is read ahead of a lane for so long after that was in vain
WEIGHT: Final = 0.2  # of the latest round, in the running means


class _Lane(msgspec.Struct):
    leased_mono: float
    gap_s: float = math.inf  # between two rounds, running mean
    size: float = 1.0  # entries of a round, likewise
    rests_until_mono: float = -math.inf


class Pace:
    """Follows the rounds in which entries of each lane are leased."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    def leased(self, queue: str, amount: int, now_mono: float) -> None:
        """Note a round: so many entries of a lane were leased together."""
        lane = self._lanes.get(queue)
        if lane is None:
            self._lanes[queue] = _Lane(leased_mono=now_mono, size=amount)
            return
        gap_s = now_mono - lane.leased_mono
        steady = lane.gap_s <= GAP_MAX_S and gap_s <= GAP_MAX_S
        lane.gap_s = _mean(lane.gap_s, gap_s) if steady else gap_s
        lane.size = _mean(lane.size, amount)
        lane.leased_mono = now_mono

    def in_vain(self, queue: str, now_mono: float) -> None:
        """Note that what was read of a lane has found no room."""
        if queue in self._lanes:
            self._lanes[queue].rests_until_mono = now_mono + REST_S

    def ahead(self, queue: str, now_mono: float) -> int:
        """How many entries of a lane are likely to find room within a moment."""
        lane = self._lanes.get(queue)
        if lane is None or now_mono < lane.rests_until_mono:
            return 0
        since_s = now_mono - lane.leased_mono
        if max(lane.gap_s, since_s) > GAP_MAX_S:
            return 0
        return min(math.ceil(lane.size), AHEAD_MAX)


def _mean(before: float, latest: float) -> float:
    return before + WEIGHT * (latest - before)
