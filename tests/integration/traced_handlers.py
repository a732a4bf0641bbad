"""A worker whose steps answer with their trace context; run as a module.

With STEPSTREAM_TEST_SPANS their handlers make a span of their own, by the API of OpenTelemetry.
"""

from __future__ import annotations

import os
import sys

from stepstream.types import Value
from stepstream.worker import Step, StepContext, Worker, step

SPANS = bool(os.environ.get("STEPSTREAM_TEST_SPANS"))


def answer(ctx: StepContext) -> Value:
    """What a handler can see of its trace, which it logs too."""
    ctx.logger.info("at work")
    current = ""
    if SPANS:
        from opentelemetry import trace  # noqa: PLC0415 - as a user's module would at its top

        found = trace.get_current_span().get_span_context()
        current = f"{found.trace_id:032x}-{found.span_id:016x}"
    return {
        "context": ctx.trace_context,
        "imported": "opentelemetry" in sys.modules,
        "current": current,
    }


@step("work")
async def work(ctx: StepContext) -> Value:
    """On the event loop."""
    return answer(ctx)


@step("block")
def block(ctx: StepContext) -> Value:
    """In a thread."""
    return answer(ctx)


if __name__ == "__main__":
    if SPANS:
        import opentelemetry.trace  # noqa: F401
    others = [Step(name, work.function) for name in ("first", "second", "third")]
    Worker([work, block, *others], queues=("work",)).run()
