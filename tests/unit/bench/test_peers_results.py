"""Medians, and how many times as fast we are."""

import pytest
from rich.console import Console

from bench.peers.killing import Killed
from bench.peers.measures import Measure
from bench.peers.results import Taken, kill_table, median, ratio, table

RATE = Measure("noop", is_rate=True, take=lambda _peer, _home: 0.0)
SECONDS = Measure("1x1", is_rate=False, take=lambda _peer, _home: 0.0)


def taken(peer: str, *values: float, measure: Measure = RATE) -> list[Taken]:
    return [Taken(number, peer, measure.name, value) for number, value in enumerate(values, 1)]


def shown(drawn: object) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


def test_the_median_is_of_the_peer_and_the_measure():
    rounds = [*taken("a", 1.0, 9.0, 2.0), *taken("a", 50.0, measure=SECONDS), *taken("b", 70.0)]

    assert median(rounds, "a", RATE) == 2.0


def test_nothing_measured_has_no_median_and_no_ratio():
    assert median([], "a", RATE) is None
    assert ratio(taken("ours", 1.0), "ours", "a", RATE) is None


@pytest.mark.parametrize(("measure", "faster"), [(RATE, 2.0), (SECONDS, 0.5)])
def test_a_rate_is_better_when_more_and_seconds_when_less(measure: Measure, faster: float):
    rounds = [*taken("ours", 10.0, measure=measure), *taken("peer", 5.0, measure=measure)]

    assert ratio(rounds, "ours", "peer", measure) == faster


def test_ratios_compare_values_of_one_round():
    """The machine was half as fast in the second round: that says nothing about either."""
    rounds = [*taken("ours", 20.0, 10.0, 20.0), *taken("peer", 10.0, 5.0, 10.0)]

    assert ratio(rounds, "ours", "peer", RATE) == 2.0


def test_rounds_that_only_one_has_are_left_out_of_the_ratio():
    rounds = [*taken("ours", 10.0, 99.0), Taken(1, "peer", "noop", 5.0)]

    assert ratio(rounds, "ours", "peer", RATE) == 2.0


def test_the_table_has_a_line_for_each_peer():
    rounds = [*taken("ours", 10_000.0), *taken("peer", 4_000.0)]

    text = shown(table(rounds, "ours", {"ours": "1.0", "peer": "2.0"}, [RATE, SECONDS]))

    assert "noop, tasks/s" in text
    assert [line.split("│")[3].strip() for line in text.splitlines() if "│" in line] == [
        "10,000",
        "4,000 (2.50)",
    ]


def test_tasks_that_stay_away_are_said_to():
    text = shown(kill_table({"a": Killed(4, 1.25, 0), "b": Killed(4, None, 4)}))

    assert "1.2 s" in text
    assert "not within 120 s" in text
