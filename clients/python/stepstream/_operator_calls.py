"""The calls of OperatorService as data, as in `_calls`."""

from collections.abc import Sequence

from stepstream import _convert, types
from stepstream._calls import Call
from stepstream.v1 import operator_service_pb2 as pb2

__all__ = [
    "drain_worker",
    "list_dead_letters",
    "list_pipelines",
    "list_workers",
    "pause_queue",
    "redrive",
    "repair",
    "resume_queue",
    "update_input",
]


def list_workers() -> Call[list[types.WorkerInfo]]:
    """List the workers."""
    return Call(method="ListWorkers", request=pb2.ListWorkersRequest(), read=_read_workers)


def drain_worker(name: str) -> Call[None]:
    """Tell a worker to leave."""
    return Call(method="DrainWorker", request=pb2.DrainWorkerRequest(name=name), read=_read_nothing)


def pause_queue(queue: str) -> Call[None]:
    """Stop handing out from a queue."""
    request = pb2.PauseQueueRequest(queue=queue)
    return Call(method="PauseQueue", request=request, read=_read_nothing)


def resume_queue(queue: str) -> Call[None]:
    """Hand out from a queue again."""
    request = pb2.ResumeQueueRequest(queue=queue)
    return Call(method="ResumeQueue", request=request, read=_read_nothing)


def list_dead_letters(*, page_size: int, page_token: str) -> Call[types.TaskPage]:
    """List failed tasks."""
    request = pb2.ListDeadLettersRequest(page_size=page_size, page_token=page_token)
    return Call(method="ListDeadLetters", request=request, read=_read_page)


def redrive(task_ids: Sequence[str]) -> Call[list[types.RedriveResult]]:
    """Start failed tasks anew."""
    request = pb2.RedriveRequest(task_ids=task_ids)
    return Call(method="Redrive", request=request, read=_read_redriven)


def update_input(task_id: str, value: types.Value, *, version: int) -> Call[types.Task]:
    """Replace the input of a failed task.

    Raises:
        InvalidTask: the value cannot travel.
    """
    request = pb2.UpdateInputRequest(
        task_id=task_id, input=_convert.value_to_payload(value), version=version
    )
    return Call(method="UpdateInput", request=request, read=_read_task)


def list_pipelines() -> Call[list[types.Pipeline]]:
    """List the pipelines."""
    return Call(method="ListPipelines", request=pb2.ListPipelinesRequest(), read=_read_pipelines)


def repair() -> Call[types.Repairs]:
    """Mend what differs from the records."""
    return Call(method="Repair", request=pb2.RepairRequest(), read=_read_repairs)


def _read_nothing(_answer: object) -> None:
    return None


def _read_workers(answer: pb2.ListWorkersResponse) -> list[types.WorkerInfo]:
    return [_convert.worker_from_message(worker) for worker in answer.workers]


def _read_page(answer: pb2.ListDeadLettersResponse) -> types.TaskPage:
    tasks = [_convert.task_from_message(task) for task in answer.tasks]
    return types.TaskPage(tasks=tasks, next_page_token=answer.next_page_token)


def _read_redriven(answer: pb2.RedriveResponse) -> list[types.RedriveResult]:
    return [_convert.redriven_from_message(result) for result in answer.results]


def _read_task(answer: pb2.UpdateInputResponse) -> types.Task:
    return _convert.task_from_message(answer.task)


def _read_pipelines(answer: pb2.ListPipelinesResponse) -> list[types.Pipeline]:
    return [_convert.pipeline_from_message(pipeline) for pipeline in answer.pipelines]


def _read_repairs(answer: pb2.RepairResponse) -> types.Repairs:
    return types.Repairs(
        repaired=dict(answer.repaired),
        tasks=answer.tasks,
        duration_s=_convert.duration_to_seconds(answer.duration),
        counted=answer.counted,
    )
