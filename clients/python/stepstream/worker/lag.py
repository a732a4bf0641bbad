"""How late an event loop runs, readable from another thread."""

from __future__ import annotations

import asyncio
from time import monotonic

__all__ = ["LagMeter"]

_TICK_S = 0.25  # four looks a second cost nothing measurable


class LagMeter:
    """Looks every quarter of a second how late its own timer is.

    Args:
        loop: The loop to watch.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due_mono = monotonic() + _TICK_S
        self._last_s = 0.0
        self._timer = loop.call_later(_TICK_S, self._tick)

    def lag_s(self) -> float:
        """Seconds by which the loop is late: now, while it is blocked, or at its latest tick."""
        return max(self._last_s, monotonic() - self._due_mono, 0.0)

    def stop(self) -> None:
        """Looks no more; call it on the loop."""
        self._timer.cancel()

    def _tick(self) -> None:
        now_mono = monotonic()
        self._last_s = max(0.0, now_mono - self._due_mono)
        self._due_mono = now_mono + _TICK_S
        self._timer = self._loop.call_later(_TICK_S, self._tick)
