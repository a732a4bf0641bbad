"""The pauses between dials."""

import random

import pytest

from stepstream.worker.backoff import Backoff


class Middle(random.Random):
    """Jitter that is none."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def test_at_once_then_doubling_to_half_a_second_then_to_five() -> None:
    backoff = Backoff(Middle())

    early = [backoff.next_delay_s(100.0) for _ in range(7)]
    late = [backoff.next_delay_s(120.0) for _ in range(5)]

    assert early == [0, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
    assert late == [1, 2, 4, 5, 5]


def test_a_session_begins_it_anew() -> None:
    backoff = Backoff(Middle())
    for _ in range(5):
        backoff.next_delay_s(100.0)

    backoff.reset()

    assert [backoff.next_delay_s(200.0) for _ in range(2)] == [0, 0.05]


def test_the_jitter_stays_within_half() -> None:
    delays = []
    for seed in range(200):
        backoff = Backoff(random.Random(seed))
        backoff.next_delay_s(0)
        delays.append(backoff.next_delay_s(0))

    assert min(delays) >= 0.025
    assert max(delays) <= 0.075
    assert max(delays) - min(delays) == pytest.approx(0.05, abs=0.005)
