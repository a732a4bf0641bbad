"""What a run leaves: tables on the terminal, JSON with every sample, and a plot."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.figures import Measured, Ratio, Spread
from bench.guard import Threshold, holds, median_of
from bench.plot import Bar, svg_of

__all__ = ["figure_table", "number", "ratio_table", "save", "show", "show_checked", "summary"]


def show(console: Console, measured: Measured, ratios: Sequence[Ratio]) -> None:
    """Print the figures, and the ratios of those that were measured."""
    console.print(figure_table(measured), ratio_table(measured, ratios))


def figure_table(measured: Measured) -> Table:
    """Medians of all rounds, a row for each figure."""
    table = Table("figure", "median", "least to most", "unit", "aim", title="medians of all rounds")
    section = ""
    for name, figure in measured.figures.items():
        spread = measured.spread(name)
        if spread is None:
            continue
        if section != name.partition(".")[0]:
            section = name.partition(".")[0]
            table.add_section()
        table.add_row(name, number(spread.median), _range(spread), figure.unit, figure.aim)
    return table


def ratio_table(measured: Measured, ratios: Sequence[Ratio]) -> Table:
    """Medians of the ratios within each round."""
    table = Table("ratio", "median", "least to most", "aim", title="medians of the rounds' ratios")
    for ratio in ratios:
        spread = measured.ratio(ratio)
        if spread is not None:
            table.add_row(ratio.name, number(spread.median), _range(spread), ratio.aim)
    return table


def show_checked(console: Console, measured: Measured, thresholds: Sequence[Threshold]) -> None:
    """Print which thresholds hold."""
    table = Table("ratio", "median", "bounds", "verdict", title="bench/thresholds.toml")
    for one in thresholds:
        median = median_of(measured, one)
        bounds = [f"≥ {one.least:g}"] if one.least is not None else []
        bounds += [f"≤ {one.most:g}"] if one.most is not None else []
        shown = "not measured" if median is None else number(median)
        verdict = "holds" if holds(median, one) else "FAILS"
        table.add_row(f"{one.of} / {one.to}", shown, ", ".join(bounds), verdict)
    console.print(table)


def number(value: float) -> str:
    """A figure with about three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def save(folder: Path, measured: Measured, ratios: Sequence[Ratio]) -> list[Path]:
    """Write JSON and SVG under the time of the run; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = folder / now.strftime("%Y%m%d-%H%M%S.json")
    told = {"time": now.isoformat(timespec="seconds"), **summary(measured, ratios)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    plot = path.with_suffix(".svg")
    plot.write_text(svg_of(_bars(measured), title="stepstream: rates of one run"), "utf-8")
    return [path, plot]


def summary(measured: Measured, ratios: Sequence[Ratio]) -> dict[str, Any]:
    """The machine, every sample, and the ratios, as plain data."""
    spreads = {ratio: measured.ratio(ratio) for ratio in ratios}
    return {
        "commit": _commit(),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_1_min": os.getloadavg()[0],
        },
        "figures": {
            name: {
                **msgspec.to_builtins(figure),
                **msgspec.to_builtins(measured.spread(name)),
                "samples": measured.samples[name],
            }
            for name, figure in measured.figures.items()
            if name in measured.samples
        },
        "ratios": {
            ratio.name: {**msgspec.to_builtins(ratio), **msgspec.to_builtins(spread)}
            for ratio, spread in spreads.items()
            if spread is not None
        },
    }


def _commit() -> str:
    """The commit that was measured; empty without git."""
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _bars(measured: Measured) -> list[Bar]:
    """The figures that are rates."""
    spreads = {
        name: measured.spread(name)
        for name, figure in measured.figures.items()
        if figure.unit.endswith("/s")
    }
    return [Bar(name, spread) for name, spread in spreads.items() if spread is not None]


def _range(spread: Spread) -> str:
    return f"{number(spread.least)} to {number(spread.most)}"
