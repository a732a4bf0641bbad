"""The one place that reads and writes protobuf fields of tasks: requests in, resources out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from stepstream.errors import InvalidTask, PayloadTooLarge, StepstreamError
from stepstream.v1 import dispatcher_service_pb2 as api
from stepstream.v1 import task_pb2 as pb
from stepstream_dispatcher.core.admission import Submission
from stepstream_dispatcher.core.facts import Reviewed
from stepstream_dispatcher.core.lifecycle import AttemptFailure, phase_of
from stepstream_dispatcher.core.pipeline import Pipeline
from stepstream_dispatcher.core.record import Event, EventType, TaskRecord
from stepstream_dispatcher.engine.desk import Accepted
from stepstream_dispatcher.engine.stats import Stats
from stepstream_dispatcher.engine.watch import GapFrame, SnapshotFrame, WatchFrame
from stepstream_dispatcher.rpc.status import item_error

__all__ = [
    "duration_of_ms",
    "ms_of",
    "reviewed_of",
    "stats_response",
    "submission_of",
    "submit_response",
    "submit_results",
    "task_of",
    "watch_response",
]

TEXT_MAX: Final = {"reason": 256, "reviewer": 64, "feedback": 4096}
DECISIONS: Final = {1: "approved", 2: "edited", 3: "rejected"}

_PHASES: Final = {name.removeprefix("PHASE_"): value for name, value in pb.Phase.items()}
_MODES: Final = {
    name.removeprefix("EXECUTION_MODE_"): value for name, value in pb.ExecutionMode.items()
}
_DURABILITIES: Final = {
    name.removeprefix("DURABILITY_"): value for name, value in pb.Durability.items()
}
_failure_decoder: Final = msgspec.msgpack.Decoder(AttemptFailure)


# --- in ------------------------------------------------------------------------------------------


def submission_of(request: api.SubmitRequest, trace: Mapping[str, str]) -> Submission:
    """Read a submission.

    Args:
        request: What was sent.
        trace: Trace context that came with the call, checked.

    Raises:
        InvalidTask: A field can't be served.
    """
    return Submission(
        pipeline=request.pipeline,
        input=_serialized(request.input) if request.HasField("input") else b"",
        request_id=request.request_id,
        delay_ms=ms_of(request.delay, "delay") if request.HasField("delay") else 0,
        deadline_ms=ms_of(request.deadline, "deadline") if request.HasField("deadline") else None,
        labels=dict(request.labels) if request.labels else {},
        trace=trace,
        require_durable=request.require_durable,
        **(_overrides(request.retry) if request.HasField("retry") else {}),
    )


def _serialized(payload: pb.Payload) -> bytes:
    """The same bytes in every process, for the hash of the input; else keys have no order."""
    return payload.SerializeToString(deterministic=True)


def _overrides(retry: api.RetryOverride) -> dict[str, int]:
    return {
        "max_retries": _max_retries(retry),
        "initial_delay_ms": _override(retry, "initial_delay"),
        "timeout_ms": _override(retry, "timeout"),
    }


def _max_retries(retry: api.RetryOverride) -> int:
    if not retry.HasField("max_retries"):
        return -1
    return retry.max_retries if retry.max_retries >= 0 else -2  # admission refuses it


def _override(retry: api.RetryOverride, name: str) -> int:
    if not retry.HasField(name):  # type: ignore[arg-type]
        return -1
    value = ms_of(getattr(retry, name), f"retry.{name}")
    return value if value > 0 else -2  # admission refuses it, with the field


def ms_of(duration: Duration, field: str) -> int:
    """Read a duration in whole milliseconds.

    Raises:
        InvalidTask: Its nanoseconds are out of range or of the other sign.
    """
    if abs(duration.nanos) >= 10**9 or duration.seconds * duration.nanos < 0:
        raise InvalidTask(f"{field} is not a duration", field=field)
    return duration.seconds * 1000 + duration.nanos // 1_000_000


def reviewed_of(request: api.DecideReviewRequest, payload_bytes_max: int) -> Reviewed:
    """Read a decision on a review.

    Raises:
        InvalidTask: With the field at fault.
    """
    decision = DECISIONS.get(request.decision)
    if decision is None:
        raise InvalidTask("decision must be APPROVED, EDITED or REJECTED", field="decision")
    edited = request.HasField("output")
    if edited != (decision == "edited"):
        raise InvalidTask("output is required with EDITED and only then", field="output")
    if decision == "rejected" and not request.feedback:
        raise InvalidTask("feedback is required with REJECTED", field="feedback")
    if not request.reviewer:
        raise InvalidTask("reviewer is required", field="reviewer")
    if request.version < 0:
        raise InvalidTask("version must not be negative", field="version")
    output = request.output.SerializeToString() if edited else b""
    if len(output) > payload_bytes_max:
        raise PayloadTooLarge(f"output is over {payload_bytes_max} bytes", field="output")
    return Reviewed(
        decision=decision,
        reviewer=short_text(request.reviewer, "reviewer"),
        output=output,
        feedback=short_text(request.feedback, "feedback"),
        seen_version=request.version,
    )


def short_text(value: str, field: str) -> str:
    """Check the length of a text in bytes.

    Raises:
        InvalidTask: It is too long.
    """
    if len(value.encode()) > TEXT_MAX[field]:
        raise InvalidTask(f"{field} must have at most {TEXT_MAX[field]} bytes", field=field)
    return value


# --- out -----------------------------------------------------------------------------------------


def submit_response(accepted: Accepted) -> api.SubmitResponse:
    """Write what was accepted."""
    response = api.SubmitResponse()
    _fill_accepted(response, accepted)
    return response


def submit_results(answers: Iterable[Accepted | StepstreamError]) -> api.SubmitBatchResponse:
    """Write what became of each task of a batch."""
    response = api.SubmitBatchResponse()
    for answer in answers:
        result = response.results.add()
        if isinstance(answer, StepstreamError):
            result.error.CopyFrom(item_error(answer))
        else:
            _fill_accepted(result.accepted, answer)
    return response


def _fill_accepted(response: api.SubmitResponse, accepted: Accepted) -> None:
    """Set one field after another, which takes a third of the time of naming them at once."""
    response.task_id = accepted.task_id
    response.execution_mode = _MODES[accepted.home.mode]
    response.durability = _DURABILITIES[accepted.home.durability]
    response.duplicate = accepted.duplicate
    response.state = accepted.state


def task_of(
    task_id: str,
    record: TaskRecord,
    data: Mapping[str, bytes],
    pipeline: Pipeline | None,
    *,
    payloads: bool,
) -> pb.Task:
    """Write a task; the payloads where asked for."""
    task = pb.Task(
        task_id=task_id,
        pipeline=record.pipeline.partition("@")[0],
        state=record.state,
        phase=_PHASES[phase_of(record)],
        step=record.step,
        attempt=record.attempt,
        version=record.version,
        worker=record.worker,
        progress=record.progress,
        progress_note=record.note,
        create_time=_timestamp(record.created_ms),
        update_time=_timestamp(record.updated_ms),
        due_time=_timestamp(record.due_ms) if record.due_ms else None,
        labels=_labels(data),
        revisions=record.revisions,
        cancel_requested=bool(record.cancel) and not record.terminal,
        reviewer=record.reviewer,
        deadline_time=_timestamp(record.deadline_ms) if record.deadline_ms else None,
    )
    if payloads:
        _add_payloads(task, data, pipeline)
    return task


def _labels(data: Mapping[str, bytes]) -> dict[str, str]:
    return msgspec.json.decode(data["labels"], type=dict[str, str]) if "labels" in data else {}


def _add_payloads(task: pb.Task, data: Mapping[str, bytes], pipeline: Pipeline | None) -> None:
    task.input.ParseFromString(data.get("input", b""))
    for field, value in data.items():
        kind, _, name = field.partition(".")
        if kind == "output":
            task.outputs[name].ParseFromString(value)
    failures = [_failure_decoder.decode(v) for k, v in data.items() if k.startswith("error.")]
    task.errors.extend(map(_attempt_error, sorted(failures, key=lambda one: one.ended_ms)))
    if task.state == "done" and pipeline is not None:
        source = next((step for step in pipeline.result if step in task.outputs), None)
        if source is not None:
            task.result.CopyFrom(task.outputs[source])


def _attempt_error(failure: AttemptFailure) -> pb.AttemptError:
    return pb.AttemptError(
        attempt=failure.attempt,
        worker=failure.worker,
        step=failure.step,
        code=failure.code,
        message=failure.message,
        start_time=_timestamp(failure.started_ms),
        end_time=_timestamp(failure.ended_ms),
        retryable=failure.retryable,
        progress=failure.progress,
        note=failure.note,
    )


def event_of(task_id: str, event: Event) -> pb.TaskEvent:
    """Write an event."""
    return pb.TaskEvent(
        sequence=event.sequence,
        time=_timestamp(event.at_ms),
        task_id=task_id,
        type=event.type.value,  # type: ignore[arg-type]
        state=event.state,
        step=event.step,
        attempt=event.attempt,
        actor=event.actor,
        detail=event.detail,
        message=event.message,
        delay=duration_of_ms(event.delay_ms) if event.delay_ms else None,
        progress=event.progress if event.type is EventType.PROGRESS else 0.0,
    )


def watch_response(task_id: str, frame: WatchFrame) -> api.WatchTaskResponse:
    """Write one frame of a watch."""
    if isinstance(frame, SnapshotFrame):
        task = task_of(task_id, frame.record, frame.data, None, payloads=False)
        return api.WatchTaskResponse(snapshot=task)
    if isinstance(frame, GapFrame):
        gap = api.Gap(first_missing=frame.first_missing, first_available=frame.first_available)
        return api.WatchTaskResponse(gap=gap)
    return api.WatchTaskResponse(event=event_of(task_id, frame))


def stats_response(stats: Stats, ages_ms: Mapping[str, int], now_ms: int) -> api.GetStatsResponse:
    """Write the counts.

    Args:
        ages_ms: By state, how long its oldest task has been in it, where known.
    """
    states = {
        state: api.StateStats(
            depth=depth,
            oldest_age=duration_of_ms(ages_ms[state]) if state in ages_ms else None,
        )
        for state, depth in stats.states.items()
    }
    workers = {
        name: api.WorkerStats(
            processed=worker.processed,
            failed=worker.failed,
            current_tasks=worker.current_tasks,
            is_running=worker.is_running,
            max_in_flight=worker.max_in_flight,
        )
        for name, worker in stats.workers.items()
    }
    return api.GetStatsResponse(
        parallel_processing=stats.parallel_processing,
        is_running=stats.is_running,
        workers=workers,
        totals=api.TotalStats(
            processed=stats.totals.processed,
            failed=stats.totals.failed,
            current_tasks=stats.totals.current_tasks,
        ),
        queue=api.QueueStats(
            pending=stats.queue.pending,
            translating=stats.queue.translating,
            verifying=stats.queue.verifying,
            reviewing=stats.queue.reviewing,
        ),
        states=states,
        throughput_per_minute=stats.throughput_per_minute,
        worker_utilization=stats.worker_utilization,
        failure_percentage=stats.failure_percentage,
        retries=stats.retries,
        execution_mode=_MODES[stats.mode],
        time=_timestamp(now_ms),
    )


def duration_of_ms(value_ms: int) -> Duration:
    """Write milliseconds."""
    return Duration(seconds=value_ms // 1000, nanos=value_ms % 1000 * 1_000_000)


def _timestamp(at_ms: int) -> Timestamp:
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)
