"""How fast lanes are served, so that the feeder knows how much it may read ahead."""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["Pace"]

WINDOW_S: Final = 0.25  # what is read ahead finds room in about this time


class Pace:
    """Counts leases by lane, of the last one to two windows."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._since_mono = 0.0

    def count(self, queue: str, now_mono: float) -> None:
        """Note the lease of an entry of a lane."""
        self._turn(now_mono)
        self._now[queue] += 1

    def ahead(self, queue: str, now_mono: float) -> int:
        """How many entries of a lane are likely to find room within a window."""
        self._turn(now_mono)
        return max(self._now[queue], self._before[queue])

    def _turn(self, now_mono: float) -> None:
        windows = int((now_mono - self._since_mono) / WINDOW_S)
        if windows < 1:
            return
        self._before = self._now if windows == 1 else Counter()
        self._now = Counter()
        self._since_mono += windows * WINDOW_S
