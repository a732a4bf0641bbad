"""The check for sentences that were left in the source language."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepstream_worker.checks.comparison import Comparison, Row
from stepstream_worker.checks.finding import Finding, excerpt
from stepstream_worker.languages import CHARSETS
from stepstream_worker.markdown import Line
from stepstream_worker.spans import MASK, mask_spans

__all__ = ["check_untranslated"]

# A sentence ends at ideographic or full-width . ! ? ; and at their ASCII forms.
_SENTENCE_END = re.compile("(?<=[\u3002\uff01\uff1f\uff1b!?;])")


def check_untranslated(comparison: Comparison) -> Iterator[Finding]:
    """No sentence is as it was where the engine changes it, or in another script."""
    foreign = _foreign_characters(comparison)
    for row in comparison.rows:
        originals = {sentence for line in row.source for sentence in _sentences(line)}
        for line in row.target:
            for sentence in _sentences(line):
                message = _fault(sentence, originals, foreign, comparison)
                if message:
                    yield _finding(message, sentence, line, row)


def _fault(
    sentence: str, originals: set[str], foreign: frozenset[str], comparison: Comparison
) -> str:
    if sentence in originals and _translated(sentence, comparison) != sentence:
        return "the sentence is as it was in the source"
    left = "".join(dict.fromkeys(character for character in sentence if character in foreign))
    return f"the sentence holds characters of another script: {excerpt(left)}" if left else ""


def _translated(sentence: str, comparison: Comparison) -> str:
    return MASK.join(map(comparison.translate, sentence.split(MASK)))


def _foreign_characters(comparison: Comparison) -> frozenset[str]:
    """Give the characters that the target's everyday character set lacks and the engine replaces.

    Both conditions are needed: a rare name is outside the set but has no other form, and a
    character such as U+540E is everyday in both scripts with different meanings.
    """
    charset = CHARSETS.get(comparison.target_language)
    if charset is None:
        return frozenset()
    used = set().union(*(line.body for line in comparison.target))
    return frozenset(
        character
        for character in used
        if not _encodable(character, charset) and comparison.translate(character) != character
    )


def _encodable(character: str, charset: str) -> bool:
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _sentences(line: Line) -> list[str]:
    if line.kind in {"blank", "fence", "code"}:
        return []
    return [part.strip() for part in _SENTENCE_END.split(mask_spans(line.body)) if part.strip()]


def _finding(message: str, sentence: str, line: Line, row: Row) -> Finding:
    source = row.source[0].text if len(row.source) == 1 else ""
    return Finding(
        check="untranslated",
        message=message,
        source=excerpt(source),
        target=excerpt(sentence),
        line=line.number,
    )
