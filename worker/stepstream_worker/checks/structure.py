"""Checks on lines: none lost, none emptied, each with the shape that it had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

from stepstream_worker.checks.comparison import Comparison
from stepstream_worker.checks.finding import Finding, excerpt
from stepstream_worker.markdown import Line

__all__ = ["check_empty", "check_lines", "check_structure"]


def check_empty(comparison: Comparison) -> Iterator[Finding]:
    """What has words in the source has words in the translation."""
    words = next((line for line in comparison.source if _has_text(line)), None)
    if words is not None and not any(map(_has_text, comparison.target)):
        yield Finding(
            check="empty",
            message="the translation is empty",
            source=excerpt(words.text),
            target="",
            line=words.number,
        )
    elif comparison.aligned:
        for ours, theirs in zip(comparison.source, comparison.target, strict=True):
            if _has_text(ours) and not _has_text(theirs):
                yield _of_pair("empty", "the line is empty in the translation", ours, theirs)


def check_lines(comparison: Comparison) -> Iterator[Finding]:
    """Source and translation have the same number of lines."""
    if comparison.aligned:
        return
    pairs = zip_longest(comparison.source, comparison.target)
    ours, theirs = next(
        (one, other) for one, other in pairs if not one or not other or one.shape != other.shape
    )
    yield Finding(
        check="lines",
        message=f"{len(comparison.target)} lines instead of {len(comparison.source)}; "
        "this is the first that differs in kind",
        source=excerpt(ours.text) if ours else "",
        target=excerpt(theirs.text) if theirs else "",
        line=(ours or theirs).number,
    )


def check_structure(comparison: Comparison) -> Iterator[Finding]:
    """Headings, lists, quotes, table rows and fences are what they were."""
    if comparison.aligned:
        for ours, theirs in zip(comparison.source, comparison.target, strict=True):
            if ours.shape != theirs.shape:
                message = f"{ours.shape} became {theirs.shape}"
                yield _of_pair("structure", message, ours, theirs)
    else:
        yield from _missing_shapes(comparison)


def _missing_shapes(comparison: Comparison) -> Iterator[Finding]:
    """Report shapes that occur less often; which of several equal ones is gone cannot be told."""
    ours = Counter(line.shape for line in comparison.source)
    theirs = Counter(line.shape for line in comparison.target)
    for shape, missing in (ours - theirs).items():
        first = next(line for line in comparison.source if line.shape == shape)
        yield Finding(
            check="structure",
            message=f"{theirs[shape]} of {missing + theirs[shape]} are left of: {shape}",
            source=excerpt(first.text),
            target="",
            line=first.number,
        )


def _has_text(line: Line) -> bool:
    return bool(line.body.strip())


def _of_pair(check: str, message: str, ours: Line, theirs: Line) -> Finding:
    return Finding(
        check=check,
        message=message,
        source=excerpt(ours.text),
        target=excerpt(theirs.text),
        line=ours.number,
    )
