"""When a call is made again."""

import random

import pytest

from stepstream._retry import Retry
from stepstream.errors import QueueFull, Unavailable

_LUCK = random.Random(1)


def test_pauses_double_from_a_tenth_to_two_seconds():
    retry = Retry(now_mono=0.0, timeout_s=100.0)

    pauses = [retry.pause_s(Unavailable(), 0.0, _LUCK) for _ in range(7)]

    assert pauses == [pytest.approx(s, rel=0.2) for s in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)]


def test_a_delay_that_the_server_asks_for_is_kept():
    retry = Retry(now_mono=0.0, timeout_s=100.0)

    assert retry.pause_s(Unavailable(retry_after_s=7.0), 0.0, _LUCK) == 7.0


def test_there_is_no_attempt_after_the_timeout():
    error = Unavailable("gone")
    retry = Retry(now_mono=0.0, timeout_s=10.0)

    retry.pause_s(error, 9.5, _LUCK)

    with pytest.raises(Unavailable, match="gone"):
        retry.pause_s(error, 9.95, _LUCK)


def test_patience_can_be_shorter_than_the_timeout():
    retry = Retry(now_mono=0.0, timeout_s=10.0, retry_s=0.0)

    with pytest.raises(Unavailable):
        retry.pause_s(Unavailable(), 0.0, _LUCK)


@pytest.mark.parametrize("error", [QueueFull(retry_after_s=0.1), TimeoutError(), ValueError()])
def test_other_errors_are_not_retried(error):
    retry = Retry(now_mono=0.0, timeout_s=10.0)

    with pytest.raises(type(error)):
        retry.pause_s(error, 0.0, _LUCK)
