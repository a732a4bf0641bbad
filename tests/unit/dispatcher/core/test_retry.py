"""Delays after failures and losses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_dispatcher.core.pipeline import RetryPolicy
from stepstream_dispatcher.core.retry import loss_delay_ms, release_delay_ms, retry_delay_ms

policies = st.builds(
    RetryPolicy,
    initial_ms=st.integers(1, 60_000),
    factor=st.floats(1, 10),
    max_ms=st.integers(60_000, 86_400_000),
    jitter=st.floats(0, 1),
)
shares = st.floats(0, 1)


@pytest.mark.parametrize(("failures", "expected_ms"), [(1, 1000), (2, 2000), (3, 4000), (7, 60000)])
def test_default_delays_double_up_to_the_limit(failures: int, expected_ms: int):
    assert retry_delay_ms(RetryPolicy(), failures, 0.5) == expected_ms


@pytest.mark.parametrize(("rand", "expected_ms"), [(0.0, 1600), (0.5, 2000), (1.0, 2400)])
def test_jitter_is_a_fifth_either_way(rand: float, expected_ms: int):
    assert retry_delay_ms(RetryPolicy(), 2, rand) == expected_ms


@given(policies, st.integers(1, 10_000), shares)
def test_delay_is_within_jitter_of_the_grown_one_and_never_over_the_limit(
    policy: RetryPolicy, failures: int, rand: float
):
    delay_ms = retry_delay_ms(policy, failures, rand)

    whole_ms = min(policy.initial_ms * policy.factor ** min(failures - 1, 256), policy.max_ms)
    assert whole_ms * (1 - policy.jitter) - 1 <= delay_ms <= whole_ms * (1 + policy.jitter) + 1
    assert 0 <= delay_ms <= policy.max_ms


@given(policies, st.integers(1, 200))
def test_without_chance_no_delay_is_shorter_than_the_one_before(policy: RetryPolicy, failures: int):
    assert retry_delay_ms(policy, failures, 0.5) <= retry_delay_ms(policy, failures + 1, 0.5)


def test_delays_at_the_limit_stay_spread():
    delays = {retry_delay_ms(RetryPolicy(), 50, share / 10) for share in range(11)}

    assert max(delays) == 60_000
    assert len(delays) == 6  # what is over the limit is folded onto what is below


@pytest.mark.parametrize(
    ("losses", "waited_ms", "expected_ms"),
    [(1, 0, 1000), (2, 0, 2000), (3, 0, 4000), (9, 0, 4000), (1, 400, 600), (1, 1500, 0)],
)
def test_loss_delays_count_from_the_loss_itself(losses: int, waited_ms: int, expected_ms: int):
    assert loss_delay_ms(losses, waited_ms) == expected_ms


@given(st.integers(1, 1000), st.integers(0, 10**9))
def test_loss_delay_is_never_negative_nor_over_four_seconds(losses: int, waited_ms: int):
    assert 0 <= loss_delay_ms(losses, waited_ms) <= 4000


def test_release_delays_double_from_the_second_in_a_row_up_to_a_limit():
    delays = [release_delay_ms(releases) for releases in (1, 2, 3, 4, 5, 6, 7, 8, 1_000)]

    assert delays == [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
