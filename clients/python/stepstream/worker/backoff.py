"""How long to wait before the next dial."""

from __future__ import annotations

import random

__all__ = ["Backoff"]

_FIRST_S = 0.05
_EARLY_MAX_S = 0.5  # a dispatcher waits 1.5 s for its workers, so the early tries are dense
_EARLY_S = 20.0  # by then the others have taken over, and haste helps nobody
_LATE_MAX_S = 5.0
_JITTER = 0.5  # spread of workers that lost the same dispatcher at the same moment


class Backoff:
    """At once, then 50 ms doubling to 500 ms, and to 5 s after 20 s; each ±50 %.

    Args:
        rng: Source of the jitter.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._since_mono: float | None = None
        self._delay_s = 0.0

    def reset(self) -> None:
        """A session is open: the next loss starts from the beginning."""
        self._since_mono = None
        self._delay_s = 0.0

    def next_delay_s(self, now_mono: float) -> float:
        """Seconds to wait before the dial that is due; 0 for the first."""
        if self._since_mono is None:
            self._since_mono = now_mono
            return 0.0
        early = now_mono - self._since_mono < _EARLY_S
        doubled = max(_FIRST_S, self._delay_s * 2)
        self._delay_s = min(doubled, _EARLY_MAX_S if early else _LATE_MAX_S)
        return self._delay_s * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
