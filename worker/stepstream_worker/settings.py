"""What the environment says to the shipped worker: which engines, and where the model is."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta, Struct

from stepstream.settings import SettingsError, read

__all__ = ["EngineSettings", "Route", "engine_settings", "parse_routes"]

ENGINES: Final = ("opencc", "apertium", "llm")

_ROUTE: Final = re.compile(r"(\*|[A-Za-z0-9-]+>[A-Za-z0-9-]+)=([a-z]+)")


class Route(Struct, frozen=True):
    """Which engine serves a pair."""

    pair: tuple[str, str] | None  # (source, target); None: every other
    engine: str


class EngineSettings(
    Struct,
    frozen=True,
    rename={
        "base_url": "LLM_BASE_URL",
        "api_key": "LLM_API_KEY",
        "model": "LLM_MODEL",
        "timeout_s": "LLM_TIMEOUT",
        "routes": "STEPSTREAM_ENGINES",
    },
):
    """What the engines read."""

    base_url: Annotated[
        str, Meta(pattern=r"^https?://[^\s]+$", description="an http:// or https:// URL")
    ] = ""
    api_key: Annotated[str, Meta(description="a key")] = ""
    model: Annotated[
        str, Meta(pattern=r"^[^\s]{1,200}$", description="the name of a model, without spaces")
    ] = ""
    timeout_s: Annotated[
        float, Meta(ge=0.1, le=3600, description="a number of seconds, 0.1 to 3600")
    ] = 60.0
    routes: Annotated[
        str,
        Meta(
            pattern=rf"^{_ROUTE.pattern}(,{_ROUTE.pattern})*$",
            description="source>target=engine or *=engine, with commas between; an engine is one "
            "of opencc, apertium, llm",
        ),
    ] = ""

    @property
    def has_model(self) -> bool:
        """Whether a language model is configured."""
        return bool(self.base_url and self.model)


def parse_routes(text: str) -> tuple[Route, ...]:
    """Read STEPSTREAM_ENGINES.

    Raises:
        SettingsError: An engine is none of ours.
    """
    routes: list[Route] = []
    for pair, engine in _ROUTE.findall(text):
        if engine not in ENGINES:
            known = ", ".join(ENGINES)
            raise SettingsError(f"STEPSTREAM_ENGINES: {engine!r} is not one of {known}")
        source, _, target = pair.partition(">")
        routes.append(Route(None if pair == "*" else (source, target), engine))
    return tuple(routes)


@lru_cache(maxsize=1)
def engine_settings() -> EngineSettings:
    """Read the environment, once a process.

    Raises:
        SettingsError: One line that names the setting; the key is never shown.
    """
    return check(read(EngineSettings))


def check(settings: EngineSettings) -> EngineSettings:
    """Refuse settings that do not go together.

    Raises:
        SettingsError: A model without an address, or the other way round.
    """
    if bool(settings.base_url) != bool(settings.model):
        missing = "LLM_MODEL" if settings.base_url else "LLM_BASE_URL"
        raise SettingsError(f"{missing}: is missing, and the language model needs it")
    parse_routes(settings.routes)
    return settings
