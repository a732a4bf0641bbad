"""Between protobuf messages and plain values; the only place that reads or writes message fields.

A JSON object travels as a google.protobuf.Struct, whose numbers are doubles.
NaN, the infinities and integers beyond 2^53 are refused with the path of the member at fault;
integral numbers come back as int.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct
from google.protobuf.struct_pb2 import Value as JsonValue
from google.protobuf.timestamp_pb2 import Timestamp

from stepstream import types
from stepstream.errors import InvalidTask
from stepstream.v1 import dispatcher_service_pb2 as service_pb2
from stepstream.v1 import operator_service_pb2 as operator_pb2
from stepstream.v1 import task_pb2

__all__ = [
    "DEPTH_MAX",
    "duration_to_seconds",
    "explanation_from_message",
    "fill_payload",
    "frame_from_message",
    "payload_to_value",
    "pipeline_from_message",
    "redriven_from_message",
    "seconds_to_duration",
    "stats_from_message",
    "submitted_from_message",
    "task_from_message",
    "value_to_payload",
    "worker_from_message",
]

DEPTH_MAX = 32  # task.proto, Payload.json; protobuf parsers stop at 100 messages, 3 a level
_EXACT_INT_MAX = 2**53  # beyond it a double skips integers
_DURATION_S_MAX = 315_576_000_000  # google/protobuf/duration.proto


def value_to_payload(value: Any, field: str = "input") -> task_pb2.Payload:
    """Makes the message of a value; see fill_payload."""
    payload = task_pb2.Payload()
    fill_payload(payload, value, field)
    return payload


def fill_payload(payload: task_pb2.Payload, value: Any, field: str = "input") -> None:
    """Writes a value: a dict becomes json, a str text, bytes data, None nothing.

    In its place within a request, a large value is copied once; a payload that is made apart and
    then given to a request is written out and read again.

    Args:
        payload: An empty message.
        value: What to send.
        field: Name that error messages give to the value.

    Raises:
        InvalidTask: a member cannot travel; `field` of the error is its path.
    """
    payload.SetInParent()
    match value:
        case None:
            pass
        case str():
            payload.text = _text(value, field)
        case bytes():
            payload.data = value
        case Mapping():
            payload.json.SetInParent()
            _fill_struct(payload.json, value, f"{field}.json", 1)
        case _:
            kind = type(value).__name__
            raise InvalidTask(f"{field}: {kind} is not a dict, str, bytes or None", field=field)


def payload_to_value(payload: task_pb2.Payload) -> types.Value:
    """Reads the value of a message; an empty one is None."""
    match payload.WhichOneof("kind"):
        case "json":
            return _from_struct(payload.json)
        case "text":
            return payload.text
        case "data":
            return payload.data
        case _:
            return None


def seconds_to_duration(seconds: float, field: str) -> Duration:
    """Makes a Duration, to the nanosecond.

    Raises:
        InvalidTask: seconds is not finite or beyond 10,000 years.
    """
    if not isfinite(seconds) or abs(seconds) > _DURATION_S_MAX:
        raise InvalidTask(f"{field}: {seconds} is not a number of seconds", field=field)
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def duration_to_seconds(duration: Duration) -> float:
    """Reads a Duration as seconds."""
    return duration.seconds + duration.nanos / 1e9


def task_from_message(task: task_pb2.Task) -> types.Task:
    """Reads a task."""
    return types.Task(
        task_id=task.task_id,
        pipeline=task.pipeline,
        state=task.state,
        phase=_word(task_pb2.Phase, task.phase, "PHASE_"),
        step=task.step,
        attempt=task.attempt,
        version=task.version,
        worker=task.worker,
        progress=task.progress,
        progress_note=task.progress_note,
        create_time=_time(task, "create_time"),
        update_time=_time(task, "update_time"),
        due_time=_time(task, "due_time"),
        deadline_time=_time(task, "deadline_time"),
        labels=dict(task.labels),
        input=payload_to_value(task.input),
        outputs={step: payload_to_value(output) for step, output in task.outputs.items()},
        result=payload_to_value(task.result),
        errors=[_error_from_message(error) for error in task.errors],
        revisions=task.revisions,
        cancel_requested=task.cancel_requested,
        reviewer=task.reviewer,
    )


def frame_from_message(
    frame: service_pb2.WatchTaskResponse,
) -> types.Task | types.TaskEvent | types.Gap | None:
    """Reads one frame of a watch; None for a kind that this version does not know."""
    match frame.WhichOneof("frame"):
        case "snapshot":
            return task_from_message(frame.snapshot)
        case "event":
            return _event_from_message(frame.event)
        case "gap":
            return types.Gap(
                first_missing=frame.gap.first_missing, first_available=frame.gap.first_available
            )
        case _:
            return None


def submitted_from_message(answer: service_pb2.SubmitResponse) -> types.Submitted:
    """Reads the answer to Submit."""
    return types.Submitted(
        task_id=answer.task_id,
        execution_mode=_word(task_pb2.ExecutionMode, answer.execution_mode, "EXECUTION_MODE_"),
        durability=_word(task_pb2.Durability, answer.durability, "DURABILITY_"),
        duplicate=answer.duplicate,
        state=answer.state,
    )


def stats_from_message(stats: service_pb2.GetStatsResponse) -> types.Stats:
    """Reads the counts."""
    totals, queue = stats.totals, stats.queue
    return types.Stats(
        parallel_processing=stats.parallel_processing,
        is_running=stats.is_running,
        workers={name: _worker_from_message(worker) for name, worker in stats.workers.items()},
        totals=types.TotalStats(
            processed=totals.processed, failed=totals.failed, current_tasks=totals.current_tasks
        ),
        queue=types.QueueStats(
            pending=queue.pending,
            translating=queue.translating,
            verifying=queue.verifying,
            reviewing=queue.reviewing,
        ),
        states={name: _state_from_message(state) for name, state in stats.states.items()},
        throughput_per_minute=stats.throughput_per_minute,
        worker_utilization=stats.worker_utilization,
        failure_percentage=stats.failure_percentage,
        retries=stats.retries,
        execution_mode=_word(task_pb2.ExecutionMode, stats.execution_mode, "EXECUTION_MODE_"),
        time=_time(stats, "time"),
    )


def explanation_from_message(answer: service_pb2.ExplainTaskResponse) -> types.Explanation:
    """Reads the answer to ExplainTask."""
    return types.Explanation(
        reason=_word(service_pb2.ExplainReason, answer.reason, "EXPLAIN_REASON_"),
        message=answer.message,
        until=_time(answer, "until"),
    )


def worker_from_message(worker: operator_pb2.Worker) -> types.WorkerInfo:
    """Reads a worker."""
    return types.WorkerInfo(
        name=worker.name,
        instance_id=worker.instance_id,
        dispatcher_id=worker.dispatcher_id,
        queues=list(worker.queues),
        step_types=list(worker.step_types),
        max_in_flight=worker.max_in_flight,
        in_flight=worker.in_flight,
        processed=worker.processed,
        failed=worker.failed,
        last_seen_time=_time(worker, "last_seen_time"),
        sdk=worker.sdk,
        draining=worker.draining,
    )


def redriven_from_message(result: operator_pb2.RedriveResult) -> types.RedriveResult:
    """Reads what became of one task of a redrive."""
    return types.RedriveResult(
        task_id=result.task_id, redriven=result.redriven, reason=result.reason
    )


def pipeline_from_message(pipeline: operator_pb2.Pipeline) -> types.Pipeline:
    """Reads a pipeline."""
    steps = [
        types.PipelineStep(
            name=step.name,
            state=step.state,
            kind=step.kind,
            queue=step.queue,
            on=dict(step.on),
            paused=step.paused,
        )
        for step in pipeline.steps
    ]
    return types.Pipeline(name=pipeline.name, version=pipeline.version, steps=steps)


def _event_from_message(event: task_pb2.TaskEvent) -> types.TaskEvent:
    return types.TaskEvent(
        sequence=event.sequence,
        time=_time(event, "time"),
        task_id=event.task_id,
        type=_word(task_pb2.EventType, event.type, "EVENT_TYPE_"),
        state=event.state,
        step=event.step,
        attempt=event.attempt,
        actor=event.actor,
        detail=event.detail,
        message=event.message,
        delay_s=duration_to_seconds(event.delay) if event.HasField("delay") else None,
        progress=event.progress,
    )


def _error_from_message(error: task_pb2.AttemptError) -> types.AttemptError:
    return types.AttemptError(
        attempt=error.attempt,
        worker=error.worker,
        step=error.step,
        code=error.code,
        message=error.message,
        start_time=_time(error, "start_time"),
        end_time=_time(error, "end_time"),
        retryable=error.retryable,
        progress=error.progress,
        note=error.note,
    )


def _worker_from_message(worker: service_pb2.WorkerStats) -> types.WorkerStats:
    return types.WorkerStats(
        processed=worker.processed,
        failed=worker.failed,
        current_tasks=worker.current_tasks,
        is_running=worker.is_running,
        max_in_flight=worker.max_in_flight,
    )


def _state_from_message(state: service_pb2.StateStats) -> types.StateStats:
    age_s = duration_to_seconds(state.oldest_age) if state.HasField("oldest_age") else None
    return types.StateStats(depth=state.depth, oldest_age_s=age_s)


@lru_cache(maxsize=256)
def _word(enum: Any, number: int, prefix: str) -> str:
    """The name of an enum value without its prefix; a value from a newer server is its number."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return str(value.name).removeprefix(prefix) if value else str(number)


def _time(message: Any, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    timestamp: Timestamp = getattr(message, field)
    return timestamp.ToDatetime(UTC)


def _fill_struct(target: Struct, value: Mapping[Any, Any], path: str, depth: int) -> None:
    _check_depth(path, depth)
    for key, member in value.items():
        if not isinstance(key, str):
            raise InvalidTask(f"{path}: the key {key!r} is not a string", field=path)
        _fill_json(target.fields[_text(key, path)], member, f"{path}.{key}", depth + 1)


def _fill_list(
    target: ListValue, items: list[Any] | tuple[Any, ...], path: str, depth: int
) -> None:
    _check_depth(path, depth)
    for index, item in enumerate(items):
        _fill_json(target.values.add(), item, f"{path}[{index}]", depth + 1)


def _fill_json(target: JsonValue, value: Any, path: str, depth: int) -> None:
    match value:
        case None:
            target.null_value = NullValue.NULL_VALUE
        case bool():
            target.bool_value = value
        case str():
            target.string_value = _text(value, path)
        case int() | float():
            target.number_value = _number(value, path)
        case Mapping():
            target.struct_value.SetInParent()
            _fill_struct(target.struct_value, value, path, depth)
        case list() | tuple():
            target.list_value.SetInParent()
            _fill_list(target.list_value, value, path, depth)
        case _:
            raise InvalidTask(f"{path}: {type(value).__name__} is not JSON", field=path)


def _check_depth(path: str, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise InvalidTask(f"{path}: nested deeper than {DEPTH_MAX} levels", field=path)


def _number(value: float, path: str) -> float:
    if isinstance(value, int) and abs(value) > _EXACT_INT_MAX:
        raise InvalidTask(f"{path}: an integer beyond 2^53; send it as a string", field=path)
    if not isfinite(value):
        raise InvalidTask(f"{path}: {value} is not JSON", field=path)
    return value


def _text(value: str, path: str) -> str:
    """Refuses lone surrogates, which UTF-8 has no bytes for."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            message = f"{path}: not text, a lone surrogate at {error.start}"
            raise InvalidTask(message, field=path) from error
    return value


def _from_struct(struct: Struct) -> dict[str, Any]:
    return {key: _from_json(member) for key, member in struct.fields.items()}


def _from_json(value: JsonValue) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return _from_number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _from_struct(value.struct_value)
        case "list_value":
            return [_from_json(item) for item in value.list_value.values]
        case _:
            return None


def _from_number(number: float) -> int | float:
    exact = number.is_integer() and abs(number) <= _EXACT_INT_MAX
    return int(number) if exact else number
