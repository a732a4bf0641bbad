r"""Spans that no translation may touch: code, links, addresses, placeholders, tags.

Every quantifier below is bounded or stops at the character that would start the next candidate, so
that a hostile text costs time in proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

__all__ = ["MASK", "Span", "SpanKind", "find_spans", "mask_spans"]

SpanKind = Literal["code", "url", "email", "placeholder", "tag"]

# Stands for one span in masked text: U+FFFC, the object replacement character.
MASK = "\ufffc"

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"

# An address may hold Chinese characters only right after a separator (/wiki/...), because prose
# often follows an address without a space.
_URL = (
    rf"\b(?:https?|ftp)://(?:[A-Za-z0-9._~:/?#@!$&+,;=%'{{}}-]|(?<=[/=_#-])[{_HAN}]{{1,80}})"
    rf"{{1,2000}}(?<=[A-Za-z0-9/_~=&#%}}{_HAN}-])"
)

# First match wins at a position.
_PATTERNS: tuple[tuple[SpanKind, str], ...] = (
    ("code", r"(?<!`)``(?!`)[^\n]{1,2000}?(?<!`)``(?!`)"),
    ("code", r"(?<!`)`(?!`)[^`\n]{1,2000}`(?!`)"),
    ("url", r"(?<=\]\()[^()\s<>]{1,2000}(?=[)\s])"),
    ("url", _URL),
    ("url", r"\bwww\.[A-Za-z0-9./_~?&=#%-]{1,2000}(?<=[A-Za-z0-9/_~=&#%-])"),
    (
        "email",
        r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
    ),
    ("tag", r"<!--[^<\n]{0,2000}-->"),
    ("tag", r"</?[A-Za-z][A-Za-z0-9:-]{0,40}(?:\s[^<>\n]{0,2000})?/?>"),
    ("placeholder", r"\{\{[^{}\n]{0,100}\}\}|\$?\{[^{}\n]{0,100}\}"),
    ("placeholder", r"%\([^()\n]{1,60}\)[#0+-]?[0-9.]{0,6}[sdifrxXeEgG]"),
    ("placeholder", r"%(?:[1-9]\$)?[0-9.]{0,6}[sdifrxXu@](?![A-Za-z])"),
)
_ANY = re.compile("|".join(f"(?P<p{at}>{pattern})" for at, (_, pattern) in enumerate(_PATTERNS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of text that must come out as it went in."""

    kind: SpanKind  # what it is
    start: int  # offset of its first character
    end: int  # offset behind its last character
    text: str  # the stretch itself


def find_spans(text: str) -> Iterator[Span]:
    """Find what must not be translated, from left to right, without overlaps."""
    for match in _ANY.finditer(text):
        kind = _PATTERNS[int(cast("str", match.lastgroup)[1:])][0]
        yield Span(kind=kind, start=match.start(), end=match.end(), text=match.group())


def mask_spans(text: str) -> str:
    """Replace each span by `MASK`, so that what is left is prose."""
    return _ANY.sub(MASK, text)
