"""A source and its translation, laid side by side for the checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from stepstream_worker.checks.finding import Finding, excerpt
from stepstream_worker.markdown import Line, scan_lines

__all__ = ["Comparison", "Row", "compare", "compare_tokens"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Lines that belong together: one pair, or everything when the numbers of lines differ."""

    source: tuple[Line, ...]
    target: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What every check is given."""

    source: tuple[Line, ...]  # all lines of the source
    target: tuple[Line, ...]  # all lines of the translation
    rows: tuple[Row, ...]  # the same lines, side by side
    target_language: str  # canonical name, see `normalise_language`
    translate: Callable[[str], str]  # what the engine makes of a stretch of prose

    @property
    def aligned(self) -> bool:
        """Whether each row is one line beside one line."""
        return len(self.source) == len(self.target)


def compare(
    source: str, target: str, *, target_language: str, translate: Callable[[str], str]
) -> Comparison:
    """Lay a source and its translation side by side."""
    ours, theirs = tuple(scan_lines(source)), tuple(scan_lines(target))
    return Comparison(
        source=ours,
        target=theirs,
        rows=tuple(_rows(ours, theirs)),
        target_language=target_language,
        translate=translate,
    )


def compare_tokens(
    comparison: Comparison, check: str, noun: str, tokens: Callable[[Line], Iterable[str]]
) -> Iterator[Finding]:
    """Report each token that one side of a row has and the other has not.

    Args:
        comparison: Source and translation.
        check: Name of the check.
        noun: What a token is called in the message.
        tokens: Gives the tokens of a line in a form in which equal ones are equal.
    """
    for row in comparison.rows:
        ours = [(token, line) for line in row.source for token in tokens(line)]
        theirs = [(token, line) for line in row.target for token in tokens(line)]
        if not ours and not theirs:
            continue
        for token, line in _lacking(ours, theirs):
            message = f"{noun} {excerpt(token)} is missing"
            yield _finding(check, message, line, source=line.text, target=_only(row.target))
        for token, line in _lacking(theirs, ours):
            message = f"{noun} {excerpt(token)} is not in the source"
            yield _finding(check, message, line, source=_only(row.source), target=line.text)


def _rows(ours: tuple[Line, ...], theirs: tuple[Line, ...]) -> Iterator[Row]:
    if len(ours) != len(theirs):
        yield Row(source=ours, target=theirs)
        return
    for one, other in zip(ours, theirs, strict=True):
        yield Row(source=(one,), target=(other,))


def _lacking(
    here: list[tuple[str, Line]], there: list[tuple[str, Line]]
) -> Iterator[tuple[str, Line]]:
    """Give the tokens of one side that the other has less often."""
    surplus = Counter(token for token, _ in here)
    surplus.subtract(token for token, _ in there)
    for token, line in here:
        if surplus[token] > 0:
            surplus[token] -= 1
            yield token, line


def _only(lines: tuple[Line, ...]) -> str:
    return lines[0].text if len(lines) == 1 else ""


def _finding(check: str, message: str, line: Line, *, source: str, target: str) -> Finding:
    return Finding(
        check=check,
        message=message,
        source=excerpt(source),
        target=excerpt(target),
        line=line.number,
    )
