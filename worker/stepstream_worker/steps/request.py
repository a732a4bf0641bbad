"""The input of a translation task, checked once for both steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepstream import NotRetryable
from stepstream_worker.engines import Engine, NoEngineError, choose
from stepstream_worker.languages import normalise_language
from stepstream_worker.score import SCORE_THRESHOLD

__all__ = ["TranslationRequest", "engine_for", "read_request", "read_text"]

_SCORE_MAX = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationRequest:
    """What a translation task asks for."""

    text: str  # the document
    source: str  # canonical language name
    target: str  # canonical language name, another one
    threshold: float  # lowest score that passes verification, 0 to 100


def read_request(payload: Any) -> TranslationRequest:
    """Check the input of a task.

    Args:
        payload: A JSON object with `text`, `source_lang`, `target_lang`; it may hold `threshold`.

    Raises:
        NotRetryable: INVALID_INPUT; the message names the field.
    """
    if not isinstance(payload, Mapping):
        raise _invalid("input must be a JSON object with text, source_lang and target_lang")
    source, target = _language(payload, "source_lang"), _language(payload, "target_lang")
    if source == target:
        raise _invalid(f"target_lang is the same language as source_lang: {source}")
    text = read_text(payload, "input")
    if not text.strip():
        raise _invalid("input.text is empty")
    return TranslationRequest(
        text=text,
        source=source,
        target=target,
        threshold=_threshold(payload),
    )


def read_text(payload: Any, owner: str) -> str:
    """Read the `text` of an object.

    Args:
        payload: The object.
        owner: What the object is called in the message.

    Raises:
        NotRetryable: INVALID_INPUT; the text is missing or not valid Unicode.
    """
    text = payload.get("text") if isinstance(payload, Mapping) else None
    if not isinstance(text, str):
        raise _invalid(f"{owner}.text is missing or is not a string")
    if not _is_unicode(text):
        raise _invalid(f"{owner}.text holds half a surrogate pair, which is not valid Unicode")
    return text


def engine_for(source: str, target: str) -> Engine:
    """Choose the engine of a pair.

    Raises:
        NotRetryable: NO_ENGINE; the message says what to do.
    """
    try:
        return choose(source, target)
    except NoEngineError as error:
        raise NotRetryable(str(error), code="NO_ENGINE") from error


def _language(payload: Mapping[str, Any], field: str) -> str:
    tag = payload.get(field)
    if not isinstance(tag, str):
        raise _invalid(f"input.{field} is missing or is not a string")
    try:
        return normalise_language(tag)
    except ValueError as error:
        raise _invalid(f"input.{field}: {error}") from error


def _threshold(payload: Mapping[str, Any]) -> float:
    value = payload.get("threshold", SCORE_THRESHOLD)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid("input.threshold must be a number from 0 to 100")
    if not 0 <= value <= _SCORE_MAX:
        raise _invalid(f"input.threshold must be a number from 0 to 100, not {value}")
    return float(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _invalid(message: str) -> NotRetryable:
    return NotRetryable(message, code="INVALID_INPUT")
