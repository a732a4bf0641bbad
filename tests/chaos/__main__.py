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
from tests.chaos.plan import Size
from tests.chaos.report import table
from tests.chaos.run import Setup, run
from tests.support.tree import ROOT

RESULTS = ROOT / ".stepstream" / "chaos"


def parse(argv: list[str]) -> Setup:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=3_000)
    parser.add_argument("--window", type=float, default=120.0, help="seconds of faults")
    parser.add_argument("--step", type=float, default=2.0, help="the longest step, seconds")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--slots", type=int, default=20)
    parser.add_argument("--dispatchers", type=int, default=3)
    parser.add_argument("--rest", type=float, default=60.0, help="seconds to come to rest")
    given = parser.parse_args(argv)
    return Setup(
        seed=given.seed,
        pace=Pace(tasks=given.tasks, seconds=given.window + 4.0, step_s=given.step),
        window_s=given.window,
        size=Size(given.workers, given.dispatchers),
        slots=given.slots,
        rest_s=given.rest,
        folder=RESULTS / f"run-{given.seed}",
        command=shlex.join(["python", "-m", "tests.chaos", *argv]),
    )


def main() -> int:
    """Run, write the result down, print the table."""
    setup = parse(sys.argv[1:])
    shutil.rmtree(setup.folder, ignore_errors=True)
    result = asyncio.run(run(setup))
    path: Path = RESULTS / f"{setup.seed}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    print(table(result, setup.folder))  # noqa: T201
    if result.failures:
        return 1
    shutil.rmtree(setup.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
