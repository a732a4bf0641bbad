"""A worker that does what each task's input says; run with `python -m tests.integration.handlers`.

An input is `{"plan": [act, ...]}`: the first attempt at a step does the first act, the second the
second, any later one the last. `{"plans": {step: [act, ...]}}` says so for each step apart.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from stepstream.worker import (
    Cancelled,
    Completed,
    NotRetryable,
    RetryAfter,
    Step,
    StepContext,
    Worker,
    step,
)
from tests.support.journal import note

QUEUES = ("default", "work")


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt does, in the order of the fields."""

    progress: float = 0.0  # reported at the start
    sleep: float = 0.0  # seconds
    dies: Literal["", "exits", "is killed"] = ""  # with its whole process
    error: str = ""  # raises RuntimeError
    not_retryable: str = ""  # raises NotRetryable
    retry_after: float = 0.0  # raises RetryAfter, seconds
    outcome: str = "completed"


def act_of(ctx: StepContext) -> Act:
    """The act of this attempt."""
    assert isinstance(ctx.input, dict)
    plan = ctx.input.get("plans", {}).get(ctx.step) or ctx.input.get("plan", [{}])
    return msgspec.convert(plan[min(ctx.attempt, len(plan)) - 1], Act)


@contextmanager
def journaled(ctx: StepContext) -> Iterator[None]:
    """Notes the start and the end of a handler."""
    how = "completed"
    note("start", task=ctx.task_id, step=ctx.step, attempt=ctx.attempt)
    try:
        yield
    except BaseException as error:
        how = type(error).__name__
        raise
    finally:
        note("end", task=ctx.task_id, step=ctx.step, attempt=ctx.attempt, how=how)


def end(ctx: StepContext, act: Act) -> Completed:
    """Ends an attempt as its act says."""
    if act.dies == "exits":
        os._exit(3)
    if act.dies == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if act.error:
        raise RuntimeError(act.error)
    if act.not_retryable:
        raise NotRetryable(act.not_retryable)
    if act.retry_after:
        raise RetryAfter(act.retry_after, "not yet")
    output = {"step": ctx.step, "attempt": ctx.attempt, "feedback": ctx.feedback or ""}
    return Completed(output, act.outcome)


@step("work")
async def work(ctx: StepContext) -> Completed:
    """Sleeps on the event loop."""
    with journaled(ctx):
        act = act_of(ctx)
        if act.progress:
            ctx.progress(act.progress, "as planned")
        await asyncio.sleep(act.sleep)
        return end(ctx, act)


@step("block")
def block(ctx: StepContext) -> Completed:
    """Sleeps in its thread, where nobody can interrupt it; notices a cancel only then."""
    with journaled(ctx):
        act = act_of(ctx)
        time.sleep(act.sleep)
        if ctx.cancelled:
            raise Cancelled
        return end(ctx, act)


SAME_AS_WORK = [
    Step(name, work.function) for name in ("first", "second", "third", "translate", "verify")
]

if __name__ == "__main__":
    Worker([work, block, *SAME_AS_WORK], queues=QUEUES).run()
