"""How long a worker's steps take of late, for whether it takes some ahead of its slots.

Theory of operation. Between a result and the next attempt lie some milliseconds, to the dispatcher
and Redis and back, in which a slot has nothing to do. A worker whose steps are short takes some
attempts beyond its slots, at most as many as it has slots: each waits here for about one step, and
no slot waits. Where steps are long there is little to gain, and what waits here could run
elsewhere. So a long step counts at once, and a short one little by little.
"""

from __future__ import annotations

__all__ = ["StepLength"]

SHORT_S = 0.2  # steps that take less are short; the few milliseconds are 2 % of such a one
LONG_S = 0.3  # those that take more are not; between the two it stays as it was
WEIGHT_OF_LONGER = 0.5  # of a step that takes longer than those before, in what they take
WEIGHT_OF_SHORTER = 0.1  # of one that does not


class StepLength:
    """What a step takes, and whether that is short; it is not before the first has ended."""

    def __init__(self) -> None:
        self._typical_s: float | None = None
        self.is_short = False

    def ended(self, ran_s: float) -> None:
        """Hear how long a step ran."""
        if self._typical_s is None:
            self._typical_s = ran_s
        weight = WEIGHT_OF_LONGER if ran_s > self._typical_s else WEIGHT_OF_SHORTER
        self._typical_s += weight * (ran_s - self._typical_s)
        if self._typical_s < SHORT_S:
            self.is_short = True
        elif self._typical_s > LONG_S:
            self.is_short = False

    def at_least(self, running_s: float) -> None:
        """Hear that steps have been running for so long and have not ended."""
        if self._typical_s is None or self._typical_s < running_s:
            self._typical_s = running_s
            self.is_short = running_s < LONG_S and self.is_short
