"""The table of engines and the choice among them.

An engine is added by one row in `_ENGINES`: the pairs it serves and how to open it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

from stepstream_worker.engines import opencc
from stepstream_worker.engines.port import Engine

__all__ = ["NoEngineError", "choose", "served_pairs"]


class NoEngineError(LookupError):
    """No engine serves the pair; its message says which are served and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One kind of engine."""

    pairs: Collection[tuple[str, str]]  # (source, target) it serves
    open: Callable[[str, str], Engine]  # opens it for one of them


# Earlier rows are preferred.
_ENGINES: tuple[_Row, ...] = (_Row(pairs=opencc.PAIRS.keys(), open=opencc.open_engine),)


def served_pairs() -> list[tuple[str, str]]:
    """List the (source, target) pairs that some engine serves, without repeats, in order."""
    return sorted({pair for row in _ENGINES for pair in row.pairs})


@lru_cache(maxsize=64)
def choose(source: str, target: str) -> Engine:
    """Choose the engine for a pair of languages.

    Args:
        source: Canonical language name, see `normalise_language`.
        target: Likewise.

    Raises:
        NoEngineError: No engine serves the pair.
    """
    for row in _ENGINES:
        if (source, target) in row.pairs:
            return row.open(source, target)
    raise NoEngineError(_refusal(source, target))


def _refusal(source: str, target: str) -> str:
    pairs = ", ".join(f"{one}→{other}" for one, other in served_pairs())
    return (
        f"no translation engine serves {source}→{target}; this release serves {pairs}; "
        "set source_lang and target_lang to one of them, or start a worker of your own "
        "with a step 'translate' that serves the pair"
    )
