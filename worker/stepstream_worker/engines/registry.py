"""The table of engines and the choice among them.

An engine is added by one row in `_ENGINES`: its name, the pairs that it serves, how to open it, and
what is missing when it serves none. STEPSTREAM_ENGINES names the engine of a pair; without it the
first row that serves the pair is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from stepstream_worker.engines import apertium, llm, opencc
from stepstream_worker.engines.port import Engine
from stepstream_worker.settings import Route, engine_settings, parse_routes

__all__ = ["EngineState", "NoEngineError", "choose", "engine_states", "served_pairs"]

ANY: Final = "any pair"


class NoEngineError(LookupError):
    """No engine serves the pair; its message says which are served and what to do."""


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of one engine here."""

    name: str
    available: bool
    detail: str  # the pairs that it serves, and those that are routed to it
    advice: str  # what to do when it is not available


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One kind of engine."""

    name: str
    serves: Callable[[str, str], bool]
    pairs: Callable[[], list[tuple[str, str]] | None]  # None: any, once it is configured
    open: Callable[[str, str], Engine]  # opens it for one of them
    advice: str


# Earlier rows are preferred.
_ENGINES: Final = (
    _Row(
        name="opencc",
        serves=lambda source, target: (source, target) in opencc.PAIRS,
        pairs=lambda: sorted(opencc.PAIRS),
        open=opencc.open_engine,
        advice="",
    ),
    _Row(
        name="apertium",
        serves=lambda source, target: (source, target) in apertium.pairs(),
        pairs=lambda: sorted(apertium.pairs()),
        open=apertium.open_engine,
        advice="install apertium and the data of a pair, for example apertium-eng-spa",
    ),
    _Row(
        name="llm",
        serves=lambda _source, _target: llm.is_configured(),
        pairs=lambda: None if llm.is_configured() else [],
        open=llm.open_engine,
        advice="set LLM_BASE_URL and LLM_MODEL, and LLM_API_KEY if the endpoint wants one",
    ),
)


def served_pairs() -> list[tuple[str, str]]:
    """List the (source, target) pairs that some engine names, without repeats, in order."""
    return sorted({pair for row in _ENGINES for pair in row.pairs() or ()})


def engine_states() -> list[EngineState]:
    """Say of each engine whether it is here, for `stepstream doctor`."""
    routes = parse_routes(engine_settings().routes)
    return [_state(row, routes) for row in _ENGINES]


def _state(row: _Row, routes: tuple[Route, ...]) -> EngineState:
    pairs = row.pairs()
    served = ANY if pairs is None else ", ".join(f"{one}>{other}" for one, other in pairs)
    routed = ", ".join(_shown(route) for route in routes if route.engine == row.name)
    detail = f"{served or 'no pair'}{f'; routed: {routed}' if routed else ''}"
    available = pairs is None or bool(pairs)
    advice = "" if available else row.advice
    return EngineState(name=row.name, available=available, detail=detail, advice=advice)


def _shown(route: Route) -> str:
    return ">".join(route.pair) if route.pair else "*"


@lru_cache(maxsize=64)
def choose(source: str, target: str) -> Engine:
    """Choose the engine for a pair of languages.

    Args:
        source: Canonical language name, see `normalise_language`.
        target: Likewise.

    Raises:
        NoEngineError: No engine serves the pair, or the one that is routed does not.
    """
    for row in _candidates(source, target):
        if row.serves(source, target):
            return row.open(source, target)
    raise NoEngineError(_refusal(source, target))


def _candidates(source: str, target: str) -> Iterator[_Row]:
    """The row that STEPSTREAM_ENGINES names, else all in order."""
    routes = parse_routes(engine_settings().routes)
    named = [route for route in routes if route.pair == (source, target)]
    named += [route for route in routes if route.pair is None]
    if not named:
        yield from _ENGINES
        return
    yield from (row for row in _ENGINES if row.name == named[0].engine)


def _refusal(source: str, target: str) -> str:
    pairs = ", ".join(f"{one}→{other}" for one, other in served_pairs())
    return (
        f"no translation engine serves {source}→{target}; here are {pairs}; "
        "set source_lang and target_lang to one of them, configure a language model "
        "(LLM_BASE_URL, LLM_MODEL), or start a worker of your own with a step 'translate' that "
        "serves the pair"
    )
