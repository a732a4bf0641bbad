"""What a run prints and saves."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.figures import Figure, Measured, Ratio
from bench.guard import Threshold
from bench.report import number, save, show, show_checked

FIGURES = (
    Figure(name="limit.single", unit="tasks/s", explains="what Redis allows"),
    Figure(name="throughput.single", unit="tasks/s", explains="what arrives", aim="≥ 12,000"),
    Figure(name="latency.calm", unit="ms", explains="not measured"),
)
RATIOS = (
    Ratio(of="throughput.single", to="limit.single", explains="share", aim="≥ 0.65"),
    Ratio(of="latency.calm", to="limit.single", explains="not measured"),
)


@pytest.fixture
def measured() -> Measured:
    measured = Measured(FIGURES)
    for limit, arrived in ((20_000.0, 10_000.0), (30_000.0, 12_000.0), (10_000.0, 9_000.0)):
        measured.add("limit.single", limit)
        measured.add("throughput.single", arrived)
    return measured


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=100)


def rows(console: Console) -> list[list[str]]:
    """Cells of all rows of all tables."""
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]


def test_the_tables_have_what_was_measured(console: Console, measured: Measured):
    show(console, measured, RATIOS)

    assert rows(console) == [
        ["limit.single", "20,000", "10,000 to 30,000", "tasks/s", ""],
        ["throughput.single", "10,000", "9,000 to 12,000", "tasks/s", "≥ 12,000"],
        ["throughput.single / limit.single", "0.5", "0.4 to 0.9", "≥ 0.65"],
    ]


def test_the_check_says_what_holds(console: Console, measured: Measured):
    held = Threshold(of="throughput.single", to="limit.single", least=0.4, most=0.6)
    missed = Threshold(of="throughput.single", to="limit.single", least=0.6)
    absent = Threshold(of="latency.calm", to="limit.single", most=1.0)

    show_checked(console, measured, [held, missed, absent])

    assert [row[1:] for row in rows(console)] == [
        ["0.5", "≥ 0.4, ≤ 0.6", "holds"],
        ["0.5", "≥ 0.6", "FAILS"],
        ["not measured", "≤ 1", "FAILS"],
    ]


def test_every_sample_is_saved(tmp_path: Path, measured: Measured):
    saved, plot = save(tmp_path / "bench", measured, RATIOS)

    told = json.loads(saved.read_text("utf-8"))
    assert told["figures"]["limit.single"]["samples"] == [20_000.0, 30_000.0, 10_000.0]
    assert told["figures"]["limit.single"]["explains"] == "what Redis allows"
    assert "latency.calm" not in told["figures"]
    assert told["ratios"]["throughput.single / limit.single"]["median"] == 0.5
    assert told["machine"]["cores"] >= 1
    assert plot.read_text("utf-8").startswith("<svg ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12_345.6, "12,346"), (100.0, "100"), (99.94, "99.9"), (0.04321, "0.0432"), (0.0, "0")],
)
def test_numbers_have_three_digits(value: float, shown: str):
    assert number(value) == shown
