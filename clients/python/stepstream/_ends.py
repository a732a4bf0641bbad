"""One timer for the limits of many calls, of which hardly any is reached."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["LOOK_S", "Ends"]

LOOK_S: Final = 0.02  # between two looks at all limits, so that many that end cost little


class Ends:
    """One timer for many limits, set to the earliest of them.

    Args:
        look: Ends what is late by a monotonic time, and says when the others will be.
    """

    def __init__(self, look: Callable[[float], Iterable[float]]) -> None:
        self._look = look
        self._earliest_mono = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, end_mono: float) -> None:
        """Look when this limit is reached, if not before."""
        if end_mono >= self._earliest_mono:
            return
        self.forget()
        self._earliest_mono = end_mono
        delay_s = end_mono - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._reached)

    def forget(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._earliest_mono = None, math.inf

    def _reached(self) -> None:
        self.forget()
        now_mono = time.monotonic()
        next_mono = min(self._look(now_mono), default=math.inf)
        self.expect(max(next_mono, now_mono + LOOK_S))
