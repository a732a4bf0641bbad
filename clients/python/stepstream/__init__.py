"""Multi-step tasks over gRPC: the client and the worker SDK.

Importing this package is cheap: each public name loads its module at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stepstream import errors

if TYPE_CHECKING:
    from stepstream.client import AsyncClient
    from stepstream.sync_client import Client
    from stepstream.types import (
        AttemptError,
        Durability,
        EventType,
        ExecutionMode,
        Explanation,
        Gap,
        Phase,
        Pipeline,
        PipelineStep,
        RedriveResult,
        ReviewDecision,
        Stats,
        SubmitItem,
        Submitted,
        Task,
        TaskEvent,
        TaskPage,
        Value,
        WorkerInfo,
    )
    from stepstream.worker import (
        Cancelled,
        Completed,
        NotRetryable,
        Retryable,
        RetryAfter,
        StepContext,
        Worker,
        step,
    )

    __version__: str

__all__ = [
    "AsyncClient",
    "AttemptError",
    "Cancelled",
    "Client",
    "Completed",
    "Durability",
    "EventType",
    "ExecutionMode",
    "Explanation",
    "Gap",
    "NotRetryable",
    "Phase",
    "Pipeline",
    "PipelineStep",
    "RedriveResult",
    "RetryAfter",
    "Retryable",
    "ReviewDecision",
    "Stats",
    "StepContext",
    "SubmitItem",
    "Submitted",
    "Task",
    "TaskEvent",
    "TaskPage",
    "Value",
    "Worker",
    "WorkerInfo",
    "__version__",
    "errors",
    "step",
]

_HOMES = {
    "AsyncClient": "stepstream.client",
    "AttemptError": "stepstream.types",
    "Cancelled": "stepstream.worker",
    "Client": "stepstream.sync_client",
    "Completed": "stepstream.worker",
    "Durability": "stepstream.types",
    "EventType": "stepstream.types",
    "ExecutionMode": "stepstream.types",
    "Explanation": "stepstream.types",
    "Gap": "stepstream.types",
    "NotRetryable": "stepstream.worker",
    "Retryable": "stepstream.worker",
    "Phase": "stepstream.types",
    "Pipeline": "stepstream.types",
    "PipelineStep": "stepstream.types",
    "RedriveResult": "stepstream.types",
    "RetryAfter": "stepstream.worker",
    "ReviewDecision": "stepstream.types",
    "Stats": "stepstream.types",
    "StepContext": "stepstream.worker",
    "SubmitItem": "stepstream.types",
    "Submitted": "stepstream.types",
    "Task": "stepstream.types",
    "TaskEvent": "stepstream.types",
    "TaskPage": "stepstream.types",
    "Value": "stepstream.types",
    "Worker": "stepstream.worker",
    "WorkerInfo": "stepstream.types",
    "step": "stepstream.worker",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes 50 ms

        value: Any = version("stepstream")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
