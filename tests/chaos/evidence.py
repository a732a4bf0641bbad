"""Merges result files into the generated part of docs/evidence.md.

`python -m tests.chaos.evidence .stepstream/chaos/*.json` writes it; `--check` only compares.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tests.chaos.report import Result
from tests.chaos.takeovers import LIMITS_S, figures
from tests.support.tree import ROOT

__all__ = ["BEGIN", "END", "merged", "section"]

PAGE = ROOT / "docs" / "evidence.md"
BEGIN = "<!-- written by python -m tests.chaos.evidence: do not edit -->"
END = "<!-- end of what is written -->"
CLASSES = {
    "stream": "a killed worker (its stream breaks)",
    "frozen": "a frozen worker, or one whose link swallows everything",
    "dispatcher": "a dead or frozen dispatcher",
}


def section(results: Sequence[Result]) -> str:
    """The generated part: totals, faults, takeovers, runs."""
    parts = (
        _totals(results),
        _bound(results),
        _faults(results),
        _takeovers(results),
        _runs(results),
    )
    return "\n".join(line for part in parts for line in part)


def merged(page: str, written: str) -> str:
    """A page with its generated part replaced.

    Raises:
        ValueError: It has no such part.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page has no part to write into")
    return f"{before}{BEGIN}\n\n{written}\n{END}{after}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(map(str, row)) + " |" for row in rows)
    yield ""


def _totals(results: Sequence[Result]) -> Iterator[str]:
    tasks, steps = sum(one.tasks for one in results), sum(one.steps for one in results)
    starts = sum(one.duplicate_work * one.steps for one in results)
    rows = [
        ("runs", len(results)),
        ("runs that passed", sum(not one.failures for one in results)),
        ("tasks", f"{tasks:,}"),
        ("steps recorded", f"{steps:,}"),
        ("faults", f"{sum(sum(one.faults.values()) for one in results):,}"),
        ("**lost**", sum(one.lost for one in results)),
        ("**doubled**", sum(one.doubled for one in results)),
        ("**unexpected**", sum(one.unexpected for one in results)),
        ("other breaches", sum(_others(one) for one in results)),
        ("findings of the storage audit", sum(len(one.audit) for one in results)),
        ("Submits of unknown outcome whose task was there", sum(one.recovered for one in results)),
        ("gone with the tail that AOF_1S may lose", sum(one.excused for one in results)),
        ("results of attempts taken away, none of them recorded", sum(one.late for one in results)),
        ("attempts a step", f"{starts / steps:.3f}" if steps else "none"),
    ]
    yield from _table(("what", "count"), rows)


def _others(result: Result) -> int:
    told = {"lost", "doubled", "unexpected"}
    return sum(len(tasks) for name, tasks in result.breaches.items() if name not in told)


def _bound(results: Sequence[Result]) -> Iterator[str]:
    tasks, lost = sum(one.tasks for one in results), sum(one.lost for one in results)
    if tasks and not lost:
        million = 3 / tasks * 1e6
        yield (
            f"None of {tasks:,} tasks lost does not prove that none ever is. By the rule of three "
            f"(3/n), it says with 95 % confidence that under faults like these at most "
            f"{million:.1f} in a million are."
        )
        yield ""


def _faults(results: Sequence[Result]) -> Iterator[str]:
    total: Counter[str] = Counter()
    for one in results:
        total.update(one.faults)
    yield from _table(("fault", "times"), sorted(total.items()))


def _takeovers(results: Sequence[Result]) -> Iterator[str]:
    rows = []
    for name, limit_s in LIMITS_S.items():
        told = figures([took for one in results for took in one.takeover_s.get(name, [])])
        if told:
            times = (f"{told.p50:.2f} s", f"{told.p99:.2f} s", f"{told.max:.2f} s")
            rows.append((CLASSES[name], told.count, *times, f"{limit_s:g} s"))
    yield "Takeovers, from the later of the fault and the end of any other on its path:"
    yield ""
    yield from _table(("of", "attempts", "p50", "p99", "max", "promised"), rows)


def _runs(results: Sequence[Result]) -> Iterator[str]:
    rows = [
        (
            f"`{one.command}`",
            one.started,
            f"{one.seconds:.0f} s",
            f"{one.tasks:,}",
            sum(one.faults.values()),
            ", ".join(f"{name} {version}" for name, version in sorted(one.versions.items())),
            "failed" if one.failures else "passed",
        )
        for one in results
    ]
    yield from _table(("command", "started", "took", "tasks", "faults", "versions", "result"), rows)


def main(argv: list[str]) -> int:
    """Write the page, or say whether it is as written."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.evidence", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="result files, in order")
    parser.add_argument("--check", action="store_true", help="only compare")
    given = parser.parse_args(argv)
    results = [msgspec.json.decode(path.read_bytes(), type=Result) for path in given.results]
    page = PAGE.read_text(encoding="utf-8")
    new = merged(page, section(results))
    if given.check:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
