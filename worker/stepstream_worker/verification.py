"""Verification of a translation: the checks, and the score of translating it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from stepstream_worker.checks import CHECKS, Finding, compare, excerpt
from stepstream_worker.engines import Engine
from stepstream_worker.judge import Judge, Judgement
from stepstream_worker.score import SCORE_THRESHOLD, Score, back_translation_score

__all__ = ["FINDINGS_MAX", "Verification", "verify_translation"]

# Enough for a reviewer to see what is wrong; a document of one million wrong numbers must not make
# an output larger than the document.
FINDINGS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What verification says about a translation."""

    verdict: Literal["passed", "rejected"]  # passed when nothing was found
    score: float  # chrF of the translation back against the source, 0 to 100
    threshold: float  # the score below which a document is rejected
    findings: tuple[Finding, ...]  # at most FINDINGS_MAX, in the order of the checks


def verify_translation(
    source: str,
    target: str,
    *,
    forward: Engine,
    back: Engine | None,
    judge: Judge | None = None,
    target_language: str,
    threshold: float = SCORE_THRESHOLD,
    on_check: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a translation against its source.

    Args:
        source: The document.
        target: Its translation.
        forward: Engine from source to target language; says what a translated sentence looks like.
        back: Engine from the target language into the source language; None: the judge's score
            stands for the score of translating back.
        judge: A language model that reads both; it can only find more, never less.
        target_language: Canonical name, see `normalise_language`.
        threshold: Lowest score that passes, 0 to 100.
        on_check: Called before each check and before the score with how many are done and how many
            there are; what it raises ends the verification.
    """
    steps = len(CHECKS) + 1
    translate = forward.translate if forward.literal else _unchanged
    comparison = compare(source, target, target_language=target_language, translate=translate)
    findings: list[Finding] = []
    for done, check in enumerate(CHECKS):
        _report(on_check, done, steps)
        findings += islice(check(comparison), FINDINGS_MAX - len(findings))
    _report(on_check, len(CHECKS), steps)
    score = back_translation_score(source, target, back) if back else None
    findings += islice(_score_findings(score, threshold) if score else (), FINDINGS_MAX)
    judgement = judge(source, target) if judge else None
    findings += _judge_findings(judgement, threshold) if judgement else ()
    return Verification(
        verdict="rejected" if findings else "passed",
        score=score.document if score else judgement.score if judgement else 0.0,
        threshold=threshold,
        findings=tuple(findings[:FINDINGS_MAX]),
    )


def _unchanged(text: str) -> str:
    """For engines that would be asked character by character."""
    return text


def _judge_findings(judgement: Judgement, threshold: float) -> list[Finding]:
    found = [
        Finding(
            check="judge",
            message=f"{fault.kind}: {fault.comment}",
            source="",
            target=excerpt(fault.quote),
            line=1,
        )
        for fault in judgement.findings
    ]
    if not judgement.passed or judgement.score < threshold:
        words = f"the judge gives {judgement.score:g} of 100; {threshold:g} are needed"
        found.append(Finding(check="judge", message=words, source="", target="", line=1))
    return found


def _report(on_check: Callable[[int, int], None] | None, done: int, steps: int) -> None:
    if on_check is not None:
        on_check(done, steps)


def _score_findings(score: Score, threshold: float) -> Iterator[Finding]:
    if score.document < threshold:
        yield Finding(
            check="score",
            message=f"translated back, {score.document} of 100 agree with the source (chrF); "
            f"{threshold} are needed",
            source="",
            target="",
            line=1,
        )
    for weak in score.weak:
        yield Finding(
            check="back_translation",
            message=f"translated back, {weak.score} of 100 of the paragraph agree (chrF): "
            f"{excerpt(weak.returned)}",
            source=excerpt(weak.source),
            target="",
            line=weak.line,
        )
