"""Names that a shell completes: asked of the dispatcher, briefly; none when it is silent."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import stepstream
from stepstream import errors
from stepstream.settings import SettingsError

if TYPE_CHECKING:
    from stepstream import Client

__all__ = ["complete_queue", "complete_state", "complete_task", "complete_worker"]

_TIMEOUT_S = 1.0
_TASKS = 50  # the latest
_STATES = (
    "scheduled",
    "pending",
    "translating",
    "llm_verification",
    "human_review",
    "done",
    "failed",
    "cancelled",
)


def complete_state(incomplete: str) -> list[str]:
    """The states of the shipped pipeline."""
    return _starting(_STATES, incomplete)


def complete_task(incomplete: str) -> list[str]:
    """The ids of the latest tasks."""
    return _asked(_task_ids, incomplete)


def complete_worker(incomplete: str) -> list[str]:
    """The names of the workers."""
    return _asked(_worker_names, incomplete)


def complete_queue(incomplete: str) -> list[str]:
    """The names of the queues."""
    return _asked(_queue_names, incomplete)


def _task_ids(client: "Client") -> Iterator[str]:
    return (task.task_id for task in client.list(page_size=_TASKS).tasks)


def _worker_names(client: "Client") -> Iterator[str]:
    return (worker.name for worker in client.operator.list_workers())


def _queue_names(client: "Client") -> Iterator[str]:
    pipelines = client.operator.list_pipelines()
    return (step.queue for pipeline in pipelines for step in pipeline.steps if step.queue)


def _asked(names: Callable[["Client"], Iterable[str]], incomplete: str) -> list[str]:
    try:
        with stepstream.Client(timeout_s=_TIMEOUT_S, retry_s=0.0) as client:
            return _starting(names(client), incomplete)
    except (errors.StepstreamError, SettingsError, TimeoutError):
        return []


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
