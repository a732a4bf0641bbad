"""Translation of a whole document, paragraph by paragraph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepstream_worker.document import parse_document, render_segment
from stepstream_worker.engines import Engine

__all__ = ["Translation", "translate_document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A translated document."""

    text: str  # the document, its Markdown as in the source
    segments: int  # how many segments were translated


def translate_document(
    text: str, engine: Engine, on_segment: Callable[[int, int], None] | None = None
) -> Translation:
    """Translate a document and keep everything in it that is not prose.

    Args:
        text: Markdown or plain text.
        engine: Translates each stretch of prose.
        on_segment: Called before each segment with how many are done and how many there are; what
            it raises ends the translation.

    Returns:
        The translation; with an engine that changes nothing, its text is `text`.
    """
    segments = parse_document(text)
    translated: list[str] = []
    for done, segment in enumerate(segments):
        if on_segment is not None:
            on_segment(done, len(segments))
        translated.append(render_segment(segment, engine.translate))
    count = sum(segment.translatable for segment in segments)
    return Translation(text="".join(translated), segments=count)
