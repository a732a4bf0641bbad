"""How much is read ahead: what found room in the last window or the one before."""

from stepstream_dispatcher.engine.pace import WINDOW_S, Pace


def test_a_lane_that_was_never_served_has_nothing_read_ahead():
    assert Pace().ahead("default", 1000.0) == 0


def test_leases_count_in_their_window_and_the_next_one():
    pace = Pace()
    start = 100 * WINDOW_S
    for number in range(5):
        pace.count("default", start + number * WINDOW_S / 10)

    assert pace.ahead("default", start + 0.9 * WINDOW_S) == 5
    assert pace.ahead("default", start + 1.9 * WINDOW_S) == 5
    assert pace.ahead("default", start + 2.1 * WINDOW_S) == 0


def test_each_lane_has_its_own_pace():
    pace = Pace()
    pace.count("default", 0.0)

    assert (pace.ahead("default", 0.0), pace.ahead("checks", 0.0)) == (1, 0)


def test_after_a_pause_nothing_is_left():
    pace = Pace()
    pace.count("default", 0.0)

    assert pace.ahead("default", 60.0) == 0
