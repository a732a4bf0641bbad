"""When a step runs again after a failure or a loss."""

from __future__ import annotations

from typing import Final

from stepstream_dispatcher.core.pipeline import RetryPolicy

__all__ = ["loss_delay_ms", "release_delay_ms", "retry_delay_ms"]

_LOSS_DELAYS_MS: Final = (1_000, 2_000, 4_000)
_RELEASE_DELAY_MIN_MS: Final = 1_000
_RELEASE_DELAY_MAX_MS: Final = 30_000
_EXPONENT_MAX: Final = 256  # 10 ** 256 days is still a float


def retry_delay_ms(policy: RetryPolicy, failures: int, rand: float) -> int:
    """Return the delay before the next attempt: 1 s, 2 s, 4 s ... with jitter.

    What the jitter adds beyond `max_ms` is taken off instead, so that delays at the limit stay
    spread and never pass it.

    Args:
        policy: The step's retry policy.
        failures: Charged failures of the step so far, at least 1.
        rand: A random number, 0 to 1.
    """
    grown = policy.initial_ms * policy.factor ** min(failures - 1, _EXPONENT_MAX)
    spread = min(grown, policy.max_ms) * (1 + policy.jitter * (2 * rand - 1))
    return max(0, round(min(spread, 2 * policy.max_ms - spread)))


def loss_delay_ms(losses: int, waited_ms: int) -> int:
    """Return how long a lost step still waits: 1 s, 2 s, then 4 s from the loss itself.

    Args:
        losses: Workers lost with the step so far, at least 1.
        waited_ms: Time since the worker was last known to live.
    """
    delay_ms = _LOSS_DELAYS_MS[min(losses, len(_LOSS_DELAYS_MS)) - 1]
    return max(0, delay_ms - waited_ms)


def release_delay_ms(releases: int) -> int:
    """Return how long a step waits that is given back again: 0, 1 s, 2 s, 4 s ... 30 s.

    So a step that is given back whenever it is handed out goes round in no circle, uncharged as
    it is.

    Args:
        releases: Times in a row that it was given back without need so far, at least 1.
    """
    if releases <= 1:
        return 0
    return min(_RELEASE_DELAY_MIN_MS << min(releases - 2, _EXPONENT_MAX), _RELEASE_DELAY_MAX_MS)
