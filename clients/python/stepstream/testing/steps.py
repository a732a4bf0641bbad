"""One step, run as a worker runs it, without a worker."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from stepstream._convert import payload_to_value, value_to_payload
from stepstream.errors import PayloadTooLarge
from stepstream.types import Value
from stepstream.v1 import worker_service_pb2 as pb
from stepstream.worker._frames import OUTPUT_BYTES_MAX
from stepstream.worker.attempt import Attempt, Why
from stepstream.worker.context import StepContext
from stepstream.worker.outcomes import Completed
from stepstream.worker.registry import Step

__all__ = [
    "RecordingContext",
    "Report",
    "StepRun",
    "run_step",
    "run_step_async",
    "step_context",
]

Handler = Step | Callable[[StepContext], Any]


class Report(NamedTuple):
    """One report of progress."""

    fraction: float  # 0 to 1
    note: str


class RecordingContext(StepContext):
    """The context of an attempt that nobody gave out; `reports` keeps its progress in order."""

    def __init__(self, assignment: pb.Assignment) -> None:
        super().__init__(Attempt(assignment, lambda _: None))
        self.reports: list[Report] = []

    def progress(self, fraction: float, note: str = "") -> None:
        """Keeps the report as a watcher would see it, and every one of them."""
        super().progress(fraction, note)
        self.reports.append(Report(*self._attempt.progress))

    def cancel(self) -> None:
        """From now on `cancelled` is true."""
        self._attempt.cancelled_because = Why.REQUESTED


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRun:
    """How a step ended."""

    output: Value  # as the next step reads it
    outcome: str  # the word by which the pipeline goes on
    reports: list[Report]  # of progress, oldest first


def step_context(
    *,
    input: Value = None,  # noqa: A002 - the word of the protocol
    outputs: Mapping[str, Value] | None = None,
    feedback: str | None = None,
    attempt: int = 1,
    labels: Mapping[str, str] | None = None,
    task_id: str = "task-1",
    pipeline: str = "test",
    step: str = "step",
) -> RecordingContext:
    """Makes a context to call a handler with.

    Values go through their form on the wire, as they do on the way to a worker: integers beyond
    2^53, NaN and what is not JSON are refused, a tuple comes out as a list.

    Args:
        input: The task's input.
        outputs: What earlier steps returned, by step name.
        feedback: A reviewer's words.
        attempt: Number of the attempt, from 1.
        labels: Labels of the task.
        task_id: The task.
        pipeline: Name of its pipeline.
        step: Name of the step.

    Raises:
        InvalidTask: A value cannot travel.
    """
    assignment = pb.Assignment(
        assignment_id=f"{task_id}/{step}/{attempt}",
        lease_token="test",  # noqa: S106 - a lease is no secret
        task_id=task_id,
        pipeline=pipeline,
        step=step,
        attempt=attempt,
        input=value_to_payload(input, "input"),
        feedback=feedback or "",
        labels=labels or {},
    )
    for name, output in (outputs or {}).items():
        assignment.outputs[name].CopyFrom(value_to_payload(output, f"outputs.{name}"))
    return RecordingContext(assignment)


def run_step(handler: Handler, *, context: RecordingContext | None = None, **given: Any) -> StepRun:
    """Runs one attempt at a step to its end; an async one in an event loop of its own.

    Args:
        handler: A step, or its function.
        context: Made by `step_context`, to be looked at when the handler raises; None: made of the
            other arguments.
        given: The arguments of `step_context`.

    Raises:
        Exception: What the handler raises, as it is.
        InvalidTask: The output cannot travel: the attempt would fail with INVALID_OUTPUT.
        PayloadTooLarge: It has more than 1 MiB: the attempt would fail with OUTPUT_TOO_LARGE.
        RuntimeError: The handler is async and a loop runs here: await `run_step_async`.
    """
    ctx = context or _context_for(handler, given)
    result = handler(ctx)
    if inspect.iscoroutine(result):
        if _is_in_loop():
            result.close()
            raise RuntimeError("a loop runs here: use `await run_step_async(...)`")
        result = asyncio.run(result)
    return _ended(ctx, result)


async def run_step_async(
    handler: Handler, *, context: RecordingContext | None = None, **given: Any
) -> StepRun:
    """Runs one attempt at a step to its end on the running loop; like `run_step` otherwise."""
    ctx = context or _context_for(handler, given)
    result = handler(ctx)
    return _ended(ctx, await result if inspect.isawaitable(result) else result)


def _context_for(handler: Handler, given: dict[str, Any]) -> RecordingContext:
    name = handler.name if isinstance(handler, Step) else handler.__name__
    return step_context(**{"step": name, **given})


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _ended(ctx: RecordingContext, value: Value | Completed) -> StepRun:
    completed = value if isinstance(value, Completed) else Completed(value)
    output = value_to_payload(completed.output, "output")
    if (size := output.ByteSize()) > OUTPUT_BYTES_MAX:
        raise PayloadTooLarge(f"the output has {size} bytes, the limit is {OUTPUT_BYTES_MAX}")
    return StepRun(
        output=payload_to_value(output), outcome=completed.outcome, reports=list(ctx.reports)
    )
