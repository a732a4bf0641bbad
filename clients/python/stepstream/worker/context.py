"""What a handler is given: the step to run and the way to talk about it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import structlog

from stepstream._convert import payload_to_value
from stepstream.trace_context import trace_fields
from stepstream.types import Value
from stepstream.worker.attempt import Attempt

__all__ = ["StepContext"]


class StepContext:
    """One attempt at one step. Values are read from the wire at their first use."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._assignment = attempt.assignment

    @property
    def task_id(self) -> str:
        """The task."""
        return self._assignment.task_id

    @property
    def pipeline(self) -> str:
        """Name of the task's pipeline."""
        return self._assignment.pipeline

    @property
    def step(self) -> str:
        """Name of the step."""
        return self._assignment.step

    @property
    def attempt(self) -> int:
        """Number of this attempt at the step, from 1; it only grows, so it can fence."""
        return self._assignment.attempt

    @property
    def assignment_id(self) -> str:
        """Names this attempt: task, step and attempt number."""
        return self._assignment.assignment_id

    @property
    def idempotency_key(self) -> str:
        """Names the step of the task, the same in every attempt: `task_id/step`."""
        return f"{self._assignment.task_id}/{self._assignment.step}"

    @property
    def feedback(self) -> str | None:
        """A reviewer's words when the step is done again, else None."""
        return self._assignment.feedback or None

    @property
    def cancelled(self) -> bool:
        """Whether the handler is to stop; thread safe. Then raise `Cancelled`."""
        return self._attempt.cancelled_because is not None

    @cached_property
    def input(self) -> Value:
        """The task's input."""
        return payload_to_value(self._assignment.input)

    @cached_property
    def outputs(self) -> dict[str, Value]:
        """What earlier steps returned, by step name."""
        return {name: payload_to_value(output) for name, output in self._assignment.outputs.items()}

    @cached_property
    def labels(self) -> dict[str, str]:
        """Labels of the task."""
        return dict(self._assignment.labels)

    @cached_property
    def trace_context(self) -> dict[str, str]:
        """W3C headers (traceparent, tracestate, baggage) for calls that belong to this attempt."""
        return dict(self._attempt.trace_context)

    @cached_property
    def logger(self) -> Any:
        """A structlog logger that adds task_id, step, attempt and trace_id to each line."""
        return structlog.get_logger("stepstream.step").bind(
            task_id=self.task_id,
            step=self.step,
            attempt=self.attempt,
            **trace_fields(self._attempt.trace_context),
        )

    def progress(self, fraction: float, note: str = "") -> None:
        """Says how far the attempt is; thread safe, and cheap enough for a loop.

        Watchers see the latest at most four times a second.

        Args:
            fraction: 0 to 1; what lies outside is moved to the nearer end.
            note: Words for a person; cut at 64 bytes of UTF-8.
        """
        self._attempt.report_progress(fraction, note)
