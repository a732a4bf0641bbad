"""Thresholds: how they are read, and when they hold."""

from pathlib import Path

import pytest

from bench.figures import Figure, Measured, Ratio
from bench.guard import Threshold, failures, holds, read_thresholds
from bench.run import FIGURES, RATIOS

RATIO = Ratio(of="a", to="b", explains="")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "thresholds.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("median", "least", "most", "expected"),
    [
        (0.5, 0.5, None, True),
        (0.49, 0.5, None, False),
        (1.2, None, 1.2, True),
        (1.21, None, 1.2, False),
        (0.4, 0.5, 1.2, False),
        (None, 0.5, None, False),
    ],
)
def test_bounds(median: float | None, least: float | None, most: float | None, expected: bool):
    assert holds(median, Threshold(of="a", to="b", least=least, most=most)) is expected


def test_the_median_of_the_rounds_decides():
    measured = Measured(Figure(name=name, unit="s", explains="") for name in ("a", "b"))
    for sample in (0.1, 0.6, 0.7):
        measured.add("a", sample)
        measured.add("b", 1.0)
    low, high = (Threshold(of="a", to="b", least=least) for least in (0.5, 0.65))

    assert failures(measured, [low, high]) == [high]


def test_thresholds_are_read(tmp_path: Path):
    path = written(tmp_path, '[[ratio]]\nof = "a"\nto = "b"\nleast = 0.5\n')

    assert read_thresholds([RATIO], path) == (Threshold(of="a", to="b", least=0.5),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[ratio]]\nof = "a"\nto = "c"\nleast = 1.0\n', "nothing measures the ratio a / c"),
        ('[[ratio]]\nof = "a"\nto = "b"\n', "a / b has neither least nor most"),
        ('[[ratio]]\nof = "a"\nto = "b"\nlest = 1.0\n', "unknown field `lest`"),
    ],
)
def test_a_threshold_that_holds_nothing_is_refused(tmp_path: Path, text: str, words: str):
    with pytest.raises(ValueError, match=words):
        read_thresholds([RATIO], written(tmp_path, text))


def test_the_committed_thresholds_are_of_ratios_that_are_measured():
    assert read_thresholds(RATIOS)


def test_ratios_are_of_figures():
    names = [figure.name for figure in FIGURES]

    assert len(names) == len(set(names))
    assert {name for ratio in RATIOS for name in (ratio.of, ratio.to)} <= set(names)
