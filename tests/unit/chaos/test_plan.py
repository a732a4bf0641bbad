"""The plan of faults is a function of the seed and the length."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.chaos.plan import KINDS, WINDOW_S, Size, plan

SIZE = Size(workers=8, dispatchers=3)
SEEDS = range(20)
FAULTS_MIN = 25


@pytest.mark.parametrize("seed", SEEDS)
def test_every_run_has_all_kinds_and_enough_faults(seed: int):
    faults = plan(seed, WINDOW_S, SIZE)

    assert {fault.kind for fault in faults} == {kind.name for kind in KINDS}
    assert len(faults) >= FAULTS_MIN


@pytest.mark.parametrize("seed", SEEDS)
def test_all_faults_end_in_the_window(seed: int):
    assert all(
        0 <= one.start_s <= one.start_s + one.lasts_s <= WINDOW_S
        for one in plan(seed, WINDOW_S, SIZE)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_overlap(seed: int):
    faults = plan(seed, WINDOW_S, SIZE)

    assert any(a.start_s + a.lasts_s > b.start_s for a, b in pairwise(faults))


def test_the_same_seed_is_the_same_plan():
    assert plan(7, WINDOW_S, SIZE) == plan(7, WINDOW_S, SIZE)


def test_another_seed_is_another_plan():
    assert plan(7, WINDOW_S, SIZE) != plan(8, WINDOW_S, SIZE)


def test_a_longer_run_has_more_faults_in_proportion():
    short, long = (len(plan(1, times * WINDOW_S, SIZE)) for times in (1, 5))

    assert long >= 4 * short


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_done_to_a_worker_that_has_a_fault(seed: int):
    ends: dict[str, float] = {}
    for fault in plan(seed, WINDOW_S, SIZE):
        assert fault.start_s >= ends.get(fault.target, 0.0) or not fault.target.startswith("w-")
        ends[fault.target] = fault.start_s + fault.lasts_s


def test_a_window_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="too short"):
        plan(1, 20.0, SIZE)
