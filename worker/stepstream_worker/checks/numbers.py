"""The check on numbers, whichever way they are written.

Read as equal: 12345, 12,345 and their full-width forms; 3.5万, 3.5萬 and 35000; 二十三 and 23;
二〇二五 and 2025. A Chinese number counts only when it can be nothing else: two or more characters
that obey the grammar of numbers, because 一 alone is mostly an article and 万一 means *in case*.
Not read: 三五 (three to five), 廿, 半, and fractions in words such as 三分之一.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from stepstream_worker.checks.comparison import Comparison, compare_tokens
from stepstream_worker.checks.finding import Finding
from stepstream_worker.markdown import Line
from stepstream_worker.spans import mask_spans

__all__ = ["check_numbers", "numbers_in"]

_DIGITS = dict(zip("零〇一二三四五六七八九两兩", [0, *range(10), 2, 2], strict=True))
_UNITS = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}

# Full-width digits, full stop, percent and the signs that mean minus; the full-width comma only
# between full-width digits, where it groups, since elsewhere it separates clauses.
_HALF_WIDTH = {0xFF10 + digit: str(digit) for digit in range(10)} | {
    0xFF0E: ".",
    0x2212: "-",
    0xFF0D: "-",
}
_WIDE_GROUP = re.compile("(?<=[\uff10-\uff19])\uff0c(?=[\uff10-\uff19]{3}(?![\uff10-\uff19]))")
# 千 also begins units of measure: 3千克 is three kilograms.
_UNIT = "(?:[万萬亿億]|千(?![克米瓦卡赫帕伏]))"
_ARABIC = re.compile(
    rf"(?<![A-Za-z0-9.])-[0-9]+(?:[.,][0-9]+)*{_UNIT}?|[0-9]+(?:[.,][0-9]+)*{_UNIT}?"
)
_GROUPED = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_CHINESE = re.compile(f"[{''.join(_DIGITS)}{''.join(_UNITS)}{''.join(_MYRIADS)}]+")

# A run of Chinese digits without a unit is read as a number from this length on: a year has four.
_PLAIN_DIGITS_MIN = 4

# Longer runs are no number that a person would write; reading them costs quadratic time.
_NUMBER_CHARACTERS_MAX = 60


def check_numbers(comparison: Comparison) -> Iterator[Finding]:
    """Every number of the source stands in the translation, and no other."""
    return compare_tokens(comparison, "numbers", "number", _line_numbers)


def numbers_in(prose: str) -> Iterator[str]:
    """Read the numbers of a text, each in one spelling.

    Args:
        prose: Text without code, addresses, placeholders and tags.

    Yields:
        Arabic digits without grouping; versions and dates part by part, as they are written.
    """
    half_width = _WIDE_GROUP.sub(",", prose).translate(_HALF_WIDTH)
    yield from (_read_arabic(match.group()) for match in _ARABIC.finditer(half_width))
    without_arabic = _ARABIC.sub(" ", half_width)
    for match in _CHINESE.finditer(without_arabic):
        value = _read_chinese(match.group())
        if value is not None:
            yield str(value)


def _line_numbers(line: Line) -> Iterator[str]:
    if line.kind not in {"blank", "fence", "code"}:
        yield from numbers_in(mask_spans(line.body))


def _read_arabic(token: str) -> str:
    unit = {"千": 1000, **_MYRIADS}.get(token[-1])
    digits = token[:-1] if unit else token
    if _GROUPED.fullmatch(digits):
        digits = digits.replace(",", "")
    if unit is None or not _is_decimal(digits):
        return token if unit else digits
    return format((Decimal(digits) * unit).normalize(), "f")


def _is_decimal(digits: str) -> bool:
    return len(digits) <= _NUMBER_CHARACTERS_MAX and "," not in digits and digits.count(".") <= 1


def _read_chinese(run: str) -> int | None:
    """Read a run of numeral characters; None when it is not surely a number."""
    if not 2 <= len(run) <= _NUMBER_CHARACTERS_MAX:  # noqa: PLR2004  one character is mostly a word
        return None
    if all(character in _DIGITS for character in run):
        plain = "".join(str(_DIGITS[character]) for character in run)
        return int(plain) if len(run) >= _PLAIN_DIGITS_MIN else None
    return _read_positional(run)


def _read_positional(run: str) -> int | None:
    """Read digits with units, such as 三百零八万; None when the grammar is broken."""
    total, section, digit = 0, 0, None
    for at, character in enumerate(run):
        if character in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[character]
        elif character in _UNITS:
            if not digit and (character != "十" or (at and digit is None)):
                return None
            section += (digit or 1) * _UNITS[character]
            digit = None
        else:
            section += digit or 0
            if not section:
                return None
            total += section * _MYRIADS[character]
            section, digit = 0, None
    return total + section + (digit or 0)
