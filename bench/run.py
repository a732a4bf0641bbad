"""`make bench`: everything about our own system in one sitting, in interleaved rounds.

Sections that are compared share a system and take turns, forwards in one round and backwards in the
next, so that what else happens on the machine happens to both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, TypeAlias

from rich.console import Console

from bench import crowd, growth, latency, scaling, shapes, submit, throughput
from bench.figures import Measured, Ratio
from bench.guard import failures, read_thresholds
from bench.report import save, show, show_checked
from bench.sections import Round
from bench.stage import Options

__all__ = ["FIGURES", "RATIOS", "SECTIONS", "main", "measure_group"]

ROUNDS: Final = 5
CHECK_ROUNDS: Final = 3
RESULTS: Final = Path(".stepstream/bench")

Opened: TypeAlias = Callable[[Options, Measured], AbstractAsyncContextManager[Mapping[str, Round]]]
GROUPS: Final[Mapping[tuple[str, ...], Opened]] = {
    ("limit", "throughput"): throughput.opened,
    ("submit",): submit.opened,
    ("latency",): latency.opened,
    ("shapes",): shapes.opened,
    ("growth",): growth.opened,
    ("crowd",): crowd.opened,
    ("scaling",): scaling.opened,
}
SECTIONS: Final = tuple(name for names in GROUPS for name in names)
MODULES: Final = (throughput, submit, latency, shapes, growth, crowd, scaling)
FIGURES: Final = tuple(figure for module in MODULES for figure in module.FIGURES)
RATIOS: Final[tuple[Ratio, ...]] = tuple(ratio for module in MODULES for ratio in module.RATIOS)


def main() -> None:
    """Measure what the command line says; with --check, end with 1 where a ratio has got worse."""
    arguments = _parser().parse_args()
    if arguments.explain:
        explain()
        return
    thresholds = read_thresholds(RATIOS) if arguments.check else ()
    checked = {name.partition(".")[0] for one in thresholds for name in (one.of, one.to)}
    only = arguments.only or [name for name in SECTIONS if not checked or name in checked]
    rounds = arguments.rounds or (CHECK_ROUNDS if arguments.check else ROUNDS)
    options = Options(full=arguments.full, quick=arguments.quick)
    console = Console()
    measured = asyncio.run(measure(console, options, only, rounds))
    show(console, measured, RATIOS)
    for path in save(RESULTS, measured, RATIOS):
        console.print(f"saved {path}")
    if arguments.check:
        show_checked(console, measured, thresholds)
        sys.exit(bool(failures(measured, thresholds)))


def explain() -> None:
    """Print what each figure is, and from when to when."""
    for figure in FIGURES:
        print(f"{figure.name} [{figure.unit}]\n    {figure.explains}")
    for ratio in RATIOS:
        print(f"{ratio.name}\n    {ratio.explains}")


async def measure(console: Console, options: Options, only: Sequence[str], rounds: int) -> Measured:
    """Run rounds of the sections, group by group."""
    measured = Measured(FIGURES)
    for names, opened in GROUPS.items():
        wanted = [name for name in names if name in only]
        if wanted:
            began = time.monotonic()
            await measure_group(opened(options, measured), wanted, rounds)
            took_s = time.monotonic() - began
            console.print(f"{', '.join(wanted)}: {rounds} rounds in {took_s:.0f} s")
    return measured


async def measure_group(
    opened: AbstractAsyncContextManager[Mapping[str, Round]], wanted: Sequence[str], rounds: int
) -> None:
    """Run rounds of the wanted sections, every second one backwards."""
    async with opened as by_name:
        for number in range(rounds):
            for name in wanted if number % 2 == 0 else reversed(wanted):
                await by_name[name]()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--rounds", type=int, help=f"rounds; {ROUNDS} without --check")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="sizes that take minutes: 1,000,000 tasks, 2,000 workers",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a twentieth of the work: whether everything runs"
    )
    parser.add_argument(
        "--check", action="store_true", help="hold the ratios of bench/thresholds.toml"
    )
    parser.add_argument("--explain", action="store_true", help="say what each figure is, and end")
    return parser


if __name__ == "__main__":
    main()
