"""Medians, percentiles, and ratios within rounds."""

import pytest

from bench.figures import Figure, Measured, Ratio, Spread, percentile

RATIO = Ratio(of="a.fast", to="a.slow", explains="")


def figures() -> Measured:
    return Measured(Figure(name=name, unit="s", explains="") for name in ("a.fast", "a.slow"))


def measured(**samples: list[float]) -> Measured:
    result = figures()
    for name, values in samples.items():
        for value in values:
            result.add(f"a.{name}", value)
    return result


def test_a_figure_is_the_median_of_its_rounds():
    spread = measured(fast=[3.0, 100.0, 2.0]).spread("a.fast")

    assert spread == Spread(median=3.0, least=2.0, most=100.0, rounds=3)


def test_what_was_not_measured_has_no_median():
    assert figures().spread("a.fast") is None


def test_ratios_are_taken_within_rounds():
    """Of the medians, 4 and 2, it would be 2."""
    spread = measured(fast=[1.0, 4.0, 9.0], slow=[1.0, 2.0, 3.0]).ratio(RATIO)

    assert spread == Spread(median=2.0, least=1.0, most=3.0, rounds=3)


@pytest.mark.parametrize("side", ["fast", "slow"])
def test_half_a_ratio_is_none(side: str):
    assert measured(**{side: [1.0]}).ratio(RATIO) is None


def test_figures_that_nobody_has_described_are_refused():
    with pytest.raises(AssertionError, match=r"a\.other"):
        figures().add("a.other", 1.0)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_percentiles_are_samples(share: float, expected: float):
    samples = [float(value) for value in range(100, 0, -1)]

    assert percentile(samples, share) == expected
