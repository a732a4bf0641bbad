"""The step `verify`: is the translation fit to leave without a person having seen it."""

from __future__ import annotations

from dataclasses import asdict

from stepstream import Completed, StepContext, step
from stepstream_worker.judge import judge_of
from stepstream_worker.steps.request import engine_for, read_request, read_text
from stepstream_worker.steps.translate import progress_of
from stepstream_worker.verification import verify_translation

__all__ = ["verify"]


@step("verify")
def verify(ctx: StepContext) -> Completed:
    """Verify what `translate` returned; the outcome is `passed` or `rejected`.

    Raises:
        NotRetryable: The input is invalid, `translate` left no text, or nothing translates back.
        RetryAfter, Retryable: The judge could not do it this time.
        Cancelled: The attempt was cancelled between two checks.
    """
    request = read_request(ctx.input)
    judge = judge_of(request.source, request.target)
    forward = engine_for(request.source, request.target)
    verification = verify_translation(
        request.text,
        read_text(ctx.outputs.get("translate"), "outputs.translate"),
        forward=forward,
        # A model would be asked for each stretch once more; its judge reads the whole at once.
        back=None if judge and not forward.literal else engine_for(request.target, request.source),
        judge=judge,
        target_language=request.target,
        threshold=request.threshold,
        on_check=progress_of(ctx, "check"),
    )
    ctx.progress(1.0, verification.verdict)
    output = asdict(verification) | {"findings": [asdict(one) for one in verification.findings]}
    return Completed(output, outcome=verification.verdict)
