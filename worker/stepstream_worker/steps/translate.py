"""The step `translate`: a document in, its translation out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepstream import Cancelled, StepContext, step
from stepstream_worker.steps.request import engine_for, read_request
from stepstream_worker.translation import translate_document

__all__ = ["translate"]


@step("translate")
def translate(ctx: StepContext) -> dict[str, Any]:
    """Translate the task's document paragraph by paragraph.

    A language model follows a reviewer's words; the dictionaries and rules cannot, so the words
    stay in the output for the next reader.

    Raises:
        NotRetryable: The input is invalid, no engine serves the pair, or the model refuses.
        RetryAfter, Retryable: The engine could not do it this time.
        Cancelled: The attempt was cancelled between two paragraphs.
    """
    request = read_request(ctx.input)
    engine = engine_for(request.source, request.target)
    if ctx.feedback:
        engine = engine.guided(ctx.feedback)
    translation = translate_document(request.text, engine, progress_of(ctx, "paragraph"))
    ctx.progress(1.0, "translated")
    return {
        "text": translation.text,
        "engine": engine.name,
        "source_lang": request.source,
        "target_lang": request.target,
        "segments": translation.segments,
        "feedback": ctx.feedback,
    }


def progress_of(ctx: StepContext, noun: str) -> Callable[[int, int], None]:
    """Make a callback that reports whole percents and stops a cancelled attempt."""
    reported = -1

    def report(done: int, total: int) -> None:
        nonlocal reported
        if ctx.cancelled:
            raise Cancelled
        percent = 100 * done // total
        if percent > reported:
            reported = percent
            ctx.progress(done / total, f"{noun} {done + 1} of {total}")

    return report
