"""The score: how much of the source comes back when the translation is translated back.

The measure is chrF (character n-grams up to six, beta 2), as sacrebleu computes it. It sees what a
translation lost; it cannot see a mistake that the way back undoes, so it never passes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stepstream_worker.document import Segment, parse_document, render_segment, segment_prose
from stepstream_worker.engines import Engine

__all__ = ["SCORE_THRESHOLD", "ParagraphScore", "Score", "back_translation_score", "chrf"]

# Below this a document is rejected. Measured with OpenCC 1.4.2 over samples/ and the clean texts of
# the tests: ordinary documents, a few with a wrong character, come back with 93.5 to 100, an essay
# that loses its point with 89.3. It is meant for Chinese variants, whose words mostly come back;
# translation between unlike languages scores far lower and needs a threshold of its own.
SCORE_THRESHOLD = 92.0

# Below this a single paragraph is reported. Lower than the document's, because one word weighs more
# in a short text: in the same measurement one harmless synonym cost a list item 11.5 points.
PARAGRAPH_THRESHOLD = 85.0

# Paragraphs with less prose than this many characters are not judged alone: one word decides.
PARAGRAPH_CHARACTERS_MIN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ParagraphScore:
    """A paragraph whose meaning did not come back."""

    line: int  # its first line in the source, counted from 1
    score: float  # chrF, 0 to 100
    source: str  # its prose
    returned: str  # what came back


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How much of a document came back."""

    document: float  # chrF over all its prose, 0 to 100
    weak: tuple[ParagraphScore, ...]  # paragraphs below PARAGRAPH_THRESHOLD, in order


def chrf(returned: str, source: str) -> float:
    """Compare two texts by their character n-grams; 100 is equality.

    Two texts without a character to compare are equal if both are empty.
    """
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415  loads numpy, which only `verify` needs

    if not returned.strip() or not source.strip():
        return 100.0 if returned.strip() == source.strip() else 0.0
    return float(CHRF().sentence_score(returned, [source]).score)


def back_translation_score(source: str, target: str, back: Engine) -> Score:
    """Translate `target` back and compare its prose with the prose of `source`.

    Args:
        source: The document.
        target: Its translation.
        back: Engine from the target language into the source language.
    """
    wanted = parse_document(source)
    rendered = (render_segment(segment, back.translate) for segment in parse_document(target))
    returned = parse_document("".join(rendered))
    whole = chrf(_prose(returned), _prose(wanted))
    weak = _weak_paragraphs(wanted, returned) if len(wanted) == len(returned) else ()
    return Score(document=round(whole, 2), weak=tuple(weak))


def _prose(segments: list[Segment]) -> str:
    return "\n".join(filter(None, map(segment_prose, segments)))


def _weak_paragraphs(wanted: list[Segment], returned: list[Segment]) -> Iterator[ParagraphScore]:
    for ours, theirs in zip(wanted, returned, strict=True):
        source, back = segment_prose(ours), segment_prose(theirs)
        if source == back or len(source) < PARAGRAPH_CHARACTERS_MIN:
            continue
        score = chrf(back, source)
        if score < PARAGRAPH_THRESHOLD:
            yield ParagraphScore(
                line=ours.line, score=round(score, 2), source=source, returned=back
            )
