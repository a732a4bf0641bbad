"""The worker side of the SDK: functions that run steps, and the process that serves them."""

from stepstream.worker.app import Worker
from stepstream.worker.context import StepContext
from stepstream.worker.outcomes import (
    Cancelled,
    Completed,
    NotRetryable,
    Retryable,
    RetryAfter,
)
from stepstream.worker.registry import RunsIn, Step, find_steps, step

__all__ = [
    "Cancelled",
    "Completed",
    "NotRetryable",
    "RetryAfter",
    "Retryable",
    "RunsIn",
    "Step",
    "StepContext",
    "Worker",
    "find_steps",
    "step",
]
