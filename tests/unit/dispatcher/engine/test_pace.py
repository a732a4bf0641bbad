"""How much is read ahead: a round of a lane that is served in quick rounds, and nothing else."""

import pytest

from stepstream_dispatcher.engine.pace import AHEAD_MAX, GAP_MAX_S, REST_S, Pace


def served(*rounds: tuple[float, int]) -> Pace:
    """A pace that has seen rounds of one lane: when, and how many entries."""
    pace = Pace()
    for at, amount in rounds:
        pace.leased("default", amount, at)
    return pace


@pytest.mark.parametrize("rounds", [[], [(1.0, 1)]])
def test_what_was_not_served_twice_has_no_pace(rounds: list[tuple[float, int]]):
    assert served(*rounds).ahead("default", 1.0) == 0


def test_a_round_is_read_ahead_of_a_quick_lane():
    pace = served((1.0, 3), (1.1, 3), (1.2, 3))

    assert pace.ahead("default", 1.25) == 3
    assert pace.ahead("checks", 1.25) == 0


def test_a_lane_that_stands_still_has_nothing_read_ahead():
    assert served((1.0, 1), (1.1, 1)).ahead("default", 1.1 + 2 * GAP_MAX_S) == 0


def test_steps_that_end_together_and_seldom_are_no_quick_lane():
    assert served((1.0, 20), (2.5, 20), (4.0, 20)).ahead("default", 4.0) == 0


def test_a_pause_begins_the_count_anew():
    pace = served((1.0, 1), (1.1, 1), (9.0, 1))
    assert pace.ahead("default", 9.0) == 0

    pace.leased("default", 1, 9.1)
    assert pace.ahead("default", 9.1) == 1


def test_a_lane_rests_after_something_was_read_in_vain():
    pace = served((1.0, 1), (1.1, 1))
    pace.in_vain("default", 1.1)
    for number in range(1, 200):
        pace.leased("default", 1, 1.1 + number / 10)

    assert pace.ahead("default", 1.1 + REST_S - 0.05) == 0
    assert pace.ahead("default", 1.1 + 19.95) == 1


def test_there_is_a_limit():
    assert served((1.0, 256), (1.01, 256), (1.02, 256)).ahead("default", 1.02) == AHEAD_MAX
