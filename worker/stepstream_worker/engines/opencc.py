"""OpenCC: conversion between the Chinese of the mainland, of Taiwan and of Hong Kong.

It replaces words and characters by the dictionaries that its wheel carries; it does not read
sentences.
"""

from __future__ import annotations

from functools import lru_cache

import opencc

__all__ = ["PAIRS", "OpenCCEngine", "open_engine"]

# (source, target) → OpenCC configurations, applied in order. Those that end in p change vocabulary
# too. Between Taiwan and Hong Kong there is no dictionary of words; the way through simplified
# Chinese has one for each half, at the price of what simplified Chinese does not tell apart.
PAIRS: dict[tuple[str, str], tuple[str, ...]] = {
    ("zh-CN", "zh-TW"): ("s2twp",),
    ("zh-CN", "zh-HK"): ("s2hkp",),
    ("zh-CN", "zh-Hant"): ("s2t",),
    ("zh-TW", "zh-CN"): ("tw2sp",),
    ("zh-TW", "zh-HK"): ("tw2sp", "s2hkp"),
    ("zh-TW", "zh-Hant"): ("tw2t",),
    ("zh-HK", "zh-CN"): ("hk2sp",),
    ("zh-HK", "zh-TW"): ("hk2sp", "s2twp"),
    ("zh-HK", "zh-Hant"): ("hk2t",),
    ("zh-Hant", "zh-CN"): ("t2s",),
    ("zh-Hant", "zh-TW"): ("t2tw",),
    ("zh-Hant", "zh-HK"): ("t2hk",),
}


class OpenCCEngine:
    """One direction of OpenCC."""

    def __init__(self, *configurations: str) -> None:
        self._converters = tuple(_open_converter(name) for name in configurations)
        self._name = "opencc:" + "+".join(configurations)

    @property
    def name(self) -> str:
        """`opencc:` and the configurations, such as `opencc:s2twp`."""
        return self._name

    @property
    def literal(self) -> bool:
        """See Engine.literal."""
        return True

    def guided(self, feedback: str) -> OpenCCEngine:  # noqa: ARG002 - dictionaries cannot follow
        """See Engine.guided."""
        return self

    def translate(self, text: str) -> str:
        """Convert a text; time is linear in its length."""
        # The library ends a text at its first NUL, so what lies between them is given to it singly.
        return "\0".join(map(self._convert, text.split("\0")))

    def _convert(self, text: str) -> str:
        for converter in self._converters:
            text = converter.convert(text)
        return text


def open_engine(source: str, target: str) -> OpenCCEngine:
    """Open the engine of a pair.

    Raises:
        KeyError: The pair is not in `PAIRS`.
    """
    return OpenCCEngine(*PAIRS[source, target])


@lru_cache(maxsize=32)
def _open_converter(configuration: str) -> opencc.OpenCC:
    """Load a configuration once a process; converting changes nothing in its dictionaries."""
    return opencc.OpenCC(configuration)
