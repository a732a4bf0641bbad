"""Writes what operators and watchers see: workers, pipelines, results, explanations, tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepstream.errors import StepstreamError
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import operator_service_pb2 as operator
from stepstream_dispatcher.core.explain import Explanation
from stepstream_dispatcher.core.pipeline import Pipeline, Step
from stepstream_dispatcher.engine.operations import KnownWorker
from stepstream_dispatcher.engine.overview import Filter, Look
from stepstream_dispatcher.engine.sweep import Report
from stepstream_dispatcher.rpc._convert import task_of

__all__ = [
    "explain_response",
    "filter_of",
    "pipeline_of",
    "redrive_results",
    "repair_response",
    "watch_tasks_response",
    "worker_of",
]


def filter_of(request: api.WatchTasksRequest) -> Filter:
    """Read which tasks a watch wants."""
    return Filter(
        pipeline=request.pipeline, states=frozenset(request.states), labels=dict(request.labels)
    )


def watch_tasks_response(look: Look) -> api.WatchTasksResponse:
    """Write the latest state of a task."""
    data = {"labels": look.labels} if look.labels else {}
    task = task_of(look.task_id, look.record, data, None, payloads=False)
    return api.WatchTasksResponse(task=task)


def explain_response(explanation: Explanation) -> api.ExplainTaskResponse:
    """Write why a task is not running."""
    until_ms = explanation.until_ms
    return api.ExplainTaskResponse(
        reason=api.ExplainReason.Value(f"EXPLAIN_REASON_{explanation.reason}"),
        message=explanation.message,
        until=_timestamp(until_ms) if until_ms else None,
    )


def worker_of(worker: KnownWorker) -> operator.Worker:
    """Write a worker."""
    return operator.Worker(
        name=worker.name,
        instance_id=worker.instance_id,
        dispatcher_id=worker.dispatcher_id,
        queues=worker.queues,
        step_types=worker.step_types,
        max_in_flight=worker.max_in_flight,
        in_flight=worker.in_flight,
        processed=worker.processed,
        failed=worker.failed,
        last_seen_time=_timestamp(worker.seen_ms) if worker.seen_ms else None,
        sdk=worker.sdk,
        draining=worker.draining,
    )


def pipeline_of(pipeline: Pipeline, paused: Collection[str]) -> operator.Pipeline:
    """Write a pipeline.

    Args:
        paused: Queues that an operator has paused.
    """
    steps = [_step(step, paused=step.queue in paused) for step in pipeline.steps.values()]
    return operator.Pipeline(name=pipeline.name, version=pipeline.version, steps=steps)


def _step(step: Step, *, paused: bool) -> operator.PipelineStep:
    return operator.PipelineStep(
        name=step.name,
        state=step.state,
        kind=step.kind,
        queue=step.queue,
        on=step.on,
        paused=paused,
    )


def redrive_results(
    task_ids: Sequence[str], answers: Sequence[StepstreamError | None]
) -> list[operator.RedriveResult]:
    """Write what became of each task of a redrive."""
    return [
        operator.RedriveResult(
            task_id=task_id, redriven=error is None, reason=error.reason if error else ""
        )
        for task_id, error in zip(task_ids, answers, strict=True)
    ]


def repair_response(report: Report) -> operator.RepairResponse:
    """Write what a sweep has repaired."""
    duration = Duration()
    duration.FromMilliseconds(round(report.took_s * 1000))
    return operator.RepairResponse(
        repaired=report.repaired, tasks=report.tasks, duration=duration, counted=report.counted
    )


def _timestamp(at_ms: int) -> Timestamp:
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)
