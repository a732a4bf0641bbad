"""What counts as growth."""

import pytest

from tests.soak.verdict import Bound, judge

FLAT = [100.0] * 50


@pytest.mark.parametrize(
    ("last", "bound", "holds"),
    [
        (105.0, Bound(share=0.05), True),
        (105.1, Bound(share=0.05), False),
        (102.0, Bound(amount=2), True),
        (102.1, Bound(amount=2), False),
        (50.0, Bound(), True),
    ],
)
def test_growth_up_to_the_bound_holds(last: float, bound: Bound, holds: bool):
    verdict = judge("memory", [*FLAT, *[last] * 50], bound)

    assert (verdict.first, verdict.last, verdict.holds) == (100.0, last, holds)


def test_single_peaks_are_looked_past():
    assert judge("memory", [*FLAT, 1000.0], Bound()).holds


def test_too_few_samples_are_no_verdict():
    with pytest.raises(ValueError, match="4 samples are too few"):
        judge("memory", [1.0] * 4, Bound())
