"""What every translation engine offers."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Engine"]


class Engine(Protocol):
    """Translates prose from one language into another.

    `translate` gets stretches of prose between the spans that are kept, never markers or code. It
    may be called from several threads at once.
    """

    @property
    def name(self) -> str:
        """What made the translation, as reviewers and reports see it."""
        ...

    @property
    def literal(self) -> bool:
        """Whether it maps characters by dictionaries: at once, without cost, always alike."""
        ...

    def translate(self, text: str) -> str:
        """Translate one stretch of prose."""
        ...

    def guided(self, feedback: str) -> Engine:
        """The engine as it follows a reviewer's words; itself when it cannot."""
        ...
