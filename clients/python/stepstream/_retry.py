"""When a call is made again that found the service unavailable; pure, time and luck come in."""

import random

from stepstream.errors import Unavailable

__all__ = ["Retry"]

_FIRST_S = 0.1
_MAX_S = 2.0
_JITTER = 0.2


class Retry:
    """The attempts of one call.

    Args:
        now_mono: The monotonic clock at the start, seconds.
        timeout_s: How long the call may take in all, retries included.
        retry_s: How long UNAVAILABLE is retried; None: as long as timeout_s allows.
    """

    def __init__(self, *, now_mono: float, timeout_s: float, retry_s: float | None = None) -> None:
        self._end_mono = now_mono + timeout_s
        patience_s = timeout_s if retry_s is None else min(retry_s, timeout_s)
        self._patience_end_mono = now_mono + patience_s
        self._delay_s = _FIRST_S

    def remaining_s(self, now_mono: float) -> float:
        """Seconds that the next attempt may take."""
        return max(self._end_mono - now_mono, 0.001)

    def pause_s(self, error: Exception, now_mono: float, luck: random.Random) -> float:
        """Seconds to wait before the next attempt: 0.1 doubling to 2, ±20 %, or what was asked for.

        Raises:
            Exception: the given one, when another attempt does not help or there is no time for it.
        """
        if not isinstance(error, Unavailable):
            raise error
        pause_s = self._delay_s * luck.uniform(1 - _JITTER, 1 + _JITTER)
        pause_s = max(pause_s, error.retry_after_s or 0.0)
        self._delay_s = min(self._delay_s * 2, _MAX_S)
        if now_mono + pause_s >= self._patience_end_mono:
            raise error
        return pause_s
