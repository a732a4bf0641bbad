"""A bug is caught by what a test found, and by nothing that only went wrong."""

import pytest

from stepstream.errors import InternalError, StoreUnavailable
from tests.mutants.verdict import (
    Kind,
    Report,
    TestReport,
    Word,
    failures,
    judge,
    judge_chaos,
    kind_of,
    words_of,
)

PLAIN = "tests/plain.py::test_plain"
OTHER = "tests/other.py::test_other"


def failed_by(reason: str) -> BaseException:
    """What pytest.fail raises."""
    with pytest.raises(pytest.fail.Exception) as caught:
        pytest.fail(reason)
    return caught.value


def report(*kinds: Kind, plain: Kind = Kind.PASSED, trouble: str = "") -> Report:
    tests = [TestReport(test=PLAIN, kind=plain, words="of the plain one")]
    tests += [TestReport(test=OTHER, kind=kind, words=f"words of {kind.value}") for kind in kinds]
    return Report(tests=tests, trouble=trouble)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AssertionError("assert 1 == 2"), Kind.ASSERTION),
        (failed_by("DID NOT RAISE StaleLease"), Kind.ASSERTION),
        (TimeoutError("task t1 is pending after 20 s"), Kind.LIMIT),
        (StoreUnavailable("redis does not answer"), Kind.REFUSAL),
        (InternalError("incident 1"), Kind.MISTAKE),
        (failed_by("Timeout (>60.0s) from pytest-timeout."), Kind.HANG),
        (ImportError("no module"), Kind.MISTAKE),
        (NameError("name 'x' is not defined"), Kind.MISTAKE),
        (KeyError("t1"), Kind.MISTAKE),
        (ExceptionGroup("", [TimeoutError(), AssertionError()]), Kind.LIMIT),
        (ExceptionGroup("", [AssertionError(), ExceptionGroup("", [NameError()])]), Kind.MISTAKE),
    ],
)
def test_what_an_error_says(error: BaseException, kind: Kind):
    assert kind_of(error, "call") is kind


@pytest.mark.parametrize("phase", ["setup", "teardown"])
@pytest.mark.parametrize("error", [AssertionError("d-0 never said it"), TimeoutError()])
def test_what_breaks_beside_the_test_is_no_finding(error: BaseException, phase: str):
    assert kind_of(error, phase) is Kind.MISTAKE


def test_the_words_are_the_first_line_of_what_proves_something():
    group = ExceptionGroup("many", [NameError("x"), AssertionError("assert 2 == 1\n  more")])

    assert words_of(group) == "AssertionError: assert 2 == 1"


@pytest.mark.parametrize("kind", [Kind.ASSERTION, Kind.LIMIT, Kind.REFUSAL])
def test_a_bug_that_a_test_noticed_is_caught(kind: Kind):
    verdict = judge(report(Kind.PASSED, kind), plain=PLAIN)

    assert (verdict.word, verdict.by, verdict.words) == (
        Word.CAUGHT,
        OTHER,
        f"words of {kind.value}",
    )


def test_a_finding_counts_beside_a_mistake():
    assert judge(report(Kind.MISTAKE, Kind.ASSERTION), plain=PLAIN).word is Word.CAUGHT


def test_a_bug_under_which_all_passes_survives():
    assert judge(report(Kind.PASSED, Kind.PASSED), plain=PLAIN).word is Word.SURVIVED


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(report(Kind.MISTAKE), id="a mistake"),
        pytest.param(report(Kind.HANG, Kind.PASSED), id="a hang"),
        pytest.param(report(), id="no test of its own"),
        pytest.param(report(Kind.SKIPPED), id="its tests skipped"),
        pytest.param(report(Kind.ASSERTION, plain=Kind.ASSERTION), id="the plain one failed"),
        pytest.param(report(Kind.ASSERTION, plain=Kind.SKIPPED), id="the plain one skipped"),
        pytest.param(report(Kind.ASSERTION, trouble="not planted"), id="not planted"),
        pytest.param(Report(), id="nothing run"),
    ],
)
def test_what_proves_nothing_is_broken(said: Report):
    assert judge(said, plain=PLAIN).word is Word.BROKEN


def test_only_what_passed_passes_without_a_bug():
    assert failures(report(Kind.PASSED)) == []
    assert [one.kind for one in failures(report(Kind.SKIPPED, Kind.LIMIT))] == [
        Kind.SKIPPED,
        Kind.LIMIT,
    ]
    assert [one.words for one in failures(report(trouble="no report\nat all"))] == ["no report"]


@pytest.mark.parametrize(
    ("breaches", "audit", "word"),
    [
        ({"lost": ["t1", "t2"]}, [], Word.CAUGHT),
        ({}, ["live is 2, records say {}"], Word.CAUGHT),
        ({"lost": []}, [], Word.SURVIVED),
    ],
)
def test_the_word_of_a_run_of_chaos_is_its_checkers(breaches, audit, word: Word):
    assert judge_chaos(breaches, audit, "seed 1").word is word
