"""Whether a worker's steps are short."""

from __future__ import annotations

import pytest

from stepstream.worker.step_length import StepLength


def after(*ran_s: float) -> StepLength:
    length = StepLength()
    for one in ran_s:
        length.ended(one)
    return length


@pytest.mark.parametrize(
    ("ran_s", "is_short"),
    [
        ([], False),
        ([0.1], True),
        ([0.199], True),
        ([0.2], False),
        ([0.25, 0.25, 0.25], False),
        ([0.1, 0.25, 0.25, 0.25], True),
        ([0.1, 1.0], False),
        ([0.1, 1.0, *[0.1] * 10], False),
        ([0.1, 1.0, *[0.1] * 20], True),
        ([5.0, *[0.1] * 30], False),
        ([5.0, *[0.1] * 40], True),
    ],
)
def test_a_long_step_counts_at_once_and_a_short_one_little_by_little(
    ran_s: list[float], is_short: bool
) -> None:
    assert after(*ran_s).is_short is is_short


@pytest.mark.parametrize(("running_s", "is_short"), [(0.05, True), (0.29, True), (0.5, False)])
def test_what_runs_and_has_not_ended_counts_too(running_s: float, is_short: bool) -> None:
    length = after(0.1)

    length.at_least(running_s)

    assert length.is_short is is_short


def test_what_runs_does_not_make_steps_short() -> None:
    length = StepLength()

    length.at_least(0.1)

    assert not length.is_short
