"""A finding: one thing that a translation got wrong, and where."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXCERPT_CHARACTERS_MAX", "Finding", "excerpt"]

# Enough to recognise a sentence; a finding must not carry a whole document.
EXCERPT_CHARACTERS_MAX = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a reviewer has to look at."""

    check: str  # name of the check that found it
    message: str  # what is wrong, in words
    source: str  # excerpt of the source, empty when there is none
    target: str  # excerpt of the translation, empty when there is none
    line: int  # line in the source, or in the translation for what the source lacks; from 1


def excerpt(text: str) -> str:
    """Shorten a text to what a finding may carry."""
    bare = text.strip()
    if len(bare) <= EXCERPT_CHARACTERS_MAX:
        return bare
    return bare[: EXCERPT_CHARACTERS_MAX - 1] + "\u2026"
