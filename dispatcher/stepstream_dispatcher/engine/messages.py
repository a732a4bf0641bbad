"""The words that messages between dispatchers begin with."""

from __future__ import annotations

from typing import Final

__all__ = ["CENSUS_WORD", "ORPHAN_WORD", "SPARE_WORD"]

CENSUS_WORD: Final = "census"  # then anything: a mark that a sweep sends to itself
ORPHAN_WORD: Final = "orphan"  # then a lease token of the dispatcher that is told, and the task
SPARE_WORD: Final = "spare"  # then how many workers the dispatcher that is told should send away
