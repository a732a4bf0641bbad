"""`python -m tests.chaos --seed N`: see docs/chaos.md."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import sys
from pathlib import Path

import msgspec

from tests.chaos.load import Pace
from tests.chaos.plan import WINDOW_S, Size
from tests.chaos.report import table
from tests.chaos.run import FIRST_FAULT_S, Setup, run
from tests.support.tree import ROOT

RESULTS = ROOT / ".stepstream" / "chaos"
TASKS = 3_100  # some are refused, and 3,000 have to be there
LONG_TASKS_A_MINUTE = 3_300
LONG_STEP_S = 0.6  # the longest of a long run, which is about many tasks and faults


def parse(argv: list[str]) -> Setup:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="a long run: more tasks, shorter steps")
    parser.add_argument("--tasks", type=int, help="3100, or 3300 a minute")
    parser.add_argument("--seconds", type=float, default=WINDOW_S, help="length of the faults")
    parser.add_argument("--step", type=float, help="the longest step, in seconds")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--slots", type=int, default=20)
    parser.add_argument("--dispatchers", type=int, default=3)
    parser.add_argument("--rest", type=float, default=60.0, help="seconds to come to rest")
    given = parser.parse_args(argv)
    window_s = given.minutes * 60 if given.minutes else given.seconds
    tasks = given.tasks or (round(LONG_TASKS_A_MINUTE * given.minutes) if given.minutes else TASKS)
    name = f"long-{given.seed}" if given.minutes else str(given.seed)
    return Setup(
        seed=given.seed,
        name=name,
        pace=Pace(
            tasks=tasks,
            seconds=window_s + FIRST_FAULT_S,
            step_s=given.step or (LONG_STEP_S if given.minutes else 2.0),
        ),
        window_s=window_s,
        size=Size(given.workers, given.dispatchers),
        slots=given.slots,
        rest_s=given.rest,
        folder=RESULTS / f"run-{name}",
        command=shlex.join(["python", "-m", "tests.chaos", *argv]),
    )


def main() -> int:
    """Run, write the result down, print the table."""
    setup = parse(sys.argv[1:])
    shutil.rmtree(setup.folder, ignore_errors=True)
    result = asyncio.run(run(setup))
    path: Path = RESULTS / f"{setup.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    print(table(result, setup.folder))  # noqa: T201
    if result.failures:
        return 1
    shutil.rmtree(setup.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
