"""When a call is made again; pure, time and luck come in.

Every call of the clients is idempotent, so one whose answer was lost may be repeated. Refusals are
final, except those that say by themselves that a later call will do.
"""

import random
from dataclasses import dataclass
from math import inf
from typing import Any

from stepstream._calls import Call
from stepstream._channel import Endpoints
from stepstream.errors import QueueFull, RateLimited, StoreBusy, TaskContended, Unavailable

__all__ = ["Limits", "Retry"]

_FIRST_S = 0.1
_MAX_S = 2.0
_SPREAD = 0.2  # later than asked for, so that the callers of an overrun service come back apart
_CONTACT_S = 3.0  # an attempt that lasted longer had somebody at the other end


class Retry:
    """The attempts of one call.

    Args:
        now_mono: The monotonic clock at the start, seconds.
        timeout_s: How long the call may take in all, retries included.
        patience_s: How long failures in a row are retried, 0: not at all; None: as long as
            timeout_s allows.
    """

    def __init__(
        self, *, now_mono: float, timeout_s: float, patience_s: float | None = None
    ) -> None:
        self._end_mono = now_mono + timeout_s
        self._patience_s = timeout_s if patience_s is None else patience_s
        self._patience_end_mono = now_mono + self._patience_s
        self._attempt_mono = now_mono
        self._delay_s = _FIRST_S

    def begin_s(self, now_mono: float) -> float:
        """An attempt begins; returns the seconds that it may take."""
        self._attempt_mono = now_mono
        return max(self._end_mono - now_mono, 0.001)

    def pause_s(
        self,
        error: Exception,
        endpoints: Endpoints,
        address: str,
        *,
        now_mono: float,
        luck: random.Random,
    ) -> float | None:
        """Seconds to wait before the next attempt.

        Args:
            error: How the attempt ended.
            endpoints: Where the next one may go.
            address: Where it went.
            now_mono: The monotonic clock, seconds.
            luck: Source of the jitter.

        Returns:
            None when another attempt does not help, or there is no time for it.
        """
        if now_mono - self._attempt_mono > _CONTACT_S:
            self._patience_end_mono = now_mono + self._patience_s
        match error:
            case Unavailable():
                pause_s = endpoints.failed(address, now_mono, luck, error.retry_after_s)
            case TaskContended():
                pause_s = self._next_delay_s() * luck.uniform(1 - _SPREAD, 1 + _SPREAD)
            case QueueFull() | RateLimited() | StoreBusy() if error.retry_after_s is not None:
                asked_s = max(error.retry_after_s, self._next_delay_s())
                pause_s = asked_s * luck.uniform(1, 1 + _SPREAD)
            case _:
                return None
        late = now_mono + pause_s >= min(self._patience_end_mono, self._end_mono)
        return None if late or self._patience_s == 0 else pause_s

    def _next_delay_s(self) -> float:
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, _MAX_S)
        return delay_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client was told about time, in seconds."""

    timeout_s: float  # of one call, retries included
    submit_timeout_s: float  # the same of a Submit
    retry_s: float | None  # how long failures are retried; None: until the call's timeout

    def of_call(self, call: Call[Any], given_s: float | None, now_mono: float) -> Retry:
        """The attempts of a call whose caller may have given a timeout.

        A Submit may take long when it is in good hands; that nobody answers is said as early as for
        any other call.
        """
        own_s = call.timeout_s if given_s is None else given_s
        patience_s = self.timeout_s if own_s is None else own_s
        timeout_s = self.submit_timeout_s if own_s is None and call.is_submit else patience_s
        if self.retry_s is not None:
            patience_s = self.retry_s
        return Retry(now_mono=now_mono, timeout_s=timeout_s, patience_s=patience_s)

    def of_watch(self, now_mono: float, *, resumed: bool) -> Retry:
        """The attempts to open a watch, or to go on with one.

        Only failures in a row are limited: a watch may have been silent for hours when it breaks.
        """
        patience_s = self.timeout_s
        if self.retry_s is not None and not resumed:
            patience_s = min(self.retry_s, self.timeout_s)
        return Retry(now_mono=now_mono, timeout_s=inf, patience_s=patience_s)
