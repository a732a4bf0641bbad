"""`python -m tests.mutants [BUG ...]`: do the suites notice that the product is broken?

Each bug of seeds.py is planted in turn, and the tests of its row, unchanged, have to catch it. With
names only these; `--chaos` takes the runs of chaos of the rows in place of their tests. Exit
status: 0 all caught, 1 not all, 2 the tests fail without a bug, so that nothing is known.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time

import msgspec

from tests.mutants.planting import Bug
from tests.mutants.runner import RESULTS, baseline, try_all
from tests.mutants.seeds import BUGS, bug_of
from tests.mutants.verdict import Verdict, Word

FAILED, UNKNOWN = 1, 2
TEST_WIDTH = 60  # of a test's name in the table


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One bug, as the result file keeps it."""

    bug: str
    number: str
    breaks: str
    verdict: Verdict


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    caught: int
    bugs: int
    seconds: float
    baseline_s: float  # of it, without a bug
    cpu_s: float  # of all processes
    load: float  # runnable processes of the machine in the last minute, these among them
    rows: list[Row]


def main() -> int:
    """Run, print the table, write the result down."""
    given = parse(sys.argv[1:])
    bugs = [bug_of(name) for name in given.bugs] or list(BUGS)
    if given.chaos:
        bugs = [bug for bug in bugs if bug.chaos is not None]
    began = time.monotonic()
    if not given.chaos and (failed := baseline(bugs, jobs=given.jobs)):
        for one in failed:
            say(f"without a bug {one.test} is {one.kind.value}: {one.words}")
        return UNKNOWN
    baseline_s = time.monotonic() - began
    if not given.chaos:
        say(f"without a bug, all tests pass ({baseline_s:.0f} s)\n")
    verdicts = try_all(bugs, jobs=given.jobs, chaos=given.chaos, told=tell)
    result = Result(
        caught=sum(one.word is Word.CAUGHT for one in verdicts.values()),
        bugs=len(bugs),
        seconds=round(time.monotonic() - began, 1),
        baseline_s=round(baseline_s, 1),
        cpu_s=round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]), 1),
        load=round(os.getloadavg()[0], 1),
        rows=[
            Row(bug=bug.name, number=bug.number, breaks=bug.breaks, verdict=verdicts[bug.name])
            for bug in bugs
        ],
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / ("chaos.json" if given.chaos else "tests.json")
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    say(f"\n{result.caught} of {result.bugs} bugs caught in {result.seconds:.0f} s")
    say(f"{result.cpu_s:.0f} s of CPU, load {result.load:g}")
    return 0 if result.caught == result.bugs else FAILED


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    names = [bug.name for bug in BUGS]
    parser.add_argument("bugs", nargs="*", metavar="BUG", help=", ".join(names))
    parser.add_argument("--chaos", action="store_true", help="by runs of chaos, not by tests")
    parser.add_argument("--jobs", type=int, default=2, help="how many bugs at a time")
    given = parser.parse_args(argv)
    if unknown := sorted(set(given.bugs) - set(names)):
        parser.error(f"no bug {', '.join(unknown)}; there are: {', '.join(names)}")
    return given


def tell(bug: Bug, verdict: Verdict) -> None:
    """Print a row of the table."""
    number = f"({bug.number})" if bug.number else ""
    test = verdict.by.rpartition("::")[2] or verdict.by
    say(
        f"{verdict.word.value:8}  {number:4}  {bug.name:32}  {verdict.seconds:5.0f} s  "
        f"{test[:TEST_WIDTH]}\n{'':16}{bug.breaks}\n{'':16}→ {verdict.words}"
    )


def say(words: str) -> None:
    """Print at once, also into a pipe."""
    print(words, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
