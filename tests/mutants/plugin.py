"""The part of pytest: `-p tests.mutants.plugin` plants the wanted bug and writes down what is said.

It is loaded by the runner's command line alone, before anything of the product is imported.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from tests.mutants.planting import PlantingError, plant, wanted
from tests.mutants.seeds import bug_of
from tests.mutants.verdict import NOTICED, Kind, Report, TestReport, kind_of, words_of

__all__ = ["REPORT_VARIABLE"]

REPORT_VARIABLE = "STEPSTREAM_TEST_REPORT"  # where the report goes

_tests: list[TestReport] = []


def _plant() -> str:
    """Plants what is wanted; returns why it cannot be."""
    try:
        if name := wanted():
            plant(bug_of(name))
    except (LookupError, PlantingError) as error:
        return f"not planted: {error}"
    return ""


_trouble = _plant()  # now: the root conftest.py already imports parts of the product


def pytest_sessionstart() -> None:
    """Runs nothing when the bug is not there."""
    if _trouble:
        pytest.exit(_trouble, returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps how each test ended, while its error is at hand."""
    report = yield
    if report.failed and call.excinfo is not None:
        kind = kind_of(call.excinfo.value, report.when)
        _keep(item, kind, report.duration, words_of(call.excinfo.value))
        if kind in NOTICED and wanted():
            item.session.shouldstop = "the bug is caught"
    elif report.skipped:
        _keep(item, Kind.SKIPPED, report.duration)
    elif report.when == "call":
        _keep(item, Kind.PASSED, report.duration)
    return report


def _keep(item: pytest.Item, kind: Kind, seconds: float, words: str = "") -> None:
    _tests.append(TestReport(test=item.nodeid, kind=kind, words=words, seconds=round(seconds, 3)))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported is no finding."""
    if report.failed:
        _tests.append(TestReport(test=report.nodeid, kind=Kind.MISTAKE, words="not collected"))


def pytest_sessionfinish() -> None:
    """Writes the report, if anybody wants one."""
    if path := os.environ.get(REPORT_VARIABLE):
        report = Report(tests=_tests, trouble=_trouble)
        Path(path).write_bytes(msgspec.json.encode(report))
