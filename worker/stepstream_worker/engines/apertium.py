"""Apertium: rule-based translation by a program of this host, one run for each stretch."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from typing import Final

from stepstream.worker import Retryable

__all__ = ["ApertiumEngine", "open_engine", "pairs", "program"]

TIMEOUT_S: Final = 60.0
# Names of languages as Apertium's modes spell them.
_CODES: Final = {
    "en": "eng",
    "es": "spa",
    "fr": "fra",
    "pt": "por",
    "ca": "cat",
    "it": "ita",
    "gl": "glg",
    "eu": "eus",
    "de": "deu",
    "nl": "nld",
    "sv": "swe",
    "da": "dan",
    "nb": "nob",
    "nn": "nno",
}
_NAMES: Final = {code: name for name, code in _CODES.items()}


def program() -> str | None:
    """The path of `apertium`; None when it is not installed."""
    return shutil.which("apertium")


@lru_cache(maxsize=1)
def pairs() -> frozenset[tuple[str, str]]:
    """The (source, target) pairs whose data are installed."""
    path = program()
    if path is None:
        return frozenset()
    listed = subprocess.run([path, "-l"], capture_output=True, text=True, timeout=10, check=False)
    modes = (line.strip().partition("-") for line in listed.stdout.splitlines())
    return frozenset(
        (_NAMES[source], _NAMES[target])
        for source, _, target in modes
        if source in _NAMES and target in _NAMES
    )


class ApertiumEngine:
    """One direction of Apertium."""

    def __init__(self, source: str, target: str) -> None:
        self._mode = f"{_CODES[source]}-{_CODES[target]}"

    @property
    def name(self) -> str:
        """`apertium:` and the mode, such as `apertium:eng-spa`."""
        return f"apertium:{self._mode}"

    @property
    def literal(self) -> bool:
        """See Engine.literal."""
        return False

    def guided(self, feedback: str) -> ApertiumEngine:  # noqa: ARG002 - rules cannot follow
        """See Engine.guided."""
        return self

    def translate(self, text: str) -> str:
        """Translate one stretch; what is blank around it stays as it is.

        Raises:
            Retryable: ENGINE_ERROR, ENGINE_TIMEOUT.
        """
        prose = text.strip()
        if not prose:
            return text
        start = text.index(prose)
        return text[:start] + self._run(prose).strip() + text[start + len(prose) :]

    def _run(self, prose: str) -> str:
        try:
            done = subprocess.run(
                [program() or "apertium", "-u", self._mode],
                input=prose,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            words = f"apertium took longer than {TIMEOUT_S:g} s"
            raise Retryable(words, code="ENGINE_TIMEOUT") from error
        except OSError as error:
            raise Retryable(f"apertium cannot be run: {error}", code="ENGINE_ERROR") from error
        if done.returncode:
            words = f"apertium ended with {done.returncode}: {done.stderr.strip()[:200]}"
            raise Retryable(words, code="ENGINE_ERROR")
        return done.stdout


def open_engine(source: str, target: str) -> ApertiumEngine:
    """Open the engine of a pair of `pairs`."""
    return ApertiumEngine(source, target)
