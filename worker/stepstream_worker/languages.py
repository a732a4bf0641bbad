"""Language tags: many spellings of one language become one name."""

from __future__ import annotations

import re

__all__ = ["CHARSETS", "normalise_language"]

# How BCP 47 tags that mean the same written language are spelt by other programs, in lower case.
_ALIASES = {
    "zh-cn": "zh-CN",
    "zh-sg": "zh-CN",
    "zh-hans": "zh-CN",
    "zh-hans-cn": "zh-CN",
    "zh-hans-sg": "zh-CN",
    "zh-tw": "zh-TW",
    "zh-hant-tw": "zh-TW",
    "zh-hk": "zh-HK",
    "zh-mo": "zh-HK",
    "zh-hant-hk": "zh-HK",
    "zh-hant-mo": "zh-HK",
    "zh-hant": "zh-Hant",
}

# The national character set that holds the everyday characters of a written language. A character
# outside it is a sign, not a proof, of text in another variant.
CHARSETS = {"zh-CN": "gb2312", "zh-TW": "big5", "zh-HK": "big5", "zh-Hant": "big5"}

_WELL_FORMED = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,3}")


def normalise_language(tag: str) -> str:
    """Give the one name that the engines use for a language tag.

    Args:
        tag: A BCP 47 tag; letter case does not matter and `_` is read as `-`.

    Returns:
        The canonical name of a known Chinese variant, else the tag as it is written.

    Raises:
        ValueError: The tag is not shaped like a language tag.
    """
    spelling = tag.strip().replace("_", "-")
    if not _WELL_FORMED.fullmatch(spelling):
        raise ValueError(f"{tag[:40]!r} is not a language tag such as zh-CN or zh-TW")
    return _ALIASES.get(spelling.lower(), spelling)
