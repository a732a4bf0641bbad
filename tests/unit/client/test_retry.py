"""When a call is made again, and for how long."""

import random

import pytest

from stepstream._calls import Call, submit
from stepstream._channel import Endpoints
from stepstream._retry import Limits, Retry
from stepstream.errors import (
    Draining,
    QueueFull,
    RateLimited,
    StepstreamError,
    StoreBusy,
    StoreUnavailable,
    TaskContended,
    TaskNotFound,
    Unavailable,
)
from stepstream.types import SubmitItem

_LUCK = random.Random(1)
_ONE = "a:1"


def pause_s(
    retry: Retry, error: Exception, now_mono: float = 0.0, endpoints: Endpoints | None = None
) -> float | None:
    endpoints = endpoints or Endpoints(_ONE)
    return retry.pause_s(error, endpoints, endpoints.current, now_mono=now_mono, luck=_LUCK)


def test_pauses_double_from_a_tenth_to_two_seconds():
    retry, endpoints = Retry(now_mono=0.0, timeout_s=100.0), Endpoints(_ONE)

    pauses = [pause_s(retry, Unavailable(), 0.0, endpoints) for _ in range(7)]

    assert pauses == [pytest.approx(s, rel=0.2) for s in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)]


def test_another_address_is_tried_without_a_pause():
    retry, endpoints = Retry(now_mono=0.0, timeout_s=100.0), Endpoints("a:1,b:1")

    first, second = (pause_s(retry, Unavailable(), 0.0, endpoints) for _ in range(2))

    assert first == 0.0
    assert second == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("kind", [Unavailable, Draining, StoreUnavailable])
def test_a_delay_that_the_server_asks_for_is_kept(kind: type[StepstreamError]):
    assert pause_s(Retry(now_mono=0.0, timeout_s=100.0), kind(retry_after_s=7.0)) == 7.0


@pytest.mark.parametrize("kind", [QueueFull, RateLimited, StoreBusy])
def test_a_refusal_that_says_when_to_come_back_is_taken_at_its_word(kind: type[StepstreamError]):
    pause = pause_s(Retry(now_mono=0.0, timeout_s=100.0), kind(retry_after_s=5.0))

    assert pause is not None
    assert 5.0 <= pause <= 6.0


def test_overload_leaves_the_address_as_it_is():
    endpoints = Endpoints("a:1,b:1")

    pause_s(Retry(now_mono=0.0, timeout_s=100.0), QueueFull(retry_after_s=1.0), 0.0, endpoints)

    assert endpoints.current == "a:1"


def test_contention_is_tried_again():
    assert pause_s(Retry(now_mono=0.0, timeout_s=9.0), TaskContended()) == pytest.approx(0.1, 0.2)


def test_there_is_no_attempt_after_the_timeout():
    retry = Retry(now_mono=0.0, timeout_s=10.0)

    assert pause_s(retry, Unavailable(), 9.5) is not None
    assert pause_s(retry, Unavailable(), 9.95) is None


@pytest.mark.parametrize("error", [Unavailable(), TaskContended(), QueueFull(retry_after_s=0.0)])
def test_without_patience_there_is_one_attempt(error: Exception):
    assert pause_s(Retry(now_mono=0.0, timeout_s=10.0, patience_s=0.0), error) is None


def test_patience_begins_anew_after_an_attempt_that_had_somebody_at_its_other_end():
    retry = Retry(now_mono=0.0, timeout_s=600.0, patience_s=30.0)

    retry.begin_s(0.0)
    broken_after_s = 300.0

    assert pause_s(retry, Unavailable(), broken_after_s) is not None
    retry.begin_s(broken_after_s + 29.0)
    assert pause_s(retry, Unavailable(), broken_after_s + 29.95) is None


@pytest.mark.parametrize("error", [QueueFull(), TaskNotFound(), TimeoutError(), ValueError()])
def test_other_errors_are_not_retried(error: Exception):
    assert pause_s(Retry(now_mono=0.0, timeout_s=10.0), error) is None


SUBMIT = submit(SubmitItem(pipeline="p", input=None))
READ = Call(method="GetTask", request=None, read=str)


@pytest.mark.parametrize(
    ("call", "given_s", "timeout_s", "patience_s"),
    [
        (READ, None, 30.0, 30.0),
        (READ, 5.0, 5.0, 5.0),
        (SUBMIT, None, 600.0, 30.0),
        (SUBMIT, 5.0, 5.0, 5.0),
        (SUBMIT, 900.0, 900.0, 900.0),
    ],
)
def test_a_submit_may_take_longer_than_it_may_be_unanswered(call, given_s, timeout_s, patience_s):
    limits = Limits(timeout_s=30.0, submit_timeout_s=600.0, retry_s=None)

    retry = limits.of_call(call, given_s, 0.0)

    assert retry.begin_s(0.0) == timeout_s
    retry.begin_s(patience_s - 0.5)
    assert pause_s(retry, Unavailable(), patience_s - 0.5) is not None
    retry.begin_s(patience_s)
    assert pause_s(retry, Unavailable(), patience_s) is None


@pytest.mark.parametrize("resumed", [True, False])
def test_a_watch_that_was_silent_for_an_hour_goes_on_after_a_break(resumed):
    limits = Limits(timeout_s=30.0, submit_timeout_s=60.0, retry_s=None)
    retry = limits.of_watch(0.0, resumed=resumed)

    retry.begin_s(0.0)
    at_the_break = pause_s(retry, Unavailable(), 3600.0)
    retry.begin_s(3600.1)
    in_time = pause_s(retry, Unavailable(), 3601.0)
    retry.begin_s(3629.0)
    too_late = pause_s(retry, Unavailable(), 3630.0)

    assert at_the_break is not None
    assert in_time is not None
    assert too_late is None


def test_a_watch_that_is_opened_has_no_more_patience_than_was_given():
    limits = Limits(timeout_s=30.0, submit_timeout_s=60.0, retry_s=1.0)

    assert pause_s(limits.of_watch(0.0, resumed=False), Unavailable(), 1.0) is None
    assert pause_s(limits.of_watch(0.0, resumed=True), Unavailable(), 1.0) is not None
