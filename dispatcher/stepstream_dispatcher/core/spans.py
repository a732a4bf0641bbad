"""What a transition has to show in its task's trace: one span for whatever it ended.

Theory of operation. A task's time is cut into spans that follow each other: it waits in a queue, an
attempt runs, it waits for its due time or for a person. Each of them ends with a transition, and
the record before that transition knows when it began; so whichever dispatcher applies the
transition makes the span, and nothing is kept open meanwhile. All of them are children of the
task's own span, whose id was chosen when the task was accepted and is stored with it, and which the
last transition makes.

The span of an attempt is made by who settled it: by its worker if the worker reported it, and here
if nobody did (the worker is lost, the limit is over, the assignment never arrived). So it is made
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from stepstream.spans import AttributeValue, SpanRecord
from stepstream.trace_context import (
    TRACEPARENT,
    TRACESTATE,
    TraceContext,
    parse_traceparent,
    span_id_of,
)
from stepstream_dispatcher import _telemetry as names
from stepstream_dispatcher.core.record import (
    EventType,
    Stage,
    TaskRecord,
    Transition,
    assignment_id,
)

__all__ = [
    "CARRIER",
    "TaskTrace",
    "carrier_of",
    "spans_of",
    "stored_trace",
    "task_span_name",
    "trace_of",
]

CARRIER: Final = "trace"  # the field of task:data
_PARENT: Final = "parent"  # beside the W3C fields: the task's span is made here, under this span

Attributes = dict[str, AttributeValue]


class TaskTrace(msgspec.Struct, frozen=True, kw_only=True):
    """The trace of one task."""

    context: TraceContext  # of the task's own span, or of the caller's where nobody makes that
    parent_id: str | None = None  # of the task's span; empty: it has none; None: nobody makes it


class _Change(msgspec.Struct, frozen=True, kw_only=True):
    """A transition, with what it was decided from."""

    task_id: str
    record: TaskRecord  # before it
    transition: Transition
    trace: TaskTrace

    @property
    def end_ms(self) -> int:
        return self.transition.event.at_ms


def stored_trace(carrier: Mapping[str, str], trace: TaskTrace) -> dict[str, str]:
    """What is stored with a task whose own span will be made: its context, and who its parent is.

    Args:
        carrier: What came with the submission, checked.
        trace: The trace that was begun for it.
    """
    return {
        **carrier,
        TRACEPARENT: trace.context.traceparent,
        _PARENT: trace.parent_id or "",
    }


def carrier_of(stored: bytes) -> dict[str, str]:
    """What a worker is given of the stored trace: the W3C fields."""
    fields = msgspec.json.decode(stored, type=dict[str, str])
    fields.pop(_PARENT, None)
    return fields


def trace_of(stored: bytes) -> TaskTrace | None:
    """Read a stored trace; None when the task has none."""
    if not stored:
        return None
    try:
        fields = msgspec.json.decode(stored, type=dict[str, str])
    except msgspec.DecodeError:  # somebody wrote there; a trace is not worth a failure
        return None
    context = parse_traceparent(fields.get(TRACEPARENT, ""), fields.get(TRACESTATE, ""))
    return TaskTrace(context=context, parent_id=fields.get(_PARENT)) if context else None


def task_span_name(pipeline: str) -> str:
    """Name the span of a task."""
    return f"{names.TASK} {pipeline.partition('@')[0]}"


def spans_of(
    task_id: str, record: TaskRecord, transition: Transition, trace: TaskTrace
) -> list[SpanRecord]:
    """The spans that a transition ends, none if it ends none.

    Args:
        task_id: The task.
        record: The record that the transition was decided from.
        transition: What was applied to it.
        trace: The task's trace; unsampled ones have no spans.
    """
    if not trace.context.sampled or "stage" not in transition.fields:
        return []
    change = _Change(task_id=task_id, record=record, transition=transition, trace=trace)
    made: list[SpanRecord] = []
    end_stage = _ENDED_STAGES.get(record.stage)
    if end_stage is not None and (span := end_stage(change)):
        made.append(span)
    ends = transition.fields["stage"] == Stage.ENDED and record.stage is not Stage.ENDED
    if ends and trace.parent_id is not None:
        made.append(_task(change))
    return made


def _queued(change: _Change) -> SpanRecord:
    record = change.record
    kind = change.transition.event.type
    outcome = _QUEUE_OUTCOMES.get(kind, "cancelled")
    attributes: Attributes = {names.QUEUE: record.queue, names.OUTCOME: outcome}
    return _wait(change, f"{names.QUEUED} {record.queue}", attributes)


_QUEUE_OUTCOMES: Final = {EventType.LEASED: "leased", EventType.QUEUED: "requeued"}


def _delayed(change: _Change) -> SpanRecord:
    return _wait(change, f"{names.DELAY} {change.record.step}", {})


def _reviewed(change: _Change) -> SpanRecord:
    decided = "reviewer" in change.transition.fields
    event = change.transition.event
    attributes: Attributes = {names.DECISION: event.detail if decided else "cancelled"}
    if decided:
        attributes[names.REVIEWER] = event.actor
    return _wait(change, f"{names.REVIEW} {change.record.step}", attributes)


def _attempt(change: _Change) -> SpanRecord | None:
    """The span of an attempt that its worker did not settle."""
    if change.transition.settles:
        return None
    record, transition = change.record, change.transition
    error = transition.event.detail if transition.tally else ""
    attributes: Attributes = {
        **_about(change),
        names.ATTEMPT: record.attempt,
        names.WORKER: record.worker,
        names.LEASE: record.lease,
        names.OUTCOME: _attempt_outcome(error),
        names.SYSTEM: "stepstream",
        names.OPERATION: names.PROCESS,
    }
    return SpanRecord(
        name=f"{names.PROCESS} {record.step}",
        context=_named(change, assignment_id(change.task_id, record)),
        parent_id=change.trace.context.span_id,
        start_ms=record.leased_ms,
        end_ms=change.end_ms,
        kind="consumer",
        attributes=attributes,
        error=error,
        links=_link(change),
    )


def _attempt_outcome(error: str) -> str:
    if not error:
        return "released"
    return "lost" if error == "WORKER_LOST" else "failed"


def _link(change: _Change) -> tuple[TraceContext, ...]:
    """The attempt before this one."""
    record = change.record
    if record.attempt <= 1:
        return ()
    before = msgspec.structs.replace(record, attempt=record.attempt - 1)
    return (_named(change, assignment_id(change.task_id, before)),)


def _task(change: _Change) -> SpanRecord:
    record, transition = change.record, change.transition
    state = transition.event.state
    return SpanRecord(
        name=task_span_name(record.pipeline),
        context=change.trace.context,
        parent_id=change.trace.parent_id or "",
        start_ms=record.created_ms,
        end_ms=change.end_ms,
        attributes={
            names.TASK_ID: change.task_id,
            names.PIPELINE: record.pipeline.partition("@")[0],
            names.STATE: state,
            names.REVISIONS: record.revisions,
        },
        error=(transition.event.detail or "FAILED") if state == "failed" else "",
    )


def _wait(change: _Change, name: str, attributes: Attributes) -> SpanRecord:
    """A span from the record's latest transition, by which it began to wait, to this one."""
    start_ms = change.record.updated_ms
    return SpanRecord(
        name=name,
        context=_named(change, f"{change.task_id}/{change.record.version}"),
        parent_id=change.trace.context.span_id,
        start_ms=start_ms,
        end_ms=change.end_ms,
        attributes={
            **_about(change),
            **attributes,
            names.WAIT_MS: max(0, change.end_ms - start_ms),
        },
    )


def _about(change: _Change) -> Attributes:
    return {
        names.TASK_ID: change.task_id,
        names.PIPELINE: change.record.pipeline.partition("@")[0],
        names.STEP: change.record.step,
    }


def _named(change: _Change, name: str) -> TraceContext:
    """The context of the span that has this name in the task's trace."""
    return msgspec.structs.replace(change.trace.context, span_id=span_id_of(name))


_ENDED_STAGES: Final[Mapping[Stage, Callable[[_Change], SpanRecord | None]]] = {
    Stage.QUEUED: _queued,
    Stage.LEASED: _attempt,
    Stage.DELAYED: _delayed,
    Stage.WAITING: _reviewed,
}
