"""Writes what operators read: workers, pipelines, fates of a redrive."""

from __future__ import annotations

from stepstream.errors import StepstreamError
from stepstream.v1 import operator_service_pb2 as api
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.engine.operations import WorkerSight
from stepstream_dispatcher.rpc._convert import timestamp_of_ms

__all__ = ["pipeline_of", "redrive_result", "worker_of"]


def worker_of(sight: WorkerSight) -> api.Worker:
    """Write a worker."""
    return api.Worker(
        name=sight.name,
        instance_id=sight.instance,
        dispatcher_id=sight.dispatcher,
        queues=sight.queues,
        step_types=sight.step_types,
        max_in_flight=sight.max_in_flight,
        in_flight=sight.in_flight,
        processed=sight.processed,
        failed=sight.failed,
        last_seen_time=timestamp_of_ms(sight.seen_ms) if sight.seen_ms else None,
        sdk=sight.sdk,
        draining=sight.draining,
    )


def redrive_result(task_id: str, error: StepstreamError | None) -> api.RedriveResult:
    """Write the fate of one task."""
    reason = error.reason if error else ""
    return api.RedriveResult(task_id=task_id, redriven=error is None, reason=reason)


def pipeline_of(pipeline: Pipeline) -> api.Pipeline:
    """Write a pipeline."""
    steps = [
        api.PipelineStep(
            name=step.name, state=step.state, kind=step.kind, queue=step.queue, on=dict(step.on)
        )
        for step in pipeline.steps
    ]
    return api.Pipeline(name=pipeline.name, version=pipeline.version, steps=steps)
