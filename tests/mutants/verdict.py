"""Judges what tests said of a planted bug. Pure: reports go in, a verdict comes out.

A bug is caught by a test that looked and found something wrong: a failed assertion, a time limit of
its own that ran out, an error that the product answered with. Anything else that stops a test is no
proof: it may come from a bug that was planted badly, or from a machine that was too slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

import msgspec
import pytest

from stepstream.errors import InternalError, StepstreamError

__all__ = [
    "NOTICED",
    "Kind",
    "Report",
    "TestReport",
    "Verdict",
    "Word",
    "failures",
    "first_line",
    "judge",
    "judge_chaos",
    "kind_of",
    "words_of",
]

OWN_PHASE = "call"  # of a test: the rest is set-up and clean-up
WORDS_MAX = 200  # of a failure, in the table


class Kind(Enum):
    """How a test ended."""

    PASSED = "passed"
    SKIPPED = "skipped"
    ASSERTION = "assertion"
    LIMIT = "time limit"  # of the test's own
    REFUSAL = "refusal"  # an error that the product answered with
    HANG = "hang"  # pytest-timeout had to end it
    MISTAKE = "mistake"  # anything else: it proves nothing


NOTICED = {Kind.ASSERTION, Kind.LIMIT, Kind.REFUSAL}
_STRONGEST = (Kind.HANG, Kind.MISTAKE, Kind.REFUSAL, Kind.LIMIT)


class TestReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one test ended."""

    __test__ = False

    test: str  # node id
    kind: Kind
    words: str = ""  # the first line of what failed
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of pytest said."""

    tests: list[TestReport] = []
    trouble: str = ""  # why nothing, or not all, was run


class Word(Enum):
    """What became of a bug."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    BROKEN = "broken"  # nobody knows: it was planted badly, or the tests could not be run


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The word on one bug, and where it comes from."""

    word: Word
    by: str = ""  # the test, or the run of chaos
    words: str = ""  # what it found
    seconds: float = 0.0  # of the whole run; filled in by whoever ran it


def kind_of(error: BaseException, phase: str) -> Kind:
    """What an error of a test says about the product.

    Args:
        phase: Of the test, as pytest names it; what breaks outside of its body is no finding.
    """
    kinds = {_kind_of_one(one) for one in _leaves(error)}
    if kinds & NOTICED and phase != OWN_PHASE:
        return Kind.MISTAKE
    return next((kind for kind in _STRONGEST if kind in kinds), Kind.ASSERTION)


def words_of(error: BaseException) -> str:
    """The first line of what failed; of a group, of what proves something, if anything does."""
    leaves = list(_leaves(error))
    told = next((one for one in leaves if _kind_of_one(one) in NOTICED), leaves[0])
    return first_line(f"{type(told).__name__}: {told}")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _kind_of_one(error: BaseException) -> Kind:
    if isinstance(error, pytest.fail.Exception):
        return Kind.HANG if str(error).startswith("Timeout (>") else Kind.ASSERTION
    if isinstance(error, AssertionError):
        return Kind.ASSERTION
    if isinstance(error, TimeoutError):
        return Kind.LIMIT
    if isinstance(error, StepstreamError) and not isinstance(error, InternalError):
        return Kind.REFUSAL
    return Kind.MISTAKE


def judge(report: Report, *, plain: str) -> Verdict:
    """The word of the tests.

    Args:
        plain: The test that has to pass under every bug.
    """
    ran = [one for one in report.tests if one.kind is not Kind.SKIPPED]
    if report.trouble:
        return _broken("", report.trouble)
    if not any(one.test == plain and one.kind is Kind.PASSED for one in ran):
        failed = next((one.words for one in ran if one.test == plain), "it was not run")
        return _broken(plain, f"a plain task does not end: {failed}")
    rest = [one for one in ran if one.test != plain]
    if noticed := next((one for one in rest if one.kind in NOTICED), None):
        return Verdict(word=Word.CAUGHT, by=noticed.test, words=noticed.words)
    if odd := next((one for one in rest if one.kind is not Kind.PASSED), None):
        return _broken(odd.test, f"{odd.kind.value}: {odd.words}")
    if not rest:
        return _broken("", "none of its tests was run")
    return Verdict(word=Word.SURVIVED, words=f"{len(rest)} tests passed")


def failures(report: Report) -> list[TestReport]:
    """What keeps a run without a bug from having passed; a test that was skipped proves nothing."""
    if report.trouble:
        return [TestReport(test="all", kind=Kind.MISTAKE, words=first_line(report.trouble))]
    return [one for one in report.tests if one.kind is not Kind.PASSED]


def judge_chaos(breaches: Mapping[str, Sequence[str]], audit: Sequence[str], by: str) -> Verdict:
    """The word of a run of chaos that came to its end.

    Args:
        breaches: What its checker found, by the promise that is broken.
        audit: Where indexes and records disagreed.
        by: The command.
    """
    found = [f"{name}: {len(tasks)}" for name, tasks in breaches.items() if tasks]
    found += [f"audit: {words}" for words in audit]
    if found:
        return Verdict(word=Word.CAUGHT, by=by, words=first_line("; ".join(found)))
    return Verdict(word=Word.SURVIVED, words="the checker found nothing")


def first_line(text: str) -> str:
    """What a table has room for."""
    line = next((one.strip() for one in text.splitlines() if one.strip()), "")
    return line if len(line) <= WORDS_MAX else f"{line[: WORDS_MAX - 1]}…"


def _broken(by: str, words: str) -> Verdict:
    return Verdict(word=Word.BROKEN, by=by, words=first_line(words))
