"""Runs the unchanged tests against each bug, each run in a process of its own, two at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from stepstream.testing.tether import tethered
from tests.mutants.planting import VARIABLE, Bug
from tests.mutants.plugin import REPORT_VARIABLE
from tests.mutants.seeds import PLAIN
from tests.mutants.verdict import (
    Report,
    TestReport,
    Verdict,
    Word,
    failures,
    first_line,
    judge,
    judge_chaos,
)
from tests.support.tree import ROOT

__all__ = ["RESULTS", "baseline", "try_all"]

RESULTS = ROOT / ".stepstream" / "mutants"
CHAOS_RESULTS = ROOT / ".stepstream" / "chaos"
RUN_LIMIT_S = 240.0  # of all tests of one bug; those that are listed take a minute at most
# Beside the seconds of its faults: its callers wait a minute for a task that was lost, the run
# another one to come to rest.
CHAOS_MARGIN_S = 300.0
BASELINE_LIMIT_S = 900.0
OUTPUT_KEPT = 2_000  # characters of what a run said that left no report


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended."""

    exit_code: int | None  # None: its time was over
    output: str
    seconds: float


def baseline(bugs: Sequence[Bug], *, jobs: int) -> list[TestReport]:
    """Runs every test of the bugs without a bug; returns those that do not pass.

    A test that fails by itself catches everything. One that failed beside others is run again
    alone, so that a busy machine is not taken for a broken test.
    """
    tests = list(dict.fromkeys([PLAIN, *(test for bug in bugs for test in bug.tests)]))
    lots = [lot for number in range(jobs) if (lot := tests[number::jobs])]
    with ThreadPoolExecutor(jobs) as pool:
        reports = list(pool.map(lambda lot: _pytest(lot, "", BASELINE_LIMIT_S)[0], lots))
    again = [one.test for report in reports for one in failures(report) if not report.trouble]
    if again:
        reports = [_pytest(again, "", BASELINE_LIMIT_S)[0]] + [
            report for report in reports if report.trouble
        ]
    return [one for report in reports for one in failures(report)]


def try_all(
    bugs: Sequence[Bug], *, jobs: int, chaos: bool, told: Callable[[Bug, Verdict], None]
) -> dict[str, Verdict]:
    """The verdict on each bug.

    Args:
        jobs: How many at a time.
        chaos: By the bug's run of chaos in place of its tests, one at a time.
        told: Called with each verdict once it is there.
    """

    def one(bug: Bug) -> Verdict:
        verdict = _by_chaos(bug) if chaos else _by_tests(bug)
        told(bug, verdict)
        return verdict

    with ThreadPoolExecutor(1 if chaos else jobs) as pool:
        return dict(zip((bug.name for bug in bugs), pool.map(one, bugs), strict=True))


def _by_tests(bug: Bug) -> Verdict:
    report, run = _pytest([PLAIN, *bug.tests], bug.name, RUN_LIMIT_S)
    return msgspec.structs.replace(judge(report, plain=PLAIN), seconds=round(run.seconds, 1))


def _by_chaos(bug: Bug) -> Verdict:
    assert bug.chaos is not None
    seed, seconds = bug.chaos
    words = ["-m", "tests.chaos", "--seed", str(seed), "--seconds", str(seconds)]
    path = CHAOS_RESULTS / f"{seed}.json"
    path.unlink(missing_ok=True)
    run = _run(words, {VARIABLE: bug.name}, seconds + CHAOS_MARGIN_S)
    if path.exists():
        result: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        verdict = judge_chaos(result["breaches"], result["audit"], f"chaos, seed {seed}")
    else:
        verdict = Verdict(word=Word.BROKEN, words=first_line(f"no result: {run.output}"))
    return msgspec.structs.replace(verdict, seconds=round(run.seconds, 1))


def _pytest(tests: Sequence[str], bug: str, limit_s: float) -> tuple[Report, _Run]:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.mutants.plugin", *tests]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        run = _run(words, {VARIABLE: bug, REPORT_VARIABLE: str(path)}, limit_s)
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=Report), run
    return Report(trouble=f"pytest left no report, exit {run.exit_code}: {run.output}"), run


def _run(words: Sequence[str], env: dict[str, str], limit_s: float) -> _Run:
    """Runs this interpreter; what it starts dies with it."""
    began = time.monotonic()
    code: int | None
    try:
        done = subprocess.run(
            tethered([sys.executable, *words]),
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
        code, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as expired:
        code, output = None, f"no end within {limit_s:g} s\n{_text(expired.stdout)}"
    return _Run(exit_code=code, output=output[-OUTPUT_KEPT:], seconds=time.monotonic() - began)


def _text(output: object) -> str:
    """What was said before a time limit, which comes as bytes although text was asked for."""
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")
